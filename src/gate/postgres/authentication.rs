//! Channel binding where the gate ends TLS.
//!
//! `SCRAM-SHA-256-PLUS` proves that client and server see the same TLS certificate. When TLS ends at the gate they do
//! not, so the gate removes the mechanism from the server's list. That is not enough when both legs are encrypted: a
//! client that supports channel binding sends the flag `y` in its first message, and a server with TLS rightly takes
//! that for an attack. The flag is signed, so the gate cannot change it; it can only recognise it. Passwords and proofs
//! pass unread.

/// Bytes of the client's first message that [`wants_channel_binding`] must see: the name of a mechanism, a length, the flag.
pub(super) const FIRST_MESSAGE: usize = 128;

/// The code of the authentication request in the body of an `R` message.
pub(super) fn request(body: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*body.first_chunk()?))
}

/// Authentication is over.
pub(super) const OK: u32 = 0;
/// The server lists SASL mechanisms.
pub(super) const SASL: u32 = 10;

/// The server's list without mechanisms that bind to the channel, as a whole message; none if the list has no such
/// mechanism.
pub(super) fn unbound(body: &[u8]) -> Option<Vec<u8>> {
    let list = body.get(4..)?;
    let names = list.split(|byte| *byte == 0).take_while(|name| !name.is_empty());
    let (bound, free): (Vec<_>, Vec<_>) = names.partition(|name| name.ends_with(b"-PLUS"));
    if bound.is_empty() {
        return None;
    }
    let mut rest = body[..4].to_vec();
    for name in free {
        rest.extend_from_slice(name);
        rest.push(0);
    }
    rest.push(0);
    let length = u32::try_from(rest.len() + 4).expect("a part of a message is not longer than the message");
    Some([&b"R"[..], &length.to_be_bytes(), &rest].concat())
}

/// Whether a client's first SASL message has the flag `y`: the client supports channel binding, and assumes that the
/// server does not.
pub(super) fn wants_channel_binding(body: &[u8]) -> bool {
    let Some(end) = body.iter().position(|byte| *byte == 0) else { return false };
    body[..end].starts_with(b"SCRAM-") && body.get(end + 5) == Some(&b'y')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mechanisms_with_channel_binding_are_removed_from_the_list() {
        let list = |names: &str| [&SASL.to_be_bytes()[..], names.as_bytes()].concat();
        let cases = [
            ("SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", Some("SCRAM-SHA-256\0\0")),
            ("SCRAM-SHA-256\0SCRAM-SHA-256-PLUS\0OAUTHBEARER\0\0", Some("SCRAM-SHA-256\0OAUTHBEARER\0\0")),
            ("SCRAM-SHA-256-PLUS\0\0", Some("\0")),
            ("SCRAM-SHA-256\0\0", None),
            ("", None),
        ];
        for (names, wanted) in cases {
            let wanted = wanted.map(|names| {
                let body = list(names);
                [&b"R"[..], &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), &body].concat()
            });
            assert_eq!(unbound(&list(names)), wanted, "{names:?}");
        }
        assert_eq!(unbound(b"\0\0"), None);
    }

    #[test]
    fn a_client_that_supports_channel_binding_is_recognised() {
        assert!(wants_channel_binding(b"SCRAM-SHA-256\0\0\0\0\x20y,,n=,r=abc"));
        assert!(!wants_channel_binding(b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=abc"));
        assert!(!wants_channel_binding(b"SCRAM-SHA-256-PLUS\0\0\0\0\x20p=tls-server-end-point,,n=,r=abc"));
        assert!(!wants_channel_binding(b"OAUTHBEARER\0\0\0\0\x20y,,"));
        assert!(!wants_channel_binding(b"SCRAM-SHA-256\0\0\0"));
        assert!(!wants_channel_binding(b"yyyy"));
    }
}
