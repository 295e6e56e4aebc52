//! A session with a PostgreSQL server over its unix socket, which works across network namespaces.
//!
//! Only the simple query protocol (PostgreSQL documentation, chapter 55): no password, no TLS, values as text. Waiting
//! for a reply blocks in one `read`, so a measured time is the server's.

use std::{
    io::{self, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

/// Protocol version 3.0.
const VERSION: i32 = 196_608;
/// The longest message that is accepted.
const LONGEST: usize = 64 << 20;

/// One row: its values as text, `None` for null.
pub type Row = Vec<Option<String>>;

/// A session.
#[derive(Debug)]
pub struct Session {
    stream: BufReader<UnixStream>,
}

impl Session {
    /// Connects to the socket file as `user` and waits until the server accepts queries.
    pub fn connect(socket: &Path, user: &str, database: &str) -> io::Result<Self> {
        let mut session = Self { stream: BufReader::new(UnixStream::connect(socket)?) };
        let mut body = VERSION.to_be_bytes().to_vec();
        for word in ["user", user, "database", database, ""] {
            body.extend_from_slice(word.as_bytes());
            body.push(0);
        }
        let mut message = (body.len() as i32 + 4).to_be_bytes().to_vec();
        message.extend_from_slice(&body);
        session.stream.get_mut().write_all(&message)?;
        session.wait_idle()?;
        Ok(session)
    }

    /// Runs one or several statements and returns all rows. When it returns, the transaction, if any, is committed.
    pub fn query(&mut self, sql: &str) -> io::Result<Vec<Row>> {
        let mut message = vec![b'Q'];
        message.extend_from_slice(&(sql.len() as i32 + 5).to_be_bytes());
        message.extend_from_slice(sql.as_bytes());
        message.push(0);
        self.stream.get_mut().write_all(&message)?;
        self.wait_idle()
    }

    /// The first value of the first row.
    pub fn value(&mut self, sql: &str) -> io::Result<Option<String>> {
        Ok(self.query(sql)?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// Reads messages until the server is ready for the next query.
    fn wait_idle(&mut self) -> io::Result<Vec<Row>> {
        let mut rows = Vec::new();
        let mut error = None;
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'Z' => return error.map_or(Ok(rows), |error| Err(io::Error::other(error))),
                b'D' => rows.push(row(&body).ok_or_else(|| broken("a row"))?),
                b'E' => error = Some(complaint(&body)),
                b'R' if body != [0; 4] => return Err(broken("a wish for a password")),
                _ => {}
            }
        }
    }

    fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if !(4..LONGEST).contains(&length) {
            return Err(broken("the length of a message"));
        }
        let mut body = vec![0; length - 4];
        // After a fatal error the server closes the connection; its error message is more useful than the end of the
        // stream.
        match self.stream.read_exact(&mut body) {
            Ok(()) if kind == b'E' && complaint(&body).starts_with("FATAL") => Err(io::Error::other(complaint(&body))),
            Ok(()) => Ok((kind, body)),
            Err(error) => Err(error),
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("PostgreSQL answered with {what} that is not understood"))
}

/// `FATAL: message`, from the fields of an error.
fn complaint(body: &[u8]) -> String {
    let field = |kind: u8| {
        let mut fields = body.split(|byte| *byte == 0).filter(|field| !field.is_empty());
        fields.find(|field| field[0] == kind).map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
    };
    format!("{}: {}", field(b'S').unwrap_or_default(), field(b'M').unwrap_or_default())
}

fn row(body: &[u8]) -> Option<Row> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut row = Row::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let length = i32::from_be_bytes(*length);
        // A length of -1 is null.
        let length_of_value = usize::try_from(length).unwrap_or(0);
        let (value, behind) = behind.split_at_checked(length_of_value)?;
        row.push((length >= 0).then(|| String::from_utf8_lossy(value).into_owned()));
        rest = behind;
    }
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_parsed_and_malformed_ones_refused() {
        let body = b"\0\x02\0\0\0\x03abc\xff\xff\xff\xff";
        assert_eq!(row(body), Some(vec![Some("abc".to_owned()), None]));
        for length in 0..body.len() {
            assert_eq!(row(&body[..length]), None, "{length}");
        }
    }

    #[test]
    fn an_error_quotes_the_servers_message() {
        let body = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
        assert_eq!(complaint(body), "FATAL: the database system is starting up");
        assert_eq!(complaint(b""), ": ");
    }

    #[test]
    fn a_query_follows_the_simple_query_protocol() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut startup = [0; 34];
            stream.read_exact(&mut startup).unwrap();
            stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").unwrap();
            let mut query = [0; 14];
            stream.read_exact(&mut query).unwrap();
            assert_eq!(&query, b"Q\0\0\0\x0dSELECT 1\0");
            stream.write_all(b"D\0\0\0\x0b\0\x01\0\0\0\x011C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I").unwrap();
            startup
        });
        let mut session = Session::connect(&path, "onwire", "lab").unwrap();
        assert_eq!(session.value("SELECT 1").unwrap().as_deref(), Some("1"));
        assert_eq!(&serving.join().unwrap(), b"\0\0\0\x22\0\x03\0\0user\0onwire\0database\0lab\0\0");
    }
}
