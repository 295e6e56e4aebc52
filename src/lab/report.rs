//! What a scenario found: claims that held or did not, numbers, and tables for people.
//!
//! The JSON is described in `docs/lab.md` and stable. Decides nothing: a scenario says what it claims.

use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use serde_json::{Map, Value, json};

use super::plot::Plot;

/// A claim of a scenario and what was found.
#[derive(Clone, Debug)]
pub struct Claim {
    /// What ought to be.
    pub claim: String,
    /// What is.
    pub found: String,
    /// Whether that is it.
    pub holds: bool,
}

/// The result of a scenario.
#[derive(Debug, Default)]
pub struct Report {
    claims: Vec<Claim>,
    metrics: Map<String, Value>,
    tables: Vec<Table>,
    plot: Option<Plot>,
}

impl Report {
    /// States a claim.
    pub fn claim(&mut self, claim: impl Into<String>, found: impl Into<String>, holds: bool) {
        self.claims.push(Claim { claim: claim.into(), found: found.into(), holds });
    }

    /// Notes a number (or a structure of numbers) under a stable name.
    pub fn metric(&mut self, name: &str, value: impl Into<Value>) {
        self.metrics.insert(name.to_owned(), value.into());
    }

    /// Adds a table.
    pub fn table(&mut self, headers: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_header(headers.iter().copied());
        table.add_rows(rows);
        self.tables.push(table);
    }

    /// Adds the plot; a report has at most one.
    pub fn draw(&mut self, plot: Plot) {
        self.plot = Some(plot);
    }

    /// The plot as SVG.
    pub fn to_svg(&self) -> Option<String> {
        self.plot.as_ref().map(Plot::to_svg)
    }

    /// Whether every claim holds. A report without claims claims nothing and passes.
    pub fn passes(&self) -> bool {
        self.claims.iter().all(|claim| claim.holds)
    }

    /// The result for programs.
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

    /// The result for people.
    pub fn to_text(&self, scenario: &str) -> String {
        let mut claims = Table::new();
        claims.load_style(UTF8_BORDERS_ONLY).set_header(["claim", "found", ""]);
        for claim in &self.claims {
            claims.add_row([claim.claim.as_str(), &claim.found, if claim.holds { "ok" } else { "NOT SO" }]);
        }
        let mut parts: Vec<_> = self.tables.iter().map(ToString::to_string).collect();
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
    fn one_claim_that_does_not_hold_fails_the_scenario() {
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
