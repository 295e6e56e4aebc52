//! DSCP values as the file writes them: a number or a name.

/// What is allowed, for errors.
pub(super) const DSCP: &str = "0 to 63, or a name such as ef, af41 or cs1";

/// Reads one. RFC 2474 and 4594 names: `csN` is 8N, `afXY` is 8X + 2Y.
pub(super) fn parse_dscp(text: &str) -> Result<u8, String> {
    let lower = text.to_ascii_lowercase();
    match lower.as_bytes() {
        b"ef" => Ok(46),
        b"be" | b"df" => Ok(0),
        [b'c', b's', class @ b'0'..=b'7'] => Ok((class - b'0') * 8),
        [b'a', b'f', class @ b'1'..=b'4', drop @ b'1'..=b'3'] => Ok((class - b'0') * 8 + (drop - b'0') * 2),
        _ => match lower.parse() {
            Ok(value) if value < 64 => Ok(value),
            _ => Err(String::new()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dscp_has_numbers_and_names() {
        for (text, value) in [("0", 0), ("63", 63), ("ef", 46), ("EF", 46), ("af41", 34), ("cs1", 8), ("be", 0)] {
            assert_eq!(parse_dscp(text), Ok(value), "{text}");
        }
        for text in ["64", "-1", "af51", "cs8", "fast", ""] {
            assert!(parse_dscp(text).is_err(), "{text}");
        }
    }
}
