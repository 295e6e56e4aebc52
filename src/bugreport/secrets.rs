//! Looks through a whole text for secrets, whatever brought them there: a line of the log may quote a configuration.

use std::collections::BTreeSet;

use serde_json::Value;
use zeroize::Zeroizing;

use super::redact::LEFT_OUT;
use crate::config::{Config, key_file};
use crate::tunnel::keys::PresharedKey;

/// Texts of random bytes have all kinds of characters; what is shorter than this may be a word.
const RANDOM_LEN: usize = 40;

/// What must not be in a text, and what may although it looks so.
pub struct Secrets {
    known: Vec<Zeroizing<String>>,
    public: BTreeSet<String>,
}

impl Secrets {
    /// Those of a configuration, as far as its key files can be read.
    pub fn new(config: Option<&Config>) -> Self {
        let mut secrets = Self { known: Vec::new(), public: BTreeSet::new() };
        let Some(config) = config else { return secrets };
        secrets.know(config.node.private_key().to_text());
        for peer in &config.peers {
            let file = peer.preshared_key_file.as_ref();
            file.and_then(|file| key_file::read(file, PresharedKey::parse).ok())
                .into_iter()
                .for_each(|key| secrets.know(key.to_text()));
            secrets.public.extend(peer.public_keys().map(|(_, key)| key.to_string()));
        }
        for key in config.notify.iter().flat_map(|notify| &notify.keys) {
            secrets.know(key.secret.to_text());
        }
        secrets.public.insert(config.node.private_key().public_key().to_string());
        // A private key that somebody has written where a public one belongs is still private.
        let Self { known, public } = &mut secrets;
        public.retain(|key| known.iter().all(|secret| secret.as_str() != key.trim_end_matches('=')));
        secrets
    }

    fn know(&mut self, mut text: Zeroizing<String>) {
        // It may be quoted without its padding.
        let length = text.trim_end_matches('=').len();
        text.truncate(length);
        if !text.is_empty() {
            self.known.push(text);
        }
    }

    /// The public keys in a status may be shown.
    pub fn allow_public_keys(&mut self, status: &Value) {
        match status {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if let (true, Some(key)) = (name.ends_with("public_key"), value.as_str()) {
                        self.public.insert(key.to_owned());
                    }
                    self.allow_public_keys(value);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| self.allow_public_keys(value)),
            _ => {}
        }
    }

    /// The text without them.
    pub fn mask(&self, text: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut is_in_block = false;
        for line in text.split_inclusive('\n') {
            // PEM, wherever in a line it begins and ends.
            if line.contains("-----BEGIN") && line.contains("PRIVATE") {
                is_in_block = true;
                masked.push_str(LEFT_OUT);
                masked.push('\n');
            }
            if !is_in_block {
                self.mask_line(line, &mut masked);
            }
            if line.contains("-----END") {
                is_in_block = false;
            }
        }
        masked
    }

    fn mask_line(&self, line: &str, masked: &mut String) {
        let mut line = line.to_owned();
        for known in &self.known {
            if line.contains(known.as_str()) {
                line = line.replace(known.as_str(), LEFT_OUT);
            }
        }
        let mut rest = line.as_str();
        while let Some(start) = rest.find(is_key_character) {
            let run = &rest[start..];
            let end = run.find(|c| !is_key_character(c)).unwrap_or(run.len());
            let run = &run[..end];
            masked.push_str(&rest[..start]);
            let is_public = self.public.iter().any(|key| key == run || key.trim_end_matches('=') == run);
            masked.push_str(if !is_public && run.len() >= RANDOM_LEN && is_mixed(run) { LEFT_OUT } else { run });
            rest = &rest[start + end..];
        }
        masked.push_str(rest);
    }
}

/// One of base64.
fn is_key_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')
}

/// Upper and lower case and digits: no word, no path, no digest.
fn is_mixed(run: &str) -> bool {
    let has = |is: fn(&u8) -> bool| run.bytes().any(|byte| is(&byte));
    has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "kZlS3k1AqN0qX0mU7q5y8rJb2W4tYc6uVxPzQeRfTgH=";

    #[test]
    fn keys_are_masked_wherever_they_stand_and_public_ones_are_not() {
        let mut secrets = Secrets::new(None);
        let public = KEY.replace('k', "p");
        secrets.allow_public_keys(&json!({ "peers": [{ "public_key": public }], "public_key": null }));
        for text in [
            format!("level=warn found \"{KEY}\"; allowed: a path"),
            format!("{}\n", KEY.trim_end_matches('=')),
            format!("x={KEY},y"),
        ] {
            let masked = secrets.mask(&text);
            assert!(!masked.contains(&KEY[..20]) && masked.contains(LEFT_OUT), "{masked}");
        }
        let harmless = format!("{public} /usr/lib/systemd/system/onwire.service {}\n", "0123456789abcdef".repeat(4));
        assert_eq!(secrets.mask(&harmless), harmless);
    }

    #[test]
    fn a_private_key_in_pem_is_left_out_to_its_end() {
        let text = "a\n-----BEGIN EC PRIVATE KEY-----\nMIIE\nabc\n-----END EC PRIVATE KEY-----\nb\n";
        assert_eq!(Secrets::new(None).mask(text), format!("a\n{LEFT_OUT}\nb\n"));
        let cut = "a\n  key: -----BEGIN PRIVATE KEY-----\nMIIE\nabc";
        assert_eq!(Secrets::new(None).mask(cut), format!("a\n{LEFT_OUT}\n"));
    }
}
