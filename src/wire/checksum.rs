//! The Internet checksum (RFC 1071): one's complement sums over bytes, fast enough for whole packets.
//!
//! It knows no headers except the pseudo-header; the caller knows where a checksum is stored.

use std::net::IpAddr;

/// The sum of `bytes` as 16-bit big-endian words, folded and not inverted; an odd last byte is padded with zero.
///
/// Zero only when all bytes are zero, so a sum over a real header is never zero.
pub fn sum(bytes: &[u8]) -> u16 {
    // One's complement addition does not depend on byte order (RFC 1071, section 2 (B)): sum in native order and swap
    // once at the end. Halves of 32 bits in 64-bit sums cannot overflow below 16 GB; independent sums vectorise well.
    let (blocks, rest) = bytes.as_chunks::<64>();
    let mut sums = [0u64; 8];
    for block in blocks {
        for (sum, word) in sums.iter_mut().zip(block.as_chunks::<8>().0) {
            let word = u64::from_ne_bytes(*word);
            *sum += (word & 0xffff_ffff) + (word >> 32);
        }
    }
    let mut total: u64 = sums.iter().sum();
    let (words, rest) = rest.as_chunks::<4>();
    total += words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>();
    let mut tail = [0; 4];
    tail[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_ne_bytes(tail));
    u16::from_be(fold(total))
}

/// One's complement addition of two sums.
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// The sum after a word `old` in it is replaced by `new` (RFC 1624).
pub fn replace(sum: u16, old: u16, new: u16) -> u16 {
    add(add(sum, !old), new)
}

/// The sum of the pseudo-header of TCP and UDP for `length` bytes of transport header and payload (RFC 9293, section
/// 3.1; RFC 8200, section 8.1). A packet with `NEEDS_CSUM` carries it in its checksum field.
///
/// Zero if the two addresses have different IP versions.
pub fn pseudo_header_sum(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    let addresses = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => add(sum(&source.octets()), sum(&destination.octets())),
        (IpAddr::V6(source), IpAddr::V6(destination)) => add(sum(&source.octets()), sum(&destination.octets())),
        _ => return 0,
    };
    add(addresses, fold(length as u64 + u64::from(protocol)))
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for word in bytes.chunks(2) {
            total += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0xff; 65536]), 0xffff);
    }

    proptest! {
        #[test]
        fn the_sum_equals_the_word_by_word_sum(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(sum(&bytes), reference(&bytes));
        }

        #[test]
        fn replacing_a_word_equals_summing_again(
            mut bytes in prop::collection::vec(any::<u8>(), 20),
            new in any::<u16>(),
        ) {
            // A first word that is not zero, as in every header, avoids the two forms of zero.
            bytes[0] |= 1;
            let before = sum(&bytes);
            let old = u16::from_be_bytes([bytes[4], bytes[5]]);
            bytes[4..6].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(replace(before, old, new), sum(&bytes));
        }
    }
}
