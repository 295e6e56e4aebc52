//! The result of a scenario: claims that hold or do not, numbers, and tables for people.
//!
//! `docs/lab.md` describes the JSON, which is stable. This module decides nothing: the scenario makes the claims.

use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use serde_json::{Map, Value, json};

use super::plot::Plot;

/// A claim of a scenario and what was found.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The statement that must hold.
    pub claim: String,
    /// The measured value.
    pub found: String,
    /// Whether the claim holds.
    pub holds: bool,
}

/// The result of a scenario.
#[derive(Debug, Default)]
pub struct Report {
    claims: Vec<Claim>,
    metrics: Map<String, Value>,
    tables: Vec<Rows>,
    plots: Vec<Plot>,
}

/// A table.
#[derive(Debug)]
pub(super) struct Rows {
    pub headers: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Report {
    /// Adds a claim.
    pub fn claim(&mut self, claim: impl Into<String>, found: impl Into<String>, holds: bool) {
        self.claims.push(Claim { claim: claim.into(), found: found.into(), holds });
    }

    /// Stores a number (or a structure of numbers) under a stable name.
    pub fn metric(&mut self, name: &str, value: impl Into<Value>) {
        self.metrics.insert(name.to_owned(), value.into());
    }

    /// Adds a table.
    pub fn table(&mut self, headers: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        let headers = headers.iter().map(|header| (*header).to_owned()).collect();
        self.tables.push(Rows { headers, rows: rows.into_iter().collect() });
    }

    /// Adds a plot. The first is also a file of its own.
    pub fn draw(&mut self, plot: Plot) {
        self.plots.push(plot);
    }

    /// The first plot as SVG.
    pub fn to_svg(&self) -> Option<String> {
        self.plots.first().map(Plot::to_svg)
    }

    /// The claims.
    pub(super) fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// The tables.
    pub(super) fn tables(&self) -> &[Rows] {
        &self.tables
    }

    /// The plots.
    pub(super) fn plots(&self) -> &[Plot] {
        &self.plots
    }

    /// Whether every claim holds; true without claims.
    pub fn passes(&self) -> bool {
        self.claims.iter().all(|claim| claim.holds)
    }

    /// The result as JSON.
    pub fn to_json(&self, scenario: &str, seed: u64) -> Value {
        let claims = self.claims.iter();
        let claims: Vec<_> =
            claims.map(|claim| json!({ "claim": claim.claim, "found": claim.found, "pass": claim.holds })).collect();
        json!({
            "scenario": scenario,
            "pass": self.passes(),
            "seed": seed,
            "version": env!("CARGO_PKG_VERSION"),
            "claims": claims,
            "metrics": self.metrics,
        })
    }

    /// The result as text.
    pub fn to_text(&self, scenario: &str) -> String {
        let mut claims = Table::new();
        claims.load_style(UTF8_BORDERS_ONLY).set_header(["claim", "found", ""]);
        for claim in &self.claims {
            claims.add_row([claim.claim.as_str(), &claim.found, if claim.holds { "ok" } else { "NOT SO" }]);
        }
        let table = |rows: &Rows| {
            let mut table = Table::new();
            table.load_style(UTF8_BORDERS_ONLY).set_header(&rows.headers);
            table.add_rows(&rows.rows);
            table.to_string()
        };
        let mut parts: Vec<_> = self.tables.iter().map(table).collect();
        if !self.claims.is_empty() {
            parts.push(claims.to_string());
        }
        parts.push(format!("{scenario}: {}", if self.passes() { "pass" } else { "FAIL" }));
        parts.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_false_claim_fails_the_scenario() {
        let mut report = Report::default();
        assert!(report.passes());
        report.claim("a", "1", true);
        report.metric("n", 7);
        report.table(&["x"], [vec!["y".to_owned()]]);
        assert!(report.to_text("s").ends_with("s: pass"));
        report.claim("b", "2", false);
        let value = report.to_json("s", 3);
        assert_eq!(value["pass"], false);
        assert_eq!(value["claims"][1]["found"], "2");
        assert_eq!((&value["metrics"]["n"], &value["seed"]), (&json!(7), &json!(3)));
        assert!(report.to_text("s").contains("NOT SO"));
    }
}
