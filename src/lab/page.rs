//! The result of a scenario as one static page of HTML: no script, no other file, readable on paper.
//!
//! Only lays out; what is claimed and measured comes from the report.

use std::fmt::Write as _;

use super::{
    plot::escape,
    report::{Report, Rows},
};

const STYLE: &str = "
body { font: 15px/1.45 sans-serif; color: #222; max-width: 1000px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; width: 100%; margin: 0.7em 0; }
th, td { text-align: left; vertical-align: top; padding: 0.3em 0.6em; border-bottom: 1px solid #ccc; overflow-wrap: break-word; }
th { border-bottom: 2px solid #888; }
.ok { color: #006b4f; } .fails { color: #a3260b; font-weight: bold; }
svg { width: 100%; height: auto; border: 1px solid #ddd; margin: 0.7em 0; }
pre { font-size: 12px; white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: 0.8em; }
@media print { body { max-width: none; margin: 0; font-size: 11pt; } details { display: none; } svg, tr { break-inside: avoid; } }
";

/// The text of the file.
pub fn html(report: &Report, scenario: &str, seed: u64) -> String {
    let name = escape(scenario);
    let (class, outcome) = verdict(report.passes(), "pass", "FAIL");
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>onwire-lab {name}: {outcome}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>onwire-lab {name}: <span class=\"{class}\">{outcome}</span></h1>\n<p>onwire {}, seed {}. Numbers of one run \
         on one machine: compare ratios, not digits.</p>\n",
        env!("CARGO_PKG_VERSION"),
        seed,
    );
    if !report.claims().is_empty() {
        html += "<h2>Claims</h2>\n<table>\n<tr><th>claim</th><th>found</th><th></th></tr>\n";
        for claim in report.claims() {
            let (class, outcome) = verdict(claim.holds, "ok", "NOT SO");
            let (said, found) = (escape(&claim.claim), escape(&claim.found));
            // Writing to a String cannot fail.
            let _ = writeln!(html, "<tr><td>{said}</td><td>{found}</td><td class=\"{class}\">{outcome}</td></tr>");
        }
        html += "</table>\n";
    }
    if !report.tables().is_empty() {
        html += "<h2>Measured</h2>\n";
    }
    for Rows { headers, rows } in report.tables() {
        let cells = |cells: &[String], tag: &str| -> String {
            cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
        };
        let _ = writeln!(html, "<table>\n<tr>{}</tr>", cells(headers, "th"));
        for row in rows {
            let _ = writeln!(html, "<tr>{}</tr>", cells(row, "td"));
        }
        html += "</table>\n";
    }
    if !report.plots().is_empty() {
        html += "<h2>Plots</h2>\n";
        report.plots().iter().for_each(|plot| html += &plot.to_svg());
    }
    let json = escape(&format!("{:#}", report.to_json(scenario, seed)));
    html + &format!(
        "<details>\n<summary>All numbers, as JSON</summary>\n<pre>{json}</pre>\n</details>\n</body>\n</html>\n"
    )
}

fn verdict<'a>(is_good: bool, good: &'a str, bad: &'a str) -> (&'a str, &'a str) {
    if is_good { ("ok", good) } else { ("fails", bad) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plot::{Plot, PlotLine, Scale};

    #[test]
    fn a_page_has_everything_and_text_is_no_markup() {
        let mut report = Report::default();
        report.claim("a <b> & \"c\"", "1 < 2", true);
        report.table(&["<x>"], [vec!["</td>".to_owned()]]);
        report.metric("n", 7);
        let line = PlotLine { name: "l".to_owned(), is_dashed: false, points: vec![(1.0, 1.0)] };
        for title in ["first", "second"] {
            report.draw(Plot {
                title: title.to_owned(),
                across: "x".to_owned(),
                upwards: "y".to_owned(),
                scale: Scale::Linear,
                lines: vec![line.clone()],
            });
        }
        let page = html(&report, "loss", 3);
        for wanted in [
            "a &lt;b&gt; &amp; &quot;c&quot;",
            "<th>&lt;x&gt;</th>",
            "<td>&lt;/td&gt;</td>",
            ">first<",
            ">second<",
            "seed 3",
            ": pass",
            "&quot;n&quot;: 7",
        ] {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
        for tag in ["table", "tr", "td", "th", "svg", "details", "html", "body"] {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}: {page}");
        }
        report.claim("d", "e", false);
        assert!(html(&report, "loss", 3).contains(": FAIL") && !page.contains("<script"));
    }
}
