//! Netlink attributes (`struct nlattr`): a 16-bit length that counts itself, a 16-bit type, the value, padding to four
//! bytes. Little-endian on every machine; the kernel uses native byte order.
//!
//! This file does not know which attributes exist or what they mean: see [`super::message`].

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than its headers, or than the length in them, or that length is impossible.
    #[error("a message is cut short")]
    MessageCut,
    /// An attribute is longer than what is left of its list.
    #[error("the attribute at byte {offset} is cut short")]
    AttributeCut {
        /// From the start of the list.
        offset: usize,
    },
    /// The value does not have the length of its type.
    #[error("attribute {kind} at byte {offset} has {found} bytes, which its type does not allow")]
    AttributeLength {
        /// The attribute's type.
        kind: u16,
        /// From the start of the list.
        offset: usize,
        /// Bytes of the value.
        found: usize,
    },
    /// The value is not one that its type allows.
    #[error("attribute {kind} at byte {offset} has a value that is not allowed")]
    AttributeValue {
        /// The attribute's type.
        kind: u16,
        /// From the start of the list.
        offset: usize,
    },
    /// In a request only: a consumer ignores unknown attributes.
    #[error("attribute {kind} at byte {offset} is unknown")]
    AttributeUnknown {
        /// The attribute's type.
        kind: u16,
        /// From the start of the list.
        offset: usize,
    },
    /// An attribute that the command needs is missing.
    #[error("attribute {kind} is missing")]
    AttributeMissing {
        /// The attribute's type.
        kind: u16,
    },
    /// A command or message type that is not defined.
    #[error("the command or message type is unknown")]
    Unknown,
}
/// Set in a type whose value is a list of attributes.
pub const NESTED: u16 = 1 << 15;
/// Set in a type whose value is in network byte order. This protocol does not set it: the attribute's definition gives
/// the byte order.
pub const NET_BYTEORDER: u16 = 1 << 14;
/// The bytes before a value.
pub const HEADER: usize = 4;

/// One attribute as it lies in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// The type without the two flag bits.
    pub kind: u16,
    /// The value without padding.
    pub value: &'a [u8],
    /// Where the attribute's header begins, in bytes from the start of the list.
    pub offset: usize,
}

impl Attribute<'_> {
    /// The value as one byte.
    pub fn u8(&self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.fixed()?))
    }

    /// The value as a little-endian 16-bit number.
    pub fn u16(&self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.fixed()?))
    }

    /// The value as a 16-bit number in network byte order: a port.
    pub fn port(&self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.fixed()?))
    }

    /// The value as a little-endian 32-bit number.
    pub fn u32(&self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.fixed()?))
    }

    /// The value as a little-endian 64-bit number.
    pub fn u64(&self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.fixed()?))
    }

    /// The value as exactly `N` bytes.
    pub fn fixed<const N: usize>(&self) -> Result<[u8; N], Malformed> {
        self.value.try_into().map_err(|_| Malformed::AttributeLength {
            kind: self.kind,
            offset: self.offset,
            found: self.value.len(),
        })
    }
}

/// The attributes of a list, in order; after the first error the list ends.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    list: &'a [u8],
    at: usize,
}

impl<'a> Attributes<'a> {
    /// Reads `list`, which holds only attributes.
    pub fn new(list: &'a [u8]) -> Attributes<'a> {
        Attributes { list, at: 0 }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.at;
        let rest = self.list.get(offset..).filter(|rest| !rest.is_empty())?;
        let cut = Malformed::AttributeCut { offset };
        self.at = self.list.len();
        let Some((header, _)) = rest.split_first_chunk::<HEADER>() else {
            return Some(Err(cut));
        };
        let len = usize::from(u16::from_le_bytes([header[0], header[1]]));
        let kind = u16::from_le_bytes([header[2], header[3]]) & !(NESTED | NET_BYTEORDER);
        let Some(value) = rest.get(HEADER..len) else {
            return Some(Err(cut));
        };
        // The last attribute of a list may lack its padding, as in the kernel.
        self.at = offset + len.next_multiple_of(4);
        Some(Ok(Attribute { kind, value, offset }))
    }
}

/// Appends one attribute. `value` is shorter than 64 KB: every value of this protocol fits a datagram.
pub fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = (HEADER + value.len()) as u16;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(value);
    pad(out, value.len());
}

/// Appends a byte.
pub fn put_u8(out: &mut Vec<u8>, kind: u16, value: u8) {
    put(out, kind, &[value]);
}

/// Appends a little-endian 16-bit number.
pub fn put_u16(out: &mut Vec<u8>, kind: u16, value: u16) {
    put(out, kind, &value.to_le_bytes());
}

/// Appends a little-endian 32-bit number.
pub fn put_u32(out: &mut Vec<u8>, kind: u16, value: u32) {
    put(out, kind, &value.to_le_bytes());
}

/// Appends a little-endian 64-bit number.
pub fn put_u64(out: &mut Vec<u8>, kind: u16, value: u64) {
    put(out, kind, &value.to_le_bytes());
}

/// Appends an attribute whose value is the list of attributes that `fill` appends.
pub fn put_nested(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&(kind | NESTED).to_le_bytes());
    fill(out);
    let len = (out.len() - start) as u16;
    out[start..start + 2].copy_from_slice(&len.to_le_bytes());
}

fn pad(out: &mut Vec<u8>, len: usize) {
    let missing = len.next_multiple_of(4) - len;
    out.extend_from_slice(&[0; 3][..missing]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_up_to_its_first_error() {
        const GOOD: &[u8] = &[5, 0, 3, 0, 0xaa, 0, 0, 0, 8, 0, 4, 0x80, 1, 2, 3, 4];
        type Row = (&'static [u8], &'static [(u16, &'static [u8])], bool);
        let table: [Row; 6] = [
            (&[], &[], true),
            (GOOD, &[(3, &[0xaa]), (4, &[1, 2, 3, 4])], true),
            (&[5, 0, 3, 0, 0xaa], &[(3, &[0xaa])], true),
            (&[4, 0, 3], &[], false),
            (&[3, 0, 3, 0], &[], false),
            (&[4, 0, 3, 0, 9, 0, 1, 0, 0], &[(3, &[])], false),
        ];
        for (bytes, expected, whole) in table {
            let read: Vec<_> = Attributes::new(bytes).collect();
            let found: Vec<_> = read.iter().flatten().map(|a| (a.kind, a.value)).collect();
            assert_eq!(found, expected, "{bytes:?}");
            assert_eq!(read.iter().all(Result::is_ok), whole, "{bytes:?}");
        }
    }

    #[test]
    fn values_have_exact_lengths() {
        let attribute = Attribute { kind: 7, value: &[1, 2], offset: 12 };
        assert_eq!(attribute.u16(), Ok(0x0201));
        assert_eq!(attribute.port(), Ok(0x0102));
        assert_eq!(attribute.u32(), Err(Malformed::AttributeLength { kind: 7, offset: 12, found: 2 }));
    }
}
