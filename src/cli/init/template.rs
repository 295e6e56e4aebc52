//! The file that `onwire init` writes: its text with values, or with words to fill in.

use super::{NOTIFY_KEY, Values};

const TEXT: &str = include_str!("node.yaml");

/// The text of the file of the appliance `node`.
pub(super) fn render(values: &Values, node: &str) -> String {
    let key = quoted(&format!("{node}.key"));
    let local = list(&values.local_prefix, "OUR-PREFIX");
    let prefixes = list(&values.peer_prefix, "PREFIX-OF-THE-PEER");
    let public_key = values.peer_key.as_deref().map_or("PUBLIC-KEY-OF-THE-PEER".to_owned(), quoted);
    let endpoint = match &values.peer_endpoint {
        Some(endpoint) => format!("    endpoint: {}", quoted(endpoint)),
        None => "    # endpoint: 203.0.113.2:7117".to_owned(),
    };
    let keys = format!("keys:\n    - {{ id: 1, file: {NOTIFY_KEY} }}");
    let notify = match values.notify {
        true => format!("notify:\n  {keys}"),
        false => {
            let table = format!("notify:\n  {keys}").replace('\n', "\n# ");
            let make = format!("make a key beside this file (onwire keygen --notify {NOTIFY_KEY})");
            format!("# To have them, {make}, and remove the # below.\n# {table}")
        }
    };
    let (listen, node_name, peer) = (quoted(&values.listen), quoted(node), quoted(&values.peer));
    // Each word stands once, and each value goes where its word is: a value that holds such a word is not replaced again.
    let words: [(&str, &str); 10] = [
        ("@NAME@", node),
        ("@NODE@", &node_name),
        ("@KEY@", &key),
        ("@LISTEN@", &listen),
        ("@LOCAL@", &local),
        ("@PEER@", &peer),
        ("@PUBLIC_KEY@", &public_key),
        ("@ENDPOINT@", &endpoint),
        ("@PREFIXES@", &prefixes),
        ("@NOTIFY@", &notify),
    ];
    let (mut text, mut rest) = (String::new(), TEXT);
    for (word, value) in words {
        let (before, after) = rest.split_once(word).expect("the text has the words in this order");
        text.push_str(before);
        text.push_str(value);
        rest = after;
    }
    text + rest
}

fn list(values: &[String], missing: &str) -> String {
    match values {
        [] => format!("[{missing}]"),
        some => format!("[{}]", some.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ")),
    }
}

/// The value as a scalar of YAML: bare where it may be, else quoted as in JSON, which YAML reads alike.
fn quoted(value: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    let is_bare = value.starts_with(|first: char| first.is_ascii_alphabetic()) && value.bytes().all(is_plain)
        || value.starts_with(|first: char| first.is_ascii_digit())
            && value.contains('.')
            && value.bytes().all(|byte| is_plain(byte) || byte == b':');
    // A word such as `yes` or `null`, or a number, is quoted too.
    match is_bare && !is_reserved(value) {
        true => value.to_owned(),
        false => serde_json::Value::from(value).to_string(),
    }
}

/// What YAML takes for something other than text.
fn is_reserved(value: &str) -> bool {
    ["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&value.to_ascii_lowercase().as_str())
        || value.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_where_yaml_would_read_something_else() {
        for bare in ["ithaca", "10.1.0.0/24", "0.0.0.0:7117", "a-b.key"] {
            assert_eq!(quoted(bare), bare);
        }
        for (value, text) in [
            ("yes", "\"yes\""),
            ("1.5", "\"1.5\""),
            ("7", "\"7\""),
            ("[::]:7117", "\"[::]:7117\""),
            ("fd00::/64", "\"fd00::/64\""),
            ("host:7117", "\"host:7117\""),
            ("a\"b\n# c", "\"a\\\"b\\n# c\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(value), text);
        }
    }
}
