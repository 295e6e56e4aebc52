//! The packets of a dump, which the primary sends a replica: each is an event of the binary log after the
//! semi-synchronous header.
//!
//! ```text
//! 0     1      2     3                      22
//! | 00 | ef  | ack | event header (19 B)    | body
//!        ^ these two only if the replica asked for semi-sync; ack: bit 0 asks for an acknowledgement
//! header: timestamp 4, kind 1, server 4, size 4, end position 4, flags 2; little-endian
//! ```
//!
//! It reads headers, and the file name in a rotate event; it does not read the content of a transaction.

use super::packet::Packet;

/// First byte of the semi-synchronous header, and of an acknowledgement.
pub(super) const SEMI_SYNC: u8 = 0xef;
const HEADER_LEN: usize = 19;
const ROTATE: u8 = 4;
/// Events that begin a transaction: MariaDB's; then MySQL's with a GTID, without one, and with a tagged one.
const BEGINS: [u8; 4] = [162, 33, 34, 42];
/// `LOG_EVENT_ARTIFICIAL_F`: the primary made the event for this replica; it is in no file.
const ARTIFICIAL: u16 = 0x20;
/// Length of the position in the rotate event, before the name.
const ROTATE_POSITION_LEN: usize = 8;
const CHECKSUM_LEN: usize = 4;
/// Names are shorter than `FN_REFLEN`.
const MOST_NAME: usize = 511;

/// One packet of a dump.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received<'a> {
    /// An event; the primary waits for the replica to acknowledge this end position in the present file.
    Wanted { end: u32, rotate: Option<&'a [u8]> },
    /// An event for which the primary does not wait.
    Unwanted { rotate: Option<&'a [u8]> },
    /// The dump is over: an error, or the end of a dump that does not wait for more.
    End,
    /// A packet that cannot be read.
    Foreign,
}

/// Whether the replica gets semi-synchronous headers. The first event of every dump shows it: a rotate event with
/// timestamp zero. None if the first event is something else.
pub(super) fn is_semi_sync(first: &Packet) -> Option<bool> {
    let rotates = |at: usize| first.head.get(at..at + 5).is_some_and(|start| start == [0, 0, 0, 0, ROTATE]);
    match first.head.as_slice() {
        [0, SEMI_SYNC, 0 | 1, ..] if rotates(3) => Some(true),
        [0, ..] if rotates(1) => Some(false),
        _ => None,
    }
}

/// Whether `packet` ends the dump.
pub(super) fn is_end(packet: &Packet) -> bool {
    packet.kind() == Some(0xff) || packet.kind() == Some(0xfe) && packet.len < 9
}

/// The beginning of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    /// Its start position in the present file.
    pub(super) start: u32,
    /// The end of its first event.
    pub(super) end: u32,
    /// The server that made it.
    pub(super) server: u32,
}

/// When an event of a dump with semi-synchronous headers was made, in seconds since 1970, and whether it begins a
/// transaction. None for an event that is in no file.
pub(super) fn dated(packet: &Packet) -> Option<(u32, Option<Begin>)> {
    let [0, SEMI_SYNC, _, event @ ..] = packet.head.as_slice() else { return None };
    let (size, end) = (u32_at(event, 9), u32_at(event, 13));
    let flags = u16::from_le_bytes([*event.get(17)?, *event.get(18)?]);
    if flags & ARTIFICIAL != 0 || end == 0 {
        return None;
    }
    let begins = BEGINS.contains(&event[4]).then_some(end).and_then(|end| end.checked_sub(size));
    Some((u32_at(event, 0), begins.map(|start| Begin { start, end, server: u32_at(event, 5) })))
}

/// Reads a packet of a dump with semi-synchronous headers.
pub(super) fn parse(packet: &Packet) -> Received<'_> {
    if is_end(packet) {
        return Received::End;
    }
    let [0, SEMI_SYNC, wanted @ (0 | 1), event @ ..] = packet.head.as_slice() else { return Received::Foreign };
    if event.len() < HEADER_LEN || u64::from(u32_at(event, 9)) != packet.len - 3 {
        return Received::Foreign;
    }
    let end = u32_at(event, 13);
    let artificial = u16::from_le_bytes([event[17], event[18]]) & ARTIFICIAL != 0;
    let rotate = match event[4] {
        ROTATE if packet.is_whole() => match rotate_target(event) {
            Some(name) => Some(name),
            None => return Received::Foreign,
        },
        ROTATE => return Received::Foreign,
        _ => None,
    };
    if *wanted == 1 && !artificial && end != 0 {
        Received::Wanted { end, rotate }
    } else {
        Received::Unwanted { rotate }
    }
}

/// The file that a rotate event names. A checksum follows the name if the last bytes match the computed checksum.
fn rotate_target(event: &[u8]) -> Option<&[u8]> {
    let body = event.get(HEADER_LEN + ROTATE_POSITION_LEN..)?;
    let mut name = body;
    if let Some(checked) = event.len().checked_sub(CHECKSUM_LEN)
        && body.len() > CHECKSUM_LEN
        && crc32(&event[..checked]) == u32_at(event, checked)
    {
        name = &body[..body.len() - CHECKSUM_LEN];
    }
    is_name(name).then_some(name)
}

/// Binary logs are called `NAME.NUMBER`. A name read wrongly could sort after every real one and would acknowledge
/// everything, so a name of another form is rejected.
fn is_name(name: &[u8]) -> bool {
    let number = name.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
    name.len() <= MOST_NAME
        && number.len() < name.len()
        && number.len() >= 6
        && number.iter().all(u8::is_ascii_digit)
        && !name.iter().any(|&byte| byte == 0 || byte == b'/')
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    for (to, from) in value.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    u32::from_le_bytes(value)
}

/// The checksum of binary logs: CRC-32 as in zlib. Only rotate events are checked, so a lookup table is not worth its
/// memory.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An event with its header, without checksum.
    pub(in super::super) fn event(kind: u8, end: u32, flags: u16, body: &[u8]) -> Vec<u8> {
        let timestamp = if flags & ARTIFICIAL != 0 { 0u32 } else { 1_700_000_000 };
        let size = (HEADER_LEN + body.len()) as u32;
        [
            &timestamp.to_le_bytes()[..],
            &[kind],
            &1u32.to_le_bytes(),
            &size.to_le_bytes(),
            &end.to_le_bytes(),
            &flags.to_le_bytes(),
            body,
        ]
        .concat()
    }

    /// The rotate event that begins a dump.
    pub(in super::super) fn rotate(name: &str) -> Vec<u8> {
        event(ROTATE, 0, ARTIFICIAL, &[&4u64.to_le_bytes(), name.as_bytes()].concat())
    }

    fn packet(content: &[u8]) -> Packet {
        Packet { number: 1, len: content.len() as u64, head: content.to_vec() }
    }

    fn semi_sync(wanted: u8, event: &[u8]) -> Packet {
        packet(&[&[0, SEMI_SYNC, wanted], event].concat())
    }

    fn with_checksum(mut event: Vec<u8>) -> Vec<u8> {
        let size = (event.len() + CHECKSUM_LEN) as u32;
        event[9..13].copy_from_slice(&size.to_le_bytes());
        let crc = crc32(&event);
        event.extend(crc.to_le_bytes());
        event
    }

    #[test]
    fn the_checksum_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_first_event_shows_whether_the_dump_is_semi_synchronous() {
        let rotate = rotate("bin.000001");
        assert_eq!(is_semi_sync(&semi_sync(0, &rotate)), Some(true));
        assert_eq!(is_semi_sync(&packet(&[&[0], rotate.as_slice()].concat())), Some(false));
        assert_eq!(is_semi_sync(&packet(b"\0\0\0\x02\0\0\0")), None, "an OK packet");
        assert_eq!(is_semi_sync(&packet(&[&[0], event(2, 4, 0, b"").as_slice()].concat())), None);
    }

    #[test]
    fn events_are_read_as_the_header_says() {
        let named = b"bin.000002".as_slice();
        let cases = [
            (semi_sync(1, &event(16, 700, 0, b"12345678")), Received::Wanted { end: 700, rotate: None }),
            (semi_sync(0, &event(16, 700, 0, b"12345678")), Received::Unwanted { rotate: None }),
            (semi_sync(1, &event(16, 700, ARTIFICIAL, b"")), Received::Unwanted { rotate: None }),
            (semi_sync(1, &event(16, 0, 0, b"")), Received::Unwanted { rotate: None }),
            (semi_sync(0, &rotate("bin.000002")), Received::Unwanted { rotate: Some(named) }),
            (semi_sync(0, &with_checksum(rotate("bin.000002"))), Received::Unwanted { rotate: Some(named) }),
            (
                semi_sync(1, &event(ROTATE, 900, 0, b"\x04\0\0\0\0\0\0\0bin.000002")),
                Received::Wanted { end: 900, rotate: Some(named) },
            ),
            (packet(b"\xff\xd4\x04#HY000gone"), Received::End),
            (packet(b"\xfe\0\0\x02\0"), Received::End),
            (semi_sync(2, &event(16, 700, 0, b"")), Received::Foreign),
            (packet(&[&[0], event(16, 700, 0, b"").as_slice()].concat()), Received::Foreign),
            (semi_sync(1, &event(16, 700, 0, b"")[..18]), Received::Foreign),
            (semi_sync(1, &[event(16, 700, 0, b"").as_slice(), b"x"].concat()), Received::Foreign),
            (semi_sync(0, &rotate("no-number")), Received::Foreign),
            (semi_sync(0, &rotate("dir/bin.000001")), Received::Foreign),
            (semi_sync(0, &rotate("bin.000001abcd")), Received::Foreign),
            (semi_sync(0, &event(ROTATE, 0, ARTIFICIAL, b"")), Received::Foreign),
        ];
        for (packet, expected) in cases {
            assert_eq!(parse(&packet), expected, "{packet:?}");
        }
    }

    #[test]
    fn the_event_kind_shows_the_beginning_of_a_transaction() {
        let begin = Begin { start: 700 - 27, end: 700, server: 1 };
        for (kind, flags, end, wanted) in [
            (162, 0, 700, Some((1_700_000_000, Some(begin)))),
            (34, 8, 700, Some((1_700_000_000, Some(begin)))),
            (16, 0, 700, Some((1_700_000_000, None))),
            (162, 0, 5, Some((1_700_000_000, None))),
            (162, ARTIFICIAL, 700, None),
            (162, 0, 0, None),
        ] {
            assert_eq!(dated(&semi_sync(0, &event(kind, end, flags, b"12345678"))), wanted, "{kind} {flags} {end}");
        }
        assert_eq!(dated(&semi_sync(0, &event(162, 700, 0, b"")[..18])), None);
        assert_eq!(dated(&packet(b"")), None);
    }

    #[test]
    fn a_large_event_is_read_from_its_beginning() {
        let mut packet = semi_sync(1, &event(16, 700, 0, &[7; 1000]));
        packet.head.truncate(640);
        assert_eq!(parse(&packet), Received::Wanted { end: 700, rotate: None });
    }
}
