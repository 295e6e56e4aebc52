//! Secrets are planted in every place of a configuration where something can stand, in good files and in broken ones.

use proptest::prelude::*;

use super::*;

/// Secrets as they are pasted: base64 of 32 and of 16 bytes, hexadecimal, base64 for addresses, with a slash first, a
/// passphrase, PEM.
const SECRETS: [&str; 8] = [
    "kZlS3k1AqN0qX0mU7q5y8rJb2W4tYc6uVxPzQeRfTgH=",
    "kZlS3k1AqN0qX0mU7q5y8rJb2W4tYc6uVxPzQeRfTgH",
    "/ZlS3k1AqN0q/0mU7q5y8rJb2W/tYc6uVxPzQeRf/gH=",
    "Qm9vazEyMzQ1Njc4OTAxMg==",
    "8f14e45fceea167a5a36dedd4bea2543f1c4f7ea22a1b3c4d5e6f70818293a4b",
    "kZlS3k1AqN0qX0mU7q5y8rJb2W4tYc6uVxPzQeRf_-H",
    "hunter2 Secret passphrase!",
    "correct horse, battery: staple",
];

/// Parts of a secret that must not be seen: its beginning and its end.
fn assert_hidden(shown: &str, secret: &str, whole: &str) {
    let length = secret.len().min(10);
    for part in [&secret[..length], &secret[secret.len() - length..]] {
        assert!(!shown.contains(part), "{part:?} of {secret:?} is in\n{shown}\nof\n{whole}");
    }
}

fn keys() -> BTreeSet<&'static str> {
    TABLES.iter().chain(&GATE_TABLES).flat_map(|table| table.in_force).copied().collect()
}

#[test]
fn a_secret_is_hidden_behind_every_key_in_every_style() {
    for key in keys().into_iter().chain(["password", "secret", "psk", "private_key", "preshared_key", "metrics"]) {
        for secret in SECRETS {
            // Of a public key the beginning is shown, also where a private one stands there by mistake.
            let secret_part = if kind_of(key) == Kind::PublicKey && secret.len() == 44 { &secret[8..] } else { secret };
            for text in [
                format!("{key}: {secret}\n"),
                format!("{key}: \"{secret}\"\n"),
                format!("{key}: '{secret}'\n"),
                format!("a:\n  - {{ {key}: {secret} }}\n"),
                format!("a:\n  - {{ id: 1, {key}: \"{secret}\", file: x.key }}\n"),
                format!("{{\n  \"{key}\": \"{secret}\",\n  \"{secret}\": \"{key}\"\n}}\n"),
                format!("{key}: [{secret}]\n"),
                format!("{key}:\n  - {secret}\n  - b\n"),
                format!("{key}:\n    {secret}\n"),
                format!("{key}: |\n  {secret}\n  second line\n"),
                format!("{key}: >-\n  {secret}\n"),
                format!("{key}: &anchor {secret}\n"),
                format!("{key}: !!str {secret}\n"),
                format!("{key}: {secret} # comment\n"),
                format!("{key}: 1 # {secret}\n"),
                format!("# {key}: {secret}\n"),
                format!("{key}:{secret}\n"),
                // Broken files.
                format!("{key}: \"{secret}\n"),
                format!("{key}: [{secret}\n"),
                format!("{key}: {{ {secret}\n"),
                format!("\t{key}: {secret}\n"),
                format!("{key}: ]{secret}\n"),
                format!("{key} = {secret}\n"),
                format!("{key}\n{secret}\n"),
                format!("{secret}\n"),
                format!("? {secret}\n: {key}\n"),
                format!("redundancy:\n  {secret}: {key}\n"),
                format!("{key}: *{secret}\n"),
                format!("%{secret}\n---\n{key}: 1\n"),
            ] {
                assert_hidden(&configuration(&text), secret_part, &text);
            }
        }
    }
}

#[test]
fn a_secret_in_the_place_of_each_value_of_whole_files_is_hidden() {
    let files = ["../../../config/reference.yaml", "../../../config/gate.yaml"];
    let texts = [include_str!("../../../config/reference.yaml"), include_str!("../../../config/gate.yaml")];
    for (file, text) in files.iter().zip(texts) {
        let lines: Vec<&str> = text.lines().collect();
        let values =
            lines.iter().enumerate().filter(|(_, line)| line.contains(": ") && !line.trim_start().starts_with('#'));
        let mut planted = 0;
        for (at, line) in values {
            let key = line[..line.find(": ").unwrap_or_default()].trim_start_matches([' ', '-']);
            for secret in SECRETS {
                let hidden = if kind_of(key) == Kind::PublicKey && secret.len() == 44 { &secret[8..] } else { secret };
                let indent = &line[..line.find(": ").unwrap_or_default()];
                let mut changed: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
                changed[at] = format!("{indent}: {secret}");
                // Also with all that follows cut off in the middle of a quote, and with a bracket that nothing closes.
                for cut in [
                    changed.join("\n"),
                    changed[..=at].join("\n"),
                    format!("[{}", changed.join("\n")),
                    changed.join("\n").replace(": ", ":\t"),
                ] {
                    assert_hidden(&configuration(&cut), hidden, file);
                }
                planted += 1;
            }
        }
        assert!(planted > 100, "{file}: {planted}");
    }
}

#[test]
fn a_private_key_in_pem_in_a_file_is_hidden() {
    let pem = "tls:\n  key: |\n    -----BEGIN PRIVATE KEY-----\n    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n \
            short\n    \
               -----END PRIVATE KEY-----\n";
    let shown = configuration(pem);
    for part in ["MIGHAg", "short", "BEGIN"] {
        assert!(!shown.contains(part), "{shown}");
    }
}

/// What helps to find a mistake is still there.
#[test]
fn a_configuration_without_secrets_keeps_its_values() {
    let text = "\
# a comment
node:
  name: ithaca
  key_file: /etc/onwire/ithaca.key
  listen: 0.0.0.0:7117
  local_prefixes: [10.1.0.0/24, \"fd00:1::/64\"]
tun: { name: ow0, mtu: 1500, offload: auto }
peers:
  - name: syracuse # the mirror
    public_key: kZlS3k1AqN0qX0mU7q5y8rJb2W4tYc6uVxPzQeRfTgH=
    preshared_key_file: psk.key
    endpoint: mirror.example.org:7117
    prefixes:
      - 10.2.0.0/24
      - fd00:2::/64
    path: { mtu: 1500, rate: 950mbit, udp_gso: auto, dscp: null }
redundancy:
  bursty:
    block_symbols: 256
    repair: { residual: 1e-9, survive_burst: 2ms, max_overhead: 50% }
notify:
  keys:
    - { id: 1, file: notify.key }
password: hunter2
";
    let wanted = "\
node:
  name: ithaca
  key_file: /etc/onwire/ithaca.key
  listen: 0.0.0.0:7117
  local_prefixes: [10.1.0.0/24, \"fd00:1::/64\"]
tun: { name: ow0, mtu: 1500, offload: auto }
peers:
  - name: syracuse
    public_key: kZlS3k1A... (the first 8 characters)
    preshared_key_file: psk.key
    endpoint: mirror.example.org:7117
    prefixes:
      - 10.2.0.0/24
      - fd00:2::/64
    path: { mtu: 1500, rate: 950mbit, udp_gso: auto, dscp: null }
redundancy:
  bursty:
    block_symbols: 256
    repair: { residual: 1e-9, survive_burst: 2ms, max_overhead: 50% }
notify:
  keys:
    - { id: 1, file: notify.key }
(left out): (left out)
";
    assert_eq!(configuration(text), wanted);
}

#[test]
fn a_log_loses_what_it_quotes_of_a_configuration() {
    for secret in ["hunter2", "My Secret"] {
        for line in [
            format!("2026-01-01T00:00:00+0000 host onwire[7]:   12 |   password: {secret}"),
            format!("/etc/onwire/a.yaml:3:5: peers: found \"{secret}\"; allowed: a word"),
            format!("a.yaml:3:5: node.key_file: the key file {secret} cannot be read: No such file"),
            format!("a.yaml:3:5: node.key_file: the key file {secret} has mode 0644: others"),
        ] {
            let shown = log(&line);
            assert!(!shown.contains(secret) && shown.contains(LEFT_OUT), "{shown}");
        }
    }
    let harmless = "2026-01-01T00:00:00+0000 host onwire[7]: WARN the peer does not answer at 192.0.2.1:7117\n";
    assert_eq!(log(harmless), harmless);
}

#[test]
fn of_errors_the_places_are_named_and_nothing_else() {
    let errors = "/etc/onwire/a.yaml:3:5: node.hunter2: unknown key\n  3 |   hunter2: x\n    |   \
         ^^^\n/etc/onwire/a.yaml:9:1: x\n";
    assert_eq!(places(errors), "errors at line:column 3:5, 9:1");
    assert_eq!(places("hunter2"), "errors, (left out)");
}

proptest! {
    #[test]
    fn a_random_key_is_hidden_in_any_text(before in "[ -~\n\t]{0,80}", after in "[ \
         -~\n\t]{0,80}", seed in any::<[u8; 32]>()) {
        use base64::Engine as _;
        let key = base64::prelude::BASE64_STANDARD.encode(seed);
        let shown = configuration(&format!("{before}{key}{after}"));
        prop_assert!(!shown.contains(&key[9..]), "{shown}");
    }

    #[test]
    fn any_text_is_redacted_without_a_panic(text in "\\PC{0,200}|[ -~\n\t]{0,200}") {
        let _ = (configuration(&text), log(&text), places(&text));
    }
}
