//! The pages of results, laid out by a real browser: nothing is wider than the page, no word is cut, each plot has its text
//! inside.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use onwire::lab::{
    page,
    plot::{Plot, PlotLine, Scale},
    report::Report,
};

/// Chromium and what else is built from it; any will do.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Asks the page about itself, and leaves the answer in its title.
const LOOK: &str = "<script>
const box = element => element.getBoundingClientRect();
const lines = cell => { const range = document.createRange(); range.selectNodeContents(cell); return new Set([...range.getClientRects()].map(it => Math.round(it.top))).size; };
const plots = [...document.querySelectorAll('svg')];
document.title = JSON.stringify({
    page: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    plots: plots.length,
    small: plots.filter(it => box(it).width < 300 || box(it).height < 200).length,
    outside: plots.flatMap(plot => [...plot.querySelectorAll('text')].filter(it => box(it).right > box(plot).right + 1 || box(it).left < box(plot).left - 1).map(it => it.textContent)),
    cut: [...document.querySelectorAll('td, th')].filter(it => !/[\\s-]/.test(it.textContent.trim()) && lines(it) > 1).map(it => it.textContent),
    verdicts: document.querySelectorAll('td.ok, td.fails').length,
});
</script>";

fn browse(arguments: &[&str], page: &Path) -> Vec<u8> {
    let home = tempfile::tempdir().unwrap();
    for browser in BROWSERS {
        let mut command = Command::new(browser);
        // As root it has no sandbox; a container may have little shared memory.
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1000,1000",
        ]);
        command.arg(format!("--user-data-dir={}", home.path().display())).args(arguments);
        command.arg(format!("file://{}", page.display())).stderr(Stdio::null());
        match command.output() {
            Ok(output) => {
                assert!(output.status.success(), "{browser}: {:?}", output.status);
                return output.stdout;
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{browser}: {error}"),
        }
    }
    panic!("chromium is missing: apt-get install chromium, or any of {BROWSERS:?}");
}

/// What the browser sees of a page.
fn look(html: &str) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("page.html");
    std::fs::write(&page, html.replace("</body>", &format!("{LOOK}</body>"))).unwrap();
    let dom = String::from_utf8(browse(&["--dump-dom"], &page)).unwrap();
    let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap_or_default();
    serde_json::from_str(&title.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
        .unwrap_or_else(|error| panic!("{error}: {title}"))
}

fn assert_is_well_laid_out(html: &str, plots: u64, verdicts: u64) {
    let seen = look(html);
    assert_eq!((seen["plots"].as_u64(), seen["verdicts"].as_u64()), (Some(plots), Some(verdicts)), "{seen}");
    assert_eq!((seen["page"].as_f64(), seen["small"].as_u64()), (Some(0.0), Some(0)), "{seen}");
    for kind in ["outside", "cut"] {
        assert_eq!(seen[kind].as_array().map(Vec::len), Some(0), "{kind}: {seen}");
    }
}

fn report() -> Report {
    let mut report = Report::default();
    report.claim(
        "network-sync: none is lost, whatever the link does before and after the site's end",
        "0 of 168456",
        true,
    );
    report.claim("control: some are lost", "none", false);
    let row = ["interruptions of 3 ms", "32, 8", "1000000", "2083", "1.967e-3 to 2.203e-3", "2.110e-3", "4.950e-15"];
    report.table(
        &["link", "k, m", "blocks", "lost", "99 % interval", "formula", "wrong formula"],
        [row.map(str::to_owned).to_vec(), row.map(str::to_owned).to_vec()],
    );
    let lines = ["local", "network-sync", "remote_write direct", "on", "remote_apply", "local p99", "network-sync p99"];
    let line =
        |name: &str| PlotLine { name: name.to_owned(), is_dashed: true, points: vec![(0.0, 0.3), (100.0, 101.5)] };
    report.draw(Plot {
        title: "PostgreSQL commit, one client".to_owned(),
        across: "round trip to the mirror, ms".to_owned(),
        upwards: "commit p50, ms".to_owned(),
        scale: Scale::Logarithmic,
        lines: lines.map(line).to_vec(),
    });
    report
}

#[test]
fn a_page_is_laid_out_as_it_should_be() {
    let html = page::html(&report(), "commit-latency", 1);
    assert_is_well_laid_out(&html, 1, 2);
    // The control: this look sees what is wrong.
    let broken =
        html.replace("overflow-wrap: break-word", "overflow-wrap: anywhere").replace("width: 100%", "width: 150px");
    assert_ne!(look(&broken)["cut"].as_array().map(Vec::len), Some(0), "words that are cut are seen");
    let far = html.replace("</svg>", "<text x=\"900\" y=\"50\">a long word</text></svg>");
    assert_eq!(look(&far)["outside"][0], "a long word", "text outside its plot is seen");
    let small = html.replace("svg { width: 100%", "svg { width: 100px");
    assert_eq!(look(&small)["small"], 1, "a plot that is too small is seen");
    let wide = html.replace("<h2>Claims", "<div style=\"width: 2000px\">.</div><h2>Claims");
    assert!(look(&wide)["page"].as_f64() > Some(500.0), "a page that is too wide is seen");
}

#[test]
fn a_page_can_be_printed() {
    let directory = tempfile::tempdir().unwrap();
    let (page, paper) = (directory.path().join("page.html"), directory.path().join("page.pdf"));
    std::fs::write(&page, page::html(&report(), "commit-latency", 1)).unwrap();
    browse(&[&format!("--print-to-pdf={}", paper.display())], &page);
    let printed = std::fs::read(&paper).unwrap();
    assert!(printed.starts_with(b"%PDF") && printed.len() > 5000, "{} bytes", printed.len());
}
