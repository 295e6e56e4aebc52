//! What is exported, documented and used: the tables of docs/monitoring.md are the metrics of the program, and the rules and the
//! dashboard use no other. Prometheus' own program checks the rules.
//!
//! `ONWIRE_BLESS=1 cargo test --test config monitoring` writes the tables anew; then read the diff.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use onwire::metrics::family::Described;
use onwire::metrics::process;
use onwire::{appliance, gate};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The metrics of each table of the document.
fn tables() -> [(&'static str, Vec<Described>); 3] {
    let process: Vec<Described> = process::described().collect();
    let others = |all: Vec<Described>| -> Vec<Described> {
        all.into_iter().filter(|metric| !process.contains(metric)).collect()
    };
    let (appliance, gate) = (others(appliance::metrics::described()), others(gate::metrics::described()));
    [("process", process), ("appliance", appliance), ("gate", gate)]
}

fn row(metric: &Described) -> String {
    let Described { name, kind, labels, unit, help } = metric;
    let code = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    format!("| `{name}` | {kind} | {} | {unit} | {help} |\n", code(labels))
}

#[test]
fn the_documented_tables_are_what_is_exported() {
    let mut document = read("docs/monitoring.md");
    let before = document.clone();
    for (name, metrics) in tables() {
        let (begin, end) = (format!("<!-- table: {name} -->\n"), "<!-- end -->");
        let start = document.find(&begin).unwrap_or_else(|| panic!("no {begin}")) + begin.len();
        let length = document[start..].find(end).unwrap();
        let head = "| name | type | labels | unit | meaning |\n|---|---|---|---|---|\n";
        let rows: String = metrics.iter().map(row).collect();
        document.replace_range(start..start + length, &format!("{head}{rows}"));
    }
    if std::env::var_os("ONWIRE_BLESS").is_some() {
        fs::write(path("docs/monitoring.md"), &document).unwrap();
    }
    let differs = |(line, (written, wanted)): (usize, (&str, &str))| {
        (written != wanted).then(|| format!("docs/monitoring.md:{}:\n  {written}\nshould be\n  {wanted}", line + 1))
    };
    let wrong = before.lines().zip(document.lines()).enumerate().find_map(differs);
    assert!(before == document, "{wrong:?}; ONWIRE_BLESS=1 cargo test --test config monitoring writes the tables");
}

/// What the conventions of Prometheus ask of names, and what a name promises.
#[test]
fn names_follow_the_conventions() {
    let mut families = BTreeMap::new();
    for (name, metrics) in tables() {
        for metric in metrics {
            let Described { name, kind, labels, unit, help } = &metric;
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(name.starts_with("onwire_") && !name.contains("__"), "{name}");
            assert_eq!(*kind == "counter", name.ends_with("_total"), "{name}");
            let family = name.strip_suffix("_total").unwrap_or(name);
            assert!(unit.is_empty() || family.ends_with(&format!("_{unit}")), "{name} is in {unit}");
            for other in
                ["_ms", "_milliseconds", "_us", "_percent", "_kilobytes", "_count", "_sum", "_bucket", "_created"]
            {
                assert!(!family.ends_with(other), "{name}: {other}");
            }
            assert!(help.ends_with('.') && !help.contains(['\n', '\\', '|']), "{name}: {help}");
            let known =
                ["role", "node", "version", "lane", "reason", "peer", "state", "window", "profile", "gate", "kind"];
            let known = [&known[..], &["policy", "level", "origin", "toward"]].concat();
            assert!(
                labels.iter().all(|label| known.contains(label)),
                "{name}: a label that is not bounded? {labels:?}"
            );
            families.entry(family.to_owned()).or_insert_with(Vec::new).push(metric.clone());
        }
        assert!(!families.is_empty(), "{name}");
    }
    for (family, metrics) in families {
        assert_eq!(metrics.len(), 1, "{family} is more than one metric: {metrics:?}");
    }
}

/// The names of our metrics in a text.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.filter(|word| word.starts_with("onwire_")).map(str::to_owned).collect()
}

#[test]
fn rules_dashboard_and_document_use_no_metric_that_does_not_exist() {
    let exported: BTreeSet<String> = tables().into_iter().flat_map(|(_, metrics)| metrics).map(|it| it.name).collect();
    for (file, fewest) in [
        ("config/monitoring/onwire-alerts.yaml", 25),
        ("config/monitoring/grafana-dashboard.json", 35),
        ("docs/monitoring.md", 100),
    ] {
        let used = names_in(&read(file));
        assert!(used.len() >= fewest, "{file}: only {} names; is this the file?", used.len());
        let unknown: Vec<_> = used.difference(&exported).filter(|name| !name.ends_with('_')).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?} are not exported");
    }
}

/// A selector of a value that a label never has is never true: the alarm would stay silent.
#[test]
fn rules_and_dashboard_select_by_labels_that_the_metric_has() {
    let labels: BTreeMap<String, &[&str]> =
        tables().into_iter().flat_map(|(_, metrics)| metrics).map(|it| (it.name, it.labels)).collect();
    let dashboard = read("config/monitoring/grafana-dashboard.json").replace("\\\"", "\"");
    let mut selectors = 0;
    for text in [read("config/monitoring/onwire-alerts.yaml"), dashboard] {
        for (at, _) in text.match_indices("onwire_") {
            let end = text[at..].find(|it: char| !it.is_ascii_alphanumeric() && it != '_').unwrap() + at;
            let (name, rest) = (&text[at..end], &text[end..]);
            let Some(inside) = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()) else { continue };
            for selector in inside.split(',') {
                let label = selector.split(['=', '!']).next().unwrap().trim();
                let known = labels.get(name).unwrap_or_else(|| panic!("{name}"));
                assert!(label == "instance" || known.contains(&label), "{name} has no label {label}");
                selectors += 1;
                if label == "state" {
                    assert!(selector.ends_with("\"up\""), "{selector}");
                }
            }
        }
    }
    assert!(selectors > 40, "only {selectors}");
}

#[test]
fn the_dashboard_is_one_that_grafana_takes() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("config/monitoring/grafana-dashboard.json")).unwrap();
    assert_eq!((&dashboard["uid"], &dashboard["title"]), (&"onwire".into(), &"onwire".into()));
    let panels = dashboard["panels"].as_array().unwrap();
    let mut numbers = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        assert!(numbers.insert(panel["id"].as_u64().unwrap()), "two panels have one number: {panel}");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{panel}");
        for y in place("y")..place("y") + place("h") {
            for x in place("x")..place("x") + place("w") {
                assert!(taken.insert((x, y)), "panels overlap: {panel}");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(!panel["description"].as_str().unwrap().is_empty() && panel["datasource"]["uid"] == "${datasource}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(
            !targets.is_empty() && targets.iter().all(|target| target["expr"].as_str().unwrap().contains("$instance"))
        );
    }
    assert!(panels.len() > 20);
}

/// Runs `promtool`; its output, which must not be an error.
fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool").args(arguments).output().unwrap_or_else(|error| {
        panic!("promtool: {error}; it is missing? apt-get install -y --no-install-recommends prometheus")
    });
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

#[test]
fn prometheus_takes_the_configuration_and_the_rules() {
    let said = promtool(&["check", "rules", path("config/monitoring/onwire-alerts.yaml").to_str().unwrap()]);
    assert!(said.contains("SUCCESS") && said.contains("rules found"), "{said}");
    promtool(&["check", "config", path("config/monitoring/prometheus.yaml").to_str().unwrap()]);
}

/// The rules fire for what they are meant for, and for nothing else: `tests/config/alerts.yaml` has the cases.
#[test]
fn the_rules_fire_when_they_should() {
    let said = promtool(&["test", "rules", path("tests/config/alerts.yaml").to_str().unwrap()]);
    assert!(said.contains("SUCCESS"), "{said}");
}

#[test]
fn every_rule_has_a_severity_and_says_what_to_do() {
    let text = read("config/monitoring/onwire-alerts.yaml");
    let rules = text.split("- alert: ").skip(1);
    let mut names = BTreeSet::new();
    for rule in rules {
        let name = rule.lines().next().unwrap();
        assert!(names.insert(name) && name.starts_with("Onwire"), "{name}");
        assert!(rule.contains("severity: critical") || rule.contains("severity: warning"), "{name}");
        assert!(rule.contains("summary:") && rule.contains("description:"), "{name}");
    }
    assert!(names.len() > 20);
    // What the document says of alerts is about rules that are there.
    let document = read("docs/monitoring.md");
    let said: BTreeSet<&str> = document.split('`').filter(|word| word.starts_with("Onwire")).collect();
    assert!(!said.is_empty() && said.is_subset(&names), "{said:?}");
}
