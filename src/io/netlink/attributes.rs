//! Splits netlink messages into messages and attributes, where a full decoder would cost too much or refuse what it
//! does not know.

use std::net::IpAddr;

/// Bytes of a message's header.
pub(super) const HEADER: usize = 16;

/// The first message of `bytes`: its type, its body, and the messages after it. `None` where it is cut.
pub(super) fn message_parts(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    // Messages are aligned to four bytes.
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The attributes in `bytes`, each a length u16, a type u16 and data. A cut attribute ends them.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// Flags in the upper bits describe the data.
    const TYPE: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & TYPE;
        let data = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    })
}

/// The address that an attribute holds.
pub(super) fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_end_at_their_lengths_and_nothing_beyond_is_read() {
        let mut bytes = Vec::new();
        for (length, kind, fill) in [(21u32, 16u16, 1u8), (16, 17, 2)] {
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.resize(bytes.len() + (length as usize).next_multiple_of(4) - 6, fill);
        }
        let (kind, body, rest) = message_parts(&bytes).unwrap();
        assert_eq!((kind, body), (16, &[1; 5][..]));
        let (kind, body, rest) = message_parts(rest).unwrap();
        assert_eq!((kind, body.len(), rest.len()), (17, 0, 0));
        assert_eq!(message_parts(&bytes[..20]), None);
        assert_eq!(message_parts(&[0; 16]), None, "shorter than its header");

        let cut: Vec<u8> =
            [&6u16.to_ne_bytes()[..], &0x4001u16.to_ne_bytes(), &[7, 8, 0, 0], &9u16.to_ne_bytes()].concat();
        assert_eq!(attributes(&cut).collect::<Vec<_>>(), [(1, &[7, 8][..])]);
        for length in [0u16, 3] {
            assert_eq!(attributes(&[&length.to_ne_bytes()[..], &[0; 6]].concat()).count(), 0);
        }
        assert_eq!(ip_address(&[192, 0, 2, 1]), Some("192.0.2.1".parse().unwrap()));
        assert_eq!((ip_address(&[0; 16]), ip_address(&[0; 5])), (Some("::".parse().unwrap()), None));
    }
}
