//! `onwire watch`: notifications as they arrive, one line per change. Repetitions are left out; nothing is decided
//! here.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use serde_json::{Map, Value, json};

use super::destination::Destination;
use super::output_line::OutputLine;
use super::subscription::{FileOrSubscription, Publisher};
use super::{FAILURE, NO_CONTACT, USAGE, notification, print_error};
use crate::config::units::{parse_duration, show_duration};
use crate::io::status_socket::SCHEMA_VERSION;
use crate::notify::client::{Client, Wish};
use crate::notify::message::{Filter, Flow, FlowKey, LinkState, Message, Peer, Range, StateReason};
use crate::notify::pcap::Pcap;

/// Show live which bytes of which flow are protected
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire watch                                  a line a change: flows, links, violations, lost contact
  onwire watch --to mirror:5432 --protocol tcp  flows to one host and port
  onwire watch --json | jq 'select(.type == \"violation\")'
  onwire watch --blocks --for 10s --pcap notify.pcap
  tshark -X lua_script:docs/protocol/onwire.lua -r notify.pcap

Positions are bytes since the start of the flow (since its first byte seen, where it was seen from its middle):
queued: the kernel has them; on_wire: they have left this host with their repair, which is what \"protected\" means;
early: they have left with their early repair, and late repair, which some profiles have, has not (shown where it is ahead
of on_wire); survives: the interruption of the link that bytes at on_wire survive; decoded: the peer appliance has them; acked: the mirror has acknowledged them.

JSON: one object a line. Every object has
  schema_version     at_s   seconds since 1970     type   flow, link, violation, block, contact
flow:         protocol, source, destination, instance, event (new, protected, gone), gone_reason, level (what the
              appliance calls protected: on_wire, or queued), origin (start, middle), origin_seq, queued, early
              (null where not ahead of on_wire), on_wire, decoded, acked (positions or null), violated (claims above it are
              void unless acked), packets (UDP), cookie, k and m of the last block, survives_burst_us (0: none), peer,
              peer_name, link_state
link:         peer, peer_name, state (up, degraded, down, draining), reason
violation:    number, peer, ranges: [{ protocol, source, destination, instance, start, end }]
block:        peer, lane, profile, sbn, k, m, level (null: failed), ranges
contact:      contact (true, false), epoch (another text after a restart of the appliance), silent_s

Exit codes: 0 done, 1 failure, 2 usage, 3 there was never contact with the appliance.")]
pub struct Watch {
    #[command(flatten)]
    subscription: FileOrSubscription,
    /// For programs: one JSON object a line
    #[arg(long)]
    json: bool,
    /// Show each block too
    #[arg(long)]
    blocks: bool,
    /// Only flows to this host
    #[arg(long, value_name = "HOST[:PORT]")]
    to: Option<String>,
    /// Only flows of this protocol: tcp, udp, or a number
    #[arg(long, value_parser = parse_protocol)]
    protocol: Option<u8>,
    /// Stop after so many lines
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stop after this time
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    time: Option<Duration>,
    /// Write the datagrams received to this file, for Wireshark
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
}

fn parse_protocol(text: &str) -> Result<u8, String> {
    match text {
        "tcp" => Ok(6),
        "udp" => Ok(17),
        number => number.parse().map_err(|_| "allowed: tcp, udp, or a number from 0 to 255".to_owned()),
    }
}

impl Watch {
    /// Prints until the requested end, or a signal.
    pub fn run(self) -> ExitCode {
        let wrong = |words: String| {
            print_error(format_args!("onwire watch: {words}\n"));
            ExitCode::from(USAGE)
        };
        let to = match self.to.as_deref().map(Destination::resolve).transpose() {
            Ok(to) => to,
            Err(words) => return wrong(words),
        };
        let filter = to.as_ref().map(Destination::filter).unwrap_or_default();
        let filter = Filter { protocol: self.protocol, ..filter };
        let found = self.subscription.find();
        let found = found.and_then(|at| at.client(Wish::following(filter, self.blocks)).map(|client| (at, client)));
        let (publisher, mut client) = match found {
            Ok(found) => found,
            Err(words) => return wrong(words),
        };
        if let Some(path) = &self.pcap {
            let capture = File::create(path).and_then(Pcap::new);
            match capture {
                Ok(mut capture) => client.record(move |from, to, datagram| {
                    if let Err(error) = capture.write(from, to, datagram, SystemTime::now()) {
                        print_error(format_args!("onwire watch: the capture lacks a datagram: {error}\n"));
                    }
                }),
                Err(error) => return wrong(format!("cannot write {}: {error}", path.display())),
            }
        }
        match Screen::new(self, publisher, to).follow(&mut client) {
            Ok(code) => code,
            // A reader that has closed standard output has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => {
                print_error(format_args!("onwire watch: {error}\n"));
                ExitCode::from(FAILURE)
            }
        }
    }
}

/// The run as text: JSON readers keep only 53 bits of a number.
fn epoch_json(run: Option<u64>) -> Option<String> {
    run.map(|run| format!("{run:016x}"))
}

/// What was printed last, so that only changes are printed.
struct Screen {
    options: Watch,
    publisher: Publisher,
    to: Option<Destination>,
    flows: HashMap<FlowKey, Flow>,
    links: HashMap<u32, Peer>,
    violations: Vec<u64>,
    /// The run of the appliance with which there was contact last.
    run: Option<u64>,
    silent_since: Option<Instant>,
    lines: u64,
}

/// Violations remembered, so that a repeated one is printed once.
const MOST_VIOLATIONS: usize = 1024;
/// Flows remembered; beyond that a repetition may be printed again.
const MOST_FLOWS: usize = 100_000;

impl Screen {
    fn new(options: Watch, publisher: Publisher, to: Option<Destination>) -> Self {
        Self {
            options,
            publisher,
            to,
            flows: HashMap::new(),
            links: HashMap::new(),
            violations: Vec::new(),
            run: None,
            silent_since: None,
            lines: 0,
        }
    }

    fn follow(mut self, client: &mut Client) -> io::Result<ExitCode> {
        let begin = Instant::now();
        let end = self.options.time.and_then(|time| begin.checked_add(time));
        let mut dropped = 0;
        loop {
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) || self.options.count.is_some_and(|count| self.lines >= count) {
                let code = if self.run.is_some() { 0 } else { NO_CONTACT };
                return Ok(ExitCode::from(code));
            }
            let slice = now + Duration::from_millis(100);
            let message = client.next_message(end.map_or(slice, |end| end.min(slice)))?;
            self.show_contact(client, begin)?;
            if let Some(message) = message {
                self.show_message(message)?;
            }
            let total = client.core().messages_dropped();
            if total > dropped {
                print_error(format_args!(
                    "onwire watch: {} messages skipped: too many for this reader\n",
                    total - dropped
                ));
                dropped = total;
            }
        }
    }

    fn show_contact(&mut self, client: &Client, begin: Instant) -> io::Result<()> {
        let now = Instant::now();
        let at = self.publisher.address;
        let run = client.core().run().filter(|_| client.core().has_contact(now));
        match run {
            Some(run) if self.run != Some(run) || self.silent_since.is_some() => {
                let words = match self.run {
                    None => format!("contact with {at}"),
                    Some(before) if before == run => format!("contact with {at} again"),
                    Some(_) => format!("contact with {at}: the appliance has restarted"),
                };
                if self.run != Some(run) {
                    // Instances and numbers are valid within one run only.
                    self.flows.clear();
                    self.links.clear();
                    self.violations.clear();
                }
                let silent = self.silent_since.take().map(|since| (now - since).as_secs_f64());
                self.run = Some(run);
                let fields = json!({ "contact": true, "epoch": epoch_json(Some(run)), "silent_s": silent });
                self.line("contact", words, notification::object(fields))
            }
            // At the start allow some time: the first answers take a round trip or two.
            None if self.silent_since.is_none() && (self.run.is_some() || now > begin + Duration::from_millis(500)) => {
                let heard = if self.run.is_some() { client.core().last_received() } else { Some(begin) };
                let since = heard.unwrap_or(begin);
                self.silent_since = Some(since);
                let silent = now.saturating_duration_since(since);
                let shown = show_duration(Duration::from_millis(silent.as_millis() as u64));
                let words = format!("no contact with {at} for {shown}: count nothing as protected");
                let fields = json!({
                    "contact": false,
                    "epoch": epoch_json(self.run),
                    "silent_s": silent.as_secs_f64(),
                });
                self.line("contact", words, notification::object(fields))?;
                if self.run.is_none() {
                    print_error(format_args!("  = {}\n", self.publisher.advice()));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn show_message(&mut self, message: Message) -> io::Result<()> {
        match message {
            Message::Flow(flow) => self.show_flow(flow),
            Message::State(peer) => self.show_link(peer),
            Message::Heartbeat(heartbeat) => heartbeat.peers.into_iter().try_for_each(|peer| self.show_link(peer)),
            Message::Violation(violation) => {
                let known = self.violations.contains(&violation.number);
                if known || !self.is_wanted(&violation.ranges) {
                    return Ok(());
                }
                if self.violations.len() == MOST_VIOLATIONS {
                    self.violations.remove(0);
                }
                self.violations.push(violation.number);
                let ranges: Vec<String> = violation.ranges.iter().map(notification::range).collect();
                let words = format!(
                    "VIOLATION {}: called protected, and lost on the path: {}",
                    violation.number,
                    ranges.join(", ")
                );
                self.line("violation", words, notification::violation_json(&violation))
            }
            Message::Block(block) if self.is_wanted(&block.ranges) => {
                self.line("block", notification::block(&block), notification::block_json(&block))
            }
            _ => Ok(()),
        }
    }

    fn show_flow(&mut self, flow: Flow) -> io::Result<()> {
        if self.flows.get(&flow.key) == Some(&flow) || !self.is_wanted_flow(&flow.key) {
            return Ok(());
        }
        if self.flows.len() >= MOST_FLOWS {
            self.flows.clear();
        }
        self.flows.insert(flow.key, flow);
        let words = format!("{}  {}", notification::key(&flow.key), notification::flow(&flow));
        self.line("flow", words, notification::flow_json(&flow, self.links.get(&flow.peer)))
    }

    fn show_link(&mut self, notification: Peer) -> io::Result<()> {
        let before = self.links.get(&notification.id);
        let what = |peer: &Peer| -> (LinkState, StateReason) { (peer.state, peer.reason) };
        let changed = before.is_none_or(|before| what(before) != what(&notification));
        // Heartbeats leave the names out.
        let name = notification.name.clone().or_else(|| before.and_then(|before| before.name.clone()));
        let peer = Peer { name, ..notification };
        self.links.insert(peer.id, peer.clone());
        if !changed {
            return Ok(());
        }
        let name = peer.name.as_deref().map_or(peer.id.to_string(), |name| OutputLine(name).to_string());
        self.line("link", format!("link to {name}  {}", notification::link(&peer)), notification::link_json(&peer))
    }

    fn is_wanted(&self, ranges: &[Range]) -> bool {
        // A range list without flows may concern any flow.
        ranges.is_empty() || ranges.iter().any(|range| self.is_wanted_flow(&range.key))
    }

    fn is_wanted_flow(&self, key: &FlowKey) -> bool {
        self.to.as_ref().is_none_or(|to| to.is(key.destination))
            && self.options.protocol.is_none_or(|protocol| protocol == key.protocol)
    }

    fn line(&mut self, kind: &str, words: impl Display, fields: Map<String, Value>) -> io::Result<()> {
        if self.options.count.is_some_and(|count| self.lines >= count) {
            return Ok(());
        }
        self.lines += 1;
        let now = SystemTime::now();
        let mut out = io::stdout().lock();
        if self.options.json {
            let at = notification::unix_time(now);
            let mut object =
                notification::object(json!({ "schema_version": SCHEMA_VERSION, "at_s": at, "type": kind }));
            object.extend(fields);
            writeln!(out, "{}", Value::Object(object))?;
        } else {
            writeln!(out, "{}  {words}", notification::time_of_day(now))?;
        }
        out.flush()
    }
}
