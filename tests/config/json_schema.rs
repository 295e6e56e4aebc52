//! The JSON Schemas of the two kinds of files: they have the keys that the files may have, and every example is as they
//! say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use onwire::config::schema::{GATE_TABLES, Keys, TABLES};
use serde_json::Value;

use crate::schema_check::{faults, printed};

fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut found: Vec<PathBuf> = ["", "pair", "postgres", "redis", "mariadb", "bird"]
        .iter()
        .flat_map(|directory| fs::read_dir(root.join(directory)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    found.sort();
    found
}

/// As an editor reads YAML 1.2: `off` is a word.
fn read(path: &Path) -> Option<Value> {
    let options = serde_yaml::options! { strict_booleans: true };
    serde_yaml::from_str_with_options(&fs::read_to_string(path).unwrap(), options).ok()
}

fn kind(document: &Value) -> &'static str {
    if document.get("gates").is_some() { "gate-config" } else { "config" }
}

#[test]
fn every_example_is_as_its_schema_says() {
    let examples = examples();
    assert!(examples.len() >= 4, "{examples:?}");
    for path in examples {
        let document = read(&path).expect("an example is YAML");
        let mut found = faults(&printed(kind(&document)), &document);
        // Words in capitals are to be filled in; an editor is right to mark them.
        found.retain(|fault| {
            !fault.ends_with(r#"found "PUBLIC-KEY-OF-SYRACUSE""#) && !fault.ends_with(r#"found "PUBLIC-KEY-OF-ITHACA""#)
        });
        assert!(found.is_empty(), "{}:\n{}", path.display(), found.join("\n"));
    }
}

#[test]
fn an_editor_sees_what_a_schema_can_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/invalid");
    for (name, wrong) in [
        ("unknown-key-top", "nothing is allowed here"),
        ("unknown-key-nested", "nothing is allowed here"),
        ("missing-required", "required"),
        ("peers-empty", "/peers: minItems"),
        ("tun-mtu-range", "/tun/mtu"),
        ("tun-offload-word", "/tun/offload"),
        ("delivery-words", "/delivery/ordering"),
        ("log-words", "/log/level"),
        ("metrics-listen", "/metrics/listen"),
        ("path-rate-unit", "/peers/0/path/rate"),
        ("public-key-bad", "/peers/0/public_key"),
        ("prefix-list-empty", "minItems"),
        ("listen-no-port", "/node/listen"),
        ("gate-many", "/gates/"),
    ] {
        let document = read(&root.join(name).with_extension("yaml")).unwrap();
        let found = faults(&printed(kind(&document)), &document).join("\n");
        assert!(found.contains(wrong), "{name}: {wrong} is not in\n{found}");
    }
}

#[test]
fn the_schemas_have_the_keys_that_the_files_may_have() {
    for (kind, tables) in [("config", &TABLES[..]), ("gate-config", &GATE_TABLES[..])] {
        let schema = printed(kind);
        let mut found = BTreeSet::new();
        collect(&schema, &schema, "", &mut found);
        let path = |keys: &Keys, key: &str| match keys.table {
            "" => key.to_owned(),
            table => format!("{table}.{key}"),
        };
        let expected: BTreeSet<String> =
            tables.iter().flat_map(|keys| keys.in_force.iter().map(|key| path(keys, key))).collect();
        assert_eq!(found, expected, "{kind}: the left has no key of the right, or one more");
    }
}

/// The paths of all keys, written as in the tables.
fn collect(root: &Value, schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    if let Some(pointer) = schema["$ref"].as_str().and_then(|text| text.strip_prefix('#')) {
        return collect(root, root.pointer(pointer).unwrap(), at, found);
    }
    for choice in ["anyOf", "oneOf"].iter().filter_map(|name| schema[name].as_array()).flatten() {
        collect(root, choice, at, found);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        found.insert(path.clone());
        assert!(describes(root, property), "{path} has no description");
        let element = &property["items"];
        match element.is_object() {
            true => collect(root, element, &format!("{path}[]"), found),
            false if property["additionalProperties"].is_object() => {
                collect(root, &property["additionalProperties"], &format!("{path}.*"), found);
            }
            false => collect(root, property, &path, found),
        }
    }
}

fn describes(root: &Value, schema: &Value) -> bool {
    let target = schema["$ref"].as_str().and_then(|text| root.pointer(text.strip_prefix('#')?));
    schema["description"].is_string() || target.is_some_and(|target| describes(root, target))
}
