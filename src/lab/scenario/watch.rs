//! What the notifications look like: some writes, a link that fails and comes back, and `onwire watch` beside it, live.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::Stage;
use crate::lab::{
    error::LabError,
    pair::{Pair, PairOptions},
    process::Process,
    program::{onwire_program, path_text},
    report::Report,
    workload::stream::Sink,
};

const SECONDS: u64 = 9;
/// Pause between two writes, so that a person can read the output.
const GAP: Duration = Duration::from_millis(700);
/// Number of JSON lines that are shown.
const SAMPLE: usize = 6;

/// The lines of a process that have not been shown yet.
struct Tail<'p> {
    process: &'p Process,
    shown: usize,
}

impl Tail<'_> {
    fn show(&mut self, stage: &Stage<'_>) {
        let output = self.process.output();
        // The last line may be incomplete.
        let whole = output.rfind('\n').map_or(0, |end| end + 1);
        if whole > self.shown {
            output[self.shown..whole].lines().for_each(|line| stage.say(&format!("    {line}")));
            self.shown = whole;
        }
    }
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let seconds = stage.options.seconds.unwrap_or(SECONDS).max(3);
    stage.say(&format!(
        "watch: a program at primary writes to mirror over 50 ms round trip; indented is what `onwire watch` prints at the\n\
         appliance. In the middle third of the {seconds} seconds the WAN swallows everything.\n"
    ));
    let network = stage.build()?;
    let no_address = || LabError::Sentence("the topology gives mirror no IPv4 address".to_owned());
    let address = network.topology().address("mirror", false).ok_or_else(no_address)?;
    let pair = Pair::start(&network, &PairOptions { notify: Some("on_wire"), ..PairOptions::default() })?;
    let near = &pair.appliances[0];
    let publisher = near.publisher()?;
    let (executable, key) = (onwire_program()?, path_text(&publisher.key_file)?);
    let (at, duration) = (publisher.address.to_string(), format!("{}s", seconds + 1));
    let words = [&executable, "watch", "--notify", &at, "--key", &key, "--for", &duration];
    let mut text = network.start(near.node(), "watch", &words)?;
    let mut json = network.start(near.node(), "watch-json", &[&words[..], &["--json"]].concat())?;
    stage.pause(Duration::from_millis(300))?;

    let mut stream = Sink::listen(&network, "primary", "mirror", address)?.open(None)?;
    let mut tail = Tail { process: &text, shown: 0 };
    let begin = Instant::now();
    let third = Duration::from_secs(seconds) / 3;
    let commands = [("blackhole", "the WAN swallows everything"), ("open", "the WAN is whole again")];
    let mut commands = commands.into_iter().zip(1u32..).peekable();
    let mut written = 0;
    while begin.elapsed() < 3 * third {
        if let Some(((command, words), _)) = commands.next_if(|(_, at)| begin.elapsed() >= third * *at) {
            network.tell_wan(command)?;
            stage.say(&format!("  {words}"));
        }
        let size = 100 * (1 + written / 700 % 40);
        stream.near.write_all(&vec![7; size as usize]).map_err(LabError::doing("write to the mirror"))?;
        written += size;
        stage.say(&format!("  primary writes {size} bytes, {written} in all"));
        stage.pause(GAP)?;
        tail.show(stage);
    }
    stage.pause(Duration::from_millis(200))?;
    tail.show(stage);
    let arrived = stream.drain(written, Duration::from_secs(5));
    stream.abort();
    for process in [&mut text, &mut json] {
        process.wait(Duration::from_secs(10))?;
    }
    stage.say("\nThe same for programs, `onwire watch --json`, begins with:");
    json.output().lines().take(SAMPLE).for_each(|line| stage.say(&format!("    {line}")));
    pair.stop()?;
    Ok(report(&text.output(), &json.output(), written, arrived))
}

fn report(text: &str, json: &str, written: u64, arrived: u64) -> Report {
    let mut report = Report::default();
    let objects: Vec<Value> = json.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let lines = json.lines().count();
    report.claim(
        "every line for programs is an object",
        format!("{} of {lines}", objects.len()),
        objects.len() == lines && lines > 0,
    );
    let is_flow = |it: &Value, event: &str| it["type"] == "flow" && it["event"] == event;
    let is_link = |it: &Value, state: &str| it["type"] == "link" && it["state"] == state;
    let failed = objects.iter().position(|it| is_link(it, "degraded"));
    let mended = failed.and_then(|at| objects[at..].iter().position(|it| is_link(it, "up")));
    let protected = objects.iter().filter(|it| is_flow(it, "protected")).count();
    report.claim("protected positions are told", format!("{protected} times"), protected > 0);
    report.claim("the failed link is told", yes(failed.is_some()), failed.is_some());
    report.claim("that it is up again is told", yes(mended.is_some()), mended.is_some());
    let found = text.lines().count();
    report.claim("people see lines too", found.to_string(), found > 0);
    report.claim("all that was written arrives", format!("{arrived} of {written} bytes"), arrived == written);
    report.metric("text_lines", found);
    report.metric("json_lines", lines);
    report
}

fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "{\"type\":\"flow\",\"event\":\"new\"}\n";
    const PROTECTED: &str = "{\"type\":\"flow\",\"event\":\"protected\"}\n";
    const DEGRADED: &str = "{\"type\":\"link\",\"state\":\"degraded\"}\n";
    const UP: &str = "{\"type\":\"link\",\"state\":\"up\"}\n";

    #[test]
    fn an_unreported_link_failure_or_recovery_fails() {
        let passes = |json: &[&str]| report("a line\n", &json.concat(), 5, 5).passes();
        assert!(passes(&[UP, NEW, PROTECTED, DEGRADED, UP]));
        assert!(!passes(&[UP, NEW, DEGRADED, UP]));
        assert!(!passes(&[UP, PROTECTED, UP]));
        assert!(!passes(&[UP, PROTECTED, DEGRADED]));
        assert!(!passes(&[UP, PROTECTED, DEGRADED, UP, "no object\n"]));
        let all = [PROTECTED, DEGRADED, UP].concat();
        assert!(!report("", &all, 5, 5).passes() && !report("a line\n", &all, 5, 4).passes());
    }
}
