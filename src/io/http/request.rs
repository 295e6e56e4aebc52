//! The head of an HTTP request: what is asked for, or why that is refused. Bodies are not read.

use std::fmt::Write;

/// The longest head, the empty line at its end included.
pub const MOST_BYTES: usize = 8 * 1024;
/// The most header fields.
const MOST_FIELDS: usize = 64;

/// A request that can be answered: GET, or HEAD for the same without a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The path, without the query.
    pub path: String,
    /// The field `Accept` in lower case; empty if there is none.
    pub accept: String,
    /// The caller wants no body.
    pub is_head: bool,
}

/// What has come of a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// More must come.
    Partial,
    /// All of it.
    Whole(Request),
    /// It cannot be answered.
    Refused(Answer),
}

/// An answer, as its caller will read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: &'static str,
    content_type: &'static str,
    /// Further fields, each with the end of its line.
    fields: &'static str,
    body: String,
}

impl Answer {
    /// A document of this type.
    pub fn document(content_type: &'static str, body: String) -> Self {
        Self { status: "200 OK", content_type, fields: "", body }
    }

    /// A line for people, with the status of a service that is not there now.
    pub fn unavailable(reason: &str) -> Self {
        Self::text("503 Service Unavailable", reason)
    }

    /// There is nothing at the path; `paths` says where something is.
    pub fn not_found(paths: &str) -> Self {
        Self::text("404 Not Found", &format!("there is nothing here; try {paths}"))
    }

    fn text(status: &'static str, line: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", fields: "", body: format!("{line}\n") }
    }

    /// The bytes: each connection carries one answer.
    pub fn to_bytes(&self, is_head: bool) -> Vec<u8> {
        let mut text = String::with_capacity(256 + self.body.len());
        let Self { status, content_type, fields, body } = self;
        let length = body.len();
        let written = write!(
            text,
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n{fields}\r\n"
        );
        written.expect("text can be written into a string");
        if !is_head {
            text.push_str(body);
        }
        text.into_bytes()
    }
}

/// Reads what has come of a head.
pub fn parse(bytes: &[u8]) -> Head {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    match head.parse(bytes) {
        Ok(httparse::Status::Partial) if bytes.len() < MOST_BYTES => return Head::Partial,
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            let line = format!("a request has at most {MOST_BYTES} bytes and {MOST_FIELDS} fields");
            return Head::Refused(Answer::text("431 Request Header Fields Too Large", &line));
        }
        Err(error) => return Head::Refused(Answer::text("400 Bad Request", &format!("this is no request: {error}"))),
    }
    let (Some(method), Some(target)) = (head.method, head.path) else {
        return Head::Refused(Answer::text("400 Bad Request", "this is no request"));
    };
    if !["GET", "HEAD"].contains(&method) {
        let refusal = Answer::text("405 Method Not Allowed", "only GET and HEAD: nothing can be changed here");
        return Head::Refused(Answer { fields: "Allow: GET, HEAD\r\n", ..refusal });
    }
    let accept = head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("accept"));
    let accept: Vec<_> = accept.map(|field| String::from_utf8_lossy(field.value).to_ascii_lowercase()).collect();
    Head::Whole(Request { path: path_of(target).to_owned(), accept: accept.join(","), is_head: method == "HEAD" })
}

/// The path of a request target, which a proxy may send with its scheme and host.
fn path_of(target: &str) -> &str {
    let absolute = target.strip_prefix("http://").map(|rest| rest.find('/').map_or("/", |at| &rest[at..]));
    let path = absolute.unwrap_or(target);
    path.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(head: &Head) -> &'static str {
        match head {
            Head::Partial => "partial",
            Head::Whole(_) => "whole",
            Head::Refused(answer) => answer.status.split(' ').next().unwrap(),
        }
    }

    #[test]
    fn a_head_is_whole_at_its_empty_line_and_only_then() {
        let text = b"GET /metrics?name=x HTTP/1.1\r\nHost: a\r\naccept: text/Plain\r\nAccept: b\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), Head::Partial, "{end}");
        }
        let request = Request { path: "/metrics".into(), accept: "text/plain,b".into(), is_head: false };
        assert_eq!(parse(text), Head::Whole(request));
        for (target, path) in [("http://host:1/status.json", "/status.json"), ("http://host", "/"), ("*", "*")] {
            let Head::Whole(request) = parse(format!("HEAD {target} HTTP/1.0\r\n\r\n").as_bytes()) else { panic!() };
            assert_eq!((&*request.path, request.is_head), (path, true));
        }
    }

    #[test]
    fn what_cannot_be_answered_is_refused_with_a_status_that_says_why() {
        for (text, expected) in [
            ("POST / HTTP/1.1\r\n\r\n", "405"),
            ("get / HTTP/1.1\r\n\r\n", "405"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
            ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}", "400"),
            ("GET  HTTP/1.1\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nno field\r\n\r\n", "400"),
        ] {
            assert_eq!(status(&parse(text.as_bytes())), expected, "{text:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(MOST_BYTES));
        assert_eq!(status(&parse(&long.as_bytes()[..MOST_BYTES - 1])), "partial");
        assert_eq!(status(&parse(&long.as_bytes()[..MOST_BYTES])), "431");
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MOST_FIELDS + 1));
        assert_eq!(status(&parse(many.as_bytes())), "431");
        let Head::Refused(answer) = parse(b"DELETE / HTTP/1.1\r\n\r\n") else { panic!() };
        let bytes = String::from_utf8(answer.to_bytes(false)).unwrap();
        assert!(bytes.contains("\r\nAllow: GET, HEAD\r\n\r\nonly GET"), "{bytes}");
    }

    #[test]
    fn an_answer_says_how_long_its_body_is_also_without_it() {
        let answer = Answer::document("application/json", "{}\n".into());
        let whole = String::from_utf8(answer.to_bytes(false)).unwrap();
        assert!(
            whole.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n"),
            "{whole}"
        );
        assert!(whole.ends_with("\r\n\r\n{}\n"));
        assert_eq!(whole.strip_suffix("{}\n").unwrap().as_bytes(), answer.to_bytes(true));
    }
}
