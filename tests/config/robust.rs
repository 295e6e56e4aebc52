//! No text makes the configuration reader panic, and a refused text always has a reason.

use std::path::Path;

use onwire::config::{self, Severity};
use proptest::prelude::*;

const REFERENCE: &str = include_str!("../../config/reference.yaml");

fn read(text: &str) -> Result<(), TestCaseError> {
    match config::parse(text, Path::new("nowhere/onwire.yaml")) {
        Ok(config) => prop_assert!(!config.peers.is_empty()),
        Err(errors) => {
            prop_assert!(errors.errors() > 0);
            let shown = errors.to_string();
            prop_assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", shown);
            for problem in errors.problems.iter().filter(|p| p.severity == Severity::Error) {
                prop_assert!(!problem.found.is_empty());
                prop_assert!(problem.place.line <= text.lines().count() + 1);
            }
        }
    }
    Ok(())
}

/// An editing mistake: something inserted, removed, or repeated.
#[derive(Clone, Debug)]
enum Slip {
    Insert(usize, String),
    Remove(usize, usize),
    Repeat(usize, usize),
}

fn slip() -> impl Strategy<Value = Slip> {
    let words = prop::sample::select(vec![
        "",
        ":",
        "-",
        " ",
        "\n",
        "\t",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "#",
        "&a",
        "*a",
        "!t",
        "|",
        ">",
        "null",
        "~",
        "-1",
        "0",
        "65536",
        "99999999999999999999",
        "1e400",
        "::",
        "/0",
        "%",
        "\u{1b}[31m",
        "\u{0}",
        "\u{feff}",
        "é",
        "---\n",
        "...\n",
        "? ",
        "<<: ",
        "peers:\n",
        "repair: none",
        "\r\n",
    ]);
    prop_oneof![
        (any::<prop::sample::Index>(), words).prop_map(|(at, word)| Slip::Insert(at.index(1 << 16), word.to_owned())),
        (0..1usize << 16, 0..40usize).prop_map(|(at, length)| Slip::Remove(at, length)),
        (0..1usize << 16, 0..200usize).prop_map(|(at, length)| Slip::Repeat(at, length)),
    ]
}

fn apply(text: &mut Vec<char>, slip: &Slip) {
    let length = text.len() + 1;
    match slip {
        Slip::Insert(at, word) => {
            let at = at % length;
            text.splice(at..at, word.chars());
        }
        Slip::Remove(at, count) => {
            let at = at % length;
            text.drain(at..(at + count).min(length - 1));
        }
        Slip::Repeat(at, count) => {
            let at = at % length;
            let again: Vec<char> = text[at..(at + count).min(length - 1)].to_vec();
            text.splice(at..at, again);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_damaged_reference_never_panics(slips in prop::collection::vec(slip(), 1..6)) {
        // Comments are three quarters of the text; without them the slips hit keys and values.
        let bare = REFERENCE.lines().filter(|line| !line.trim_start().starts_with('#'));
        let mut text: Vec<char> = bare.collect::<Vec<_>>().join("\n").chars().collect();
        slips.iter().for_each(|slip| apply(&mut text, slip));
        read(&text.into_iter().collect::<String>())?;
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,300}|[ -~\n\t]{0,300}") {
        read(&text)?;
    }

    #[test]
    fn any_value_of_any_key_never_panics(
        table in prop::sample::select(vec!["node", "tun", "delivery", "bypass", "notify", "status", "log", "redundancy.x", "policy[]", "peers[]"]),
        key in prop::sample::select(onwire::config::schema::TABLES.iter().flat_map(|keys| keys.in_force).copied().collect::<Vec<_>>()),
        value in "[-0-9a-z:./%\\[\\]{}, ]{0,40}",
    ) {
        let text = match (table.strip_suffix("[]"), table.strip_suffix(".x")) {
            (Some(list), _) => format!("{list}: [{{ {key}: {value} }}]\n"),
            (_, Some(named)) => format!("{named}: {{ x: {{ {key}: {value} }} }}\n"),
            _ => format!("{table}: {{ {key}: {value} }}\n"),
        };
        read(&text)?;
    }
}

#[test]
fn many_errors_in_one_long_line_stay_small() {
    let text = format!("tun: {{ {} }}\n", (0..20_000).map(|n| format!("k{n}: 1")).collect::<Vec<_>>().join(", "));
    let errors = config::parse(&text, Path::new("long.yaml")).unwrap_err();
    assert!(errors.errors() > 20_000);
    assert!(errors.to_string().len() < 20_000 * 600);
}

#[test]
fn a_thousand_equal_prefixes_are_not_a_million_problems() {
    let prefixes = vec!["10.0.0.0/8"; 3_000].join(", ");
    let text = format!("node: {{ local_prefixes: [{prefixes}] }}\npeers: [{{ prefixes: [{prefixes}] }}]\n");
    let errors = config::parse(&text, Path::new("wide.yaml")).unwrap_err();
    assert!((6_000..6_100).contains(&errors.problems.len()), "{}", errors.problems.len());
}
