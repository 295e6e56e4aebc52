//! The names of nodes, peers and profiles.

/// What a name may be.
pub(super) const NAME: &str = "1 to 63 letters, digits, dots, dashes and underscores";

/// Reads a name, for a command line.
///
/// # Errors
/// What a name may be.
pub fn parse(text: &str) -> Result<String, String> {
    parse_name(text).map_err(|_| format!("allowed: {NAME}"))
}

/// Reads a name. The error is a hint.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    let fits = (1..=63).contains(&text.len());
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if fits && plain { Ok(text.to_owned()) } else { Err(String::new()) }
}
