//! The first packets of a PostgreSQL client: a request for encryption or cancellation, or the start-up packet.
//!
//! ```text
//!  0            4            8
//!  +------------+------------+---------------- - -
//!  | length u32 | code u32   | parameters: name 0 value 0 ... 0
//!  +------------+------------+---------------- - -
//! ```
//!
//! Parses the packets and builds answers; does not decide what follows.

/// The server accepts no longer packet.
const LONGEST: usize = 10_000;

/// The first byte of a TLS record that holds a ClientHello; read as a length it would exceed every allowed one.
const TLS_HANDSHAKE: u8 = 0x16;

const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

/// The kind of the first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// Asks for TLS.
    Ssl,
    /// Asks for GSSAPI encryption.
    Gss,
    /// Cancels a command of another session.
    Cancel,
    /// Begins a session.
    Start {
        /// With a walsender, which replicates, instead of a backend.
        walsender: bool,
    },
    /// TLS without a request, as `sslnegotiation=direct` of libpq 17 does.
    DirectTls,
    /// Something else; the text describes it.
    Unknown(String),
}

/// Reads the first packet and its length; none while the packet is incomplete.
pub(super) fn parse(bytes: &[u8]) -> Option<(Opening, usize)> {
    if *bytes.first()? == TLS_HANDSHAKE {
        return Some((Opening::DirectTls, bytes.len()));
    }
    let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    if !(8..=LONGEST).contains(&length) {
        return Some((Opening::Unknown(format!("a first packet of {length} bytes")), bytes.len()));
    }
    let packet = bytes.get(..length)?;
    let code = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
    let opening = match (code, code >> 16) {
        (SSL, _) if length == 8 => Opening::Ssl,
        (GSS, _) if length == 8 => Opening::Gss,
        (CANCEL, _) => Opening::Cancel,
        (_, 3) => Opening::Start { walsender: wants_walsender(&packet[8..]) },
        (_, major) => Opening::Unknown(format!("protocol {major}.{}", code & 0xffff)),
    };
    Some((opening, length))
}

/// Whether the parameters ask for a walsender.
fn wants_walsender(parameters: &[u8]) -> bool {
    parameter(parameters, b"replication").is_some_and(|value| value == b"database" || is_true(value))
}

/// The client's name in the start-up packet, by which the server knows a standby.
pub(super) fn application_name(packet: &[u8]) -> String {
    let name = parameter(packet.get(8..).unwrap_or_default(), b"application_name").unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// A parameter's value. The last one counts, as in the server.
fn parameter<'a>(parameters: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let mut words = parameters.split(|byte| *byte == 0);
    let mut found = None;
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        if name.is_empty() {
            break;
        }
        if name == wanted {
            found = Some(value);
        }
    }
    found
}

/// Reads a boolean as the server does: any unambiguous prefix of the words, in any case.
fn is_true(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str| !value.is_empty() && word.as_bytes().starts_with(&value);
    begins("true") || begins("yes") || value == b"on" || value == b"1"
}

/// A fatal error in the server's format, for a client that the gate refuses.
pub(super) fn refusal(message: &str, hint: &str) -> Vec<u8> {
    let fields = [('S', "FATAL"), ('V', "FATAL"), ('C', "08004"), ('M', message), ('H', hint)];
    let mut body = Vec::new();
    for (name, text) in fields.into_iter().filter(|(_, text)| !text.is_empty()) {
        body.push(name as u8);
        body.extend(text.bytes().filter(|byte| *byte != 0));
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).expect("messages of the gate are short");
    [&b"E"[..], &length.to_be_bytes(), &body].concat()
}

/// The packet that asks a server for TLS.
pub(super) fn ssl_request() -> [u8; 8] {
    let [a, b, c, d] = SSL.to_be_bytes();
    [0, 0, 0, 8, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(8 + body.len()).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
    }

    #[test]
    fn each_kind_of_first_packet_is_recognised() {
        let unknown = |text: &str| Opening::Unknown(text.to_owned());
        let cases = [
            (ssl_request().to_vec(), Opening::Ssl),
            (packet(GSS, b""), Opening::Gss),
            (packet(CANCEL, &[0; 8]), Opening::Cancel),
            (packet(CANCEL, &[0; 36]), Opening::Cancel),
            (packet(0x3_0000, b"user\0me\0\0"), Opening::Start { walsender: false }),
            (packet(0x3_0000, b"user\0me\0replication\0true\0\0"), Opening::Start { walsender: true }),
            (packet(0x3_0002, b"replication\0database\0user\0me\0\0"), Opening::Start { walsender: true }),
            (packet(0x3_0000, b"replication\0true\0replication\0off\0\0"), Opening::Start { walsender: false }),
            (packet(0x3_0000, b"user\0replication\0database\0true\0\0"), Opening::Start { walsender: false }),
            (packet(0x3_0000, b""), Opening::Start { walsender: false }),
            (packet(0x2_0000, b""), unknown("protocol 2.0")),
            (packet(SSL, b"x"), unknown("protocol 1234.5679")),
            (b"\x16\x03\x01\x02\x00\x01".to_vec(), Opening::DirectTls),
            (b"GET / HTTP/1.1\r\n".to_vec(), unknown("a first packet of 1195725856 bytes")),
            (b"\0\0\0\x07".to_vec(), unknown("a first packet of 7 bytes")),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(parse(&bytes), Some((wanted, bytes.len())), "{bytes:?}");
        }
        let longer = [&ssl_request()[..], b"more"].concat();
        assert_eq!(parse(&longer), Some((Opening::Ssl, 8)), "what follows is not counted");
    }

    #[test]
    fn the_last_application_name_counts() {
        let named = packet(0x3_0000, b"application_name\0a\0user\0application_name\0application_name\0b\0\0");
        assert_eq!(application_name(&named), "b");
        assert_eq!(application_name(&packet(0x3_0000, b"user\0me\0\0")), "");
    }

    #[test]
    fn an_incomplete_packet_waits() {
        let whole = packet(0x3_0000, b"user\0me\0\0");
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), None, "{cut} bytes");
        }
    }

    #[test]
    fn every_boolean_that_the_server_accepts_asks_for_a_walsender() {
        for yes in ["database", "true", "TRUE", "t", "tru", "y", "yes", "on", "On", "1"] {
            assert!(wants_walsender(format!("replication\0{yes}\0\0").as_bytes()), "{yes}");
        }
        for no in ["false", "0", "off", "no", "o", "", "trues", "11", "DATABASE"] {
            assert!(!wants_walsender(format!("replication\0{no}\0\0").as_bytes()), "{no}");
        }
    }

    #[test]
    fn a_refusal_is_an_error_message_of_the_protocol() {
        let bytes = refusal("no\0", "do");
        assert_eq!(bytes, b"E\0\0\0\x22SFATAL\0VFATAL\0C08004\0Mno\0Hdo\0\0");
    }
}
