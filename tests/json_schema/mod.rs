//! Holds a document against a JSON Schema, as far as the schemas of onwire go: a keyword that it does not know is a
//! fault. It checks no formats, and follows references within the document only.
#![allow(dead_code, reason = "each test program uses a part")]

use regex_lite::Regex;
use serde_json::{Map, Value};

/// The schema of a kind of document, as `onwire schema` prints it.
pub fn printed(kind: &str) -> Value {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_onwire")).args(["schema", kind]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What is wrong with `document`; empty if it is as the schema says.
pub fn faults(schema: &Value, document: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    Checker { root: schema }.check(schema, document, "", &mut faults);
    faults
}

/// Fails unless `document` is as the schema of this kind says.
pub fn assert_valid(kind: &str, document: &Value) {
    let found = faults(&printed(kind), document);
    assert!(found.is_empty(), "not as `onwire schema {kind}` says:\n{}\n{document:#}", found.join("\n"));
}

/// Keywords that say nothing about a document.
const SILENT: [&str; 8] = ["$schema", "$defs", "title", "description", "default", "examples", "format", "writeOnly"];

struct Checker<'a> {
    root: &'a Value,
}

impl Checker<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let Value::Object(keywords) = schema else {
            if *schema == Value::Bool(false) {
                faults.push(format!("{at}: nothing is allowed here"));
            }
            return;
        };
        for (keyword, wanted) in keywords {
            if let Err(fault) = self.keyword(keyword, wanted, (keywords, value), at, faults) {
                faults.push(format!("{at}: {fault}: found {value}"));
            }
        }
    }

    fn is_valid(&self, schema: &Value, value: &Value) -> bool {
        let mut faults = Vec::new();
        self.check(schema, value, "", &mut faults);
        faults.is_empty()
    }

    fn keyword(
        &self,
        keyword: &str,
        wanted: &Value,
        (keywords, value): (&Map<String, Value>, &Value),
        at: &str,
        faults: &mut Vec<String>,
    ) -> Result<(), String> {
        let list = || wanted.as_array().cloned().unwrap_or_default();
        let holds = |is_so: bool| if is_so { Ok(()) } else { Err(format!("{keyword} {wanted}")) };
        let number = |compare: fn(f64, f64) -> bool| {
            holds(value.as_f64().is_none_or(|it| compare(it, wanted.as_f64().unwrap())))
        };
        let length = |len: Option<usize>, compare: fn(u64, u64) -> bool| {
            holds(len.is_none_or(|len| compare(len as u64, wanted.as_u64().unwrap())))
        };
        match keyword {
            _ if SILENT.contains(&keyword) => Ok(()),
            "$ref" => {
                let pointer = wanted.as_str().and_then(|text| text.strip_prefix('#')).ok_or("a reference elsewhere")?;
                let target = self.root.pointer(pointer).ok_or_else(|| format!("no {wanted}"))?;
                self.check(target, value, at, faults);
                Ok(())
            }
            "type" => {
                let names = if wanted.is_array() { list() } else { vec![wanted.clone()] };
                holds(names.iter().any(|name| is_of_type(value, name.as_str().unwrap())))
            }
            "const" => holds(value == wanted),
            "enum" => holds(list().contains(value)),
            "allOf" => holds(list().iter().all(|schema| self.is_valid(schema, value))),
            "anyOf" if list().iter().any(|schema| self.is_valid(schema, value)) => Ok(()),
            "anyOf" => {
                // Of what may be null or something else, the fault is in the something.
                let is_null = |schema: &&Value| schema["type"] == "null";
                match &list().iter().filter(|schema| !is_null(schema)).collect::<Vec<_>>()[..] {
                    [only] => self.check(only, value, at, faults),
                    _ => return holds(false),
                }
                Ok(())
            }
            "oneOf" => holds(list().iter().filter(|schema| self.is_valid(schema, value)).count() == 1),
            "required" => {
                let Value::Object(fields) = value else { return Ok(()) };
                holds(list().iter().all(|name| fields.contains_key(name.as_str().unwrap())))
            }
            "properties" => {
                for (name, schema) in wanted.as_object().unwrap() {
                    if let Some(field) = value.get(name) {
                        self.check(schema, field, &format!("{at}/{name}"), faults);
                    }
                }
                Ok(())
            }
            "additionalProperties" => {
                let known = keywords.get("properties").and_then(Value::as_object);
                for (name, field) in value.as_object().into_iter().flatten() {
                    if known.is_none_or(|known| !known.contains_key(name)) {
                        self.check(wanted, field, &format!("{at}/{name}"), faults);
                    }
                }
                Ok(())
            }
            "items" => {
                // Behind `prefixItems` it is about the rest.
                let before = keywords.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
                for (number, element) in value.as_array().into_iter().flatten().enumerate().skip(before) {
                    self.check(wanted, element, &format!("{at}/{number}"), faults);
                }
                Ok(())
            }
            "prefixItems" => {
                for (number, schema) in list().iter().enumerate() {
                    if let Some(element) = value.get(number) {
                        self.check(schema, element, &format!("{at}/{number}"), faults);
                    }
                }
                Ok(())
            }
            "minItems" => length(value.as_array().map(Vec::len), |len, wanted| len >= wanted),
            "maxItems" => length(value.as_array().map(Vec::len), |len, wanted| len <= wanted),
            "minLength" => length(value.as_str().map(|text| text.chars().count()), |len, wanted| len >= wanted),
            "maxLength" => length(value.as_str().map(|text| text.chars().count()), |len, wanted| len <= wanted),
            "pattern" => {
                let pattern = Regex::new(wanted.as_str().unwrap()).map_err(|error| error.to_string())?;
                holds(value.as_str().is_none_or(|text| pattern.is_match(text)))
            }
            "minimum" => number(|value, wanted| value >= wanted),
            "maximum" => number(|value, wanted| value <= wanted),
            "exclusiveMinimum" => number(|value, wanted| value > wanted),
            _ => Err(format!("the keyword {keyword} is not known to this check")),
        }
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[test]
fn the_check_finds_what_is_wrong() {
    let schema = serde_json::json!({
        "type": "object", "required": ["a"], "additionalProperties": false,
        "properties": {
            "a": { "$ref": "#/$defs/word" },
            "b": { "type": ["array", "null"], "items": { "type": "integer", "maximum": 3 }, "minItems": 1 },
            "c": { "oneOf": [{ "const": 1 }, { "type": "integer" }] },
            "d": { "additionalProperties": { "minLength": 2 } },
        },
        "$defs": { "word": { "type": "string", "pattern": "^x+$" } },
    });
    for (document, wrong) in [
        (r#"{"a": "xx", "b": [3], "c": 2, "d": {"k": "ab"}}"#, ""),
        (r#"{"a": "x", "b": null}"#, ""),
        (r#"{"b": null}"#, "required"),
        (r#"{"a": "y"}"#, "/a: pattern"),
        (r#"{"a": 1}"#, "/a: type"),
        (r#"{"a": "x", "b": [4]}"#, "/b/0: maximum"),
        (r#"{"a": "x", "b": []}"#, "/b: minItems"),
        (r#"{"a": "x", "c": 1}"#, "/c: oneOf"),
        (r#"{"a": "x", "d": {"k": "a"}}"#, "/d/k: minLength"),
        (r#"{"a": "x", "e": 1}"#, "/e: nothing is allowed"),
        ("[]", "type"),
    ] {
        let found = faults(&schema, &serde_json::from_str(document).unwrap()).join("\n");
        assert!(if wrong.is_empty() { found.is_empty() } else { found.contains(wrong) }, "{document}: {found}");
    }
    assert!(faults(&serde_json::json!({ "not": {} }), &Value::Null)[0].contains("is not known"));
}
