//! The capabilities in the server's greeting and in the client's answer that would hide later traffic from the gate:
//! TLS and compression.
//!
//! TLS and compression are used only if both sides name them, so the gate removes them from the greeting. It changes
//! nothing else and takes no part in authentication.

/// `CLIENT_COMPRESS`.
const COMPRESS: u32 = 1 << 5;
/// `CLIENT_SSL`.
const TLS: u32 = 1 << 11;
/// `CLIENT_ZSTD_COMPRESSION_ALGORITHM` of MySQL 8.
const COMPRESS_ZSTD: u32 = 1 << 26;

/// The protocol version with which every server since 4.1 begins.
const PROTOCOL: u8 = 10;
/// Thread number, first part of the scramble and a filler, between the zero byte after the version and the
/// capabilities.
const BEFORE_CAPABILITIES: usize = 4 + 8 + 1;
/// Capabilities, character set and status, before the upper half of the capabilities.
const BEFORE_UPPER: usize = 2 + 1 + 2;

/// Removes TLS and compression from a greeting. False if the packet is not a greeting: an error, or another protocol.
pub(super) fn hide(content: &mut [u8]) -> bool {
    if content.first() != Some(&PROTOCOL) {
        return false;
    }
    let Some(version_len) = content[1..].iter().position(|&byte| byte == 0) else { return false };
    let lower = 1 + version_len + 1 + BEFORE_CAPABILITIES;
    let upper = lower + BEFORE_UPPER;
    if content.len() < lower + 2 {
        return false;
    }
    let hidden = (COMPRESS | TLS | COMPRESS_ZSTD).to_le_bytes();
    for (at, half) in [(lower, &hidden[..2]), (upper, &hidden[2..])] {
        for (byte, hide) in content.iter_mut().skip(at).take(2).zip(half) {
            *byte &= !hide;
        }
    }
    true
}

/// What the client's answer uses although the greeting did not offer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Neither: the following packets can be read.
    Neither,
    /// TLS begins after the answer.
    Tls,
    /// Compression begins after authentication.
    Compression,
}

/// Reads the client's capabilities. Clients older than 4.1 send only the lower half.
pub(super) fn taken(content: &[u8]) -> Taken {
    let mut bytes = [0; 4];
    for (to, from) in bytes.iter_mut().zip(content) {
        *to = *from;
    }
    let capabilities = u32::from_le_bytes(bytes);
    // Without `CLIENT_PROTOCOL_41` the upper half is something else.
    let capabilities = if capabilities & (1 << 9) == 0 { capabilities & 0xffff } else { capabilities };
    match capabilities {
        taken if taken & TLS != 0 => Taken::Tls,
        taken if taken & (COMPRESS | COMPRESS_ZSTD) != 0 => Taken::Compression,
        _ => Taken::Neither,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A greeting as MariaDB 10.11 sends it, with these capabilities.
    pub(in super::super) fn greeting(capabilities: u32) -> Vec<u8> {
        let [a, b, c, d] = capabilities.to_le_bytes();
        let mut content = b"\x0a5.5.5-10.11.6-MariaDB\0\x07\0\0\0abcdefgh\0".to_vec();
        content.extend([a, b, 0x21, 2, 0, c, d, 21]);
        content.extend([0; 10]);
        content.extend(b"abcdefghijkl\0mysql_native_password\0");
        content
    }

    #[test]
    fn only_tls_and_compression_are_removed_from_the_greeting() {
        let mut content = greeting(0xffff_ffff);
        assert!(hide(&mut content));
        assert_eq!(content, greeting(!(0x20 | 0x800 | 0x0400_0000)));
    }

    #[test]
    fn a_packet_that_is_no_greeting_is_unchanged() {
        let cases: &[&[u8]] = &[b"", b"\x0a", b"\xff\x10\x04Too many connections", b"\x0a5.5\0short", b"\x09old\0"];
        for case in cases {
            let mut content = case.to_vec();
            assert!(!hide(&mut content), "{case:?}");
            assert_eq!(content, *case);
        }
        let whole = greeting(0xffff_ffff);
        for len in 0..whole.len() {
            hide(&mut whole[..len].to_vec());
        }
    }

    #[test]
    fn the_clients_capabilities_show_tls_and_compression() {
        let cases: &[(&[u8], Taken)] = &[
            (&[0x05, 0xa2, 0, 0], Taken::Neither),
            (&[0x05, 0xaa, 0, 0], Taken::Tls),
            (&[0x25, 0xa2, 0, 0], Taken::Compression),
            (&[0x05, 0xa2, 0, 4], Taken::Compression),
            (&[0x05, 0x00, 0, 4], Taken::Neither),
            (&[0x05, 0x08], Taken::Tls),
            (&[], Taken::Neither),
        ];
        for (content, expected) in cases {
            assert_eq!(taken(content), *expected, "{content:?}");
        }
    }
}
