//! `onwire flows`: what the appliance knows now, printed once. `onwire watch` follows changes.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::destination::Destination;
use super::output_line::OutputLine;
use super::render::grouped;
use super::subscription::FileOrSubscription;
use super::{FAILURE, NO_CONTACT, USAGE, notification, print, print_error, table};
use crate::io::status_socket::SCHEMA_VERSION;
use crate::notify::client::{Client, Wish};
use crate::notify::message::{Event, Flow, FlowKey, Level, LinkState, Message, Origin, Peer};

/// Show every flow that the appliance knows, and how far each is protected
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire flows                              every flow and its position at each level, in bytes since its start
  onwire flows --to mirror:5432             those to one host and port
  onwire flows --json | jq '.flows[] | select(.violated)'

The columns early and survives are there where a profile has late repair: early is ahead of on_wire while late repair
has not left, and survives is the interruption that bytes at on_wire survive.

JSON: { schema_version, flows: [] }; each has the fields of a flow in `onwire watch --json`.
Exit codes: 0 shown, 1 failure, 2 usage, 3 no contact with the appliance.")]
pub struct Flows {
    #[command(flatten)]
    subscription: FileOrSubscription,
    /// Only flows to this host
    #[arg(long, value_name = "HOST[:PORT]")]
    to: Option<String>,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

/// How long the appliance may take to send everything.
const PATIENCE: Duration = Duration::from_secs(5);

impl Flows {
    /// Asks and prints.
    pub fn run(self) -> ExitCode {
        let wrong = |words: String| {
            print_error(format_args!("onwire flows: {words}\n"));
            ExitCode::from(USAGE)
        };
        let to = match self.to.as_deref().map(Destination::resolve).transpose() {
            Ok(to) => to,
            Err(words) => return wrong(words),
        };
        let filter = to.as_ref().map(Destination::filter).unwrap_or_default();
        let found = self.subscription.find();
        let found = found.and_then(|at| at.client(Wish::following(filter, false)).map(|client| (at, client)));
        let (publisher, mut client) = match found {
            Ok(found) => found,
            Err(words) => return wrong(words),
        };
        let flows = match collect(&mut client, to.as_ref()) {
            Ok(Some(flows)) => flows,
            Ok(None) => {
                let (at, advice) = (publisher.address, publisher.advice());
                print_error(format_args!("onwire flows: the appliance at {at} does not answer\n  = {advice}\n"));
                return ExitCode::from(NO_CONTACT);
            }
            Err(error) => {
                print_error(format_args!("onwire flows: {error}\n"));
                return ExitCode::from(FAILURE);
            }
        };
        let peers: BTreeMap<u32, Peer> = client.core().peers().map(|peer| (peer.id, peer.clone())).collect();
        if self.json {
            let flows = flows.values().map(|flow| Value::Object(notification::flow_json(flow, peers.get(&flow.peer))));
            let flows: Vec<Value> = flows.collect();
            print(format_args!("{:#}\n", json!({ "schema_version": SCHEMA_VERSION, "flows": flows })))
        } else {
            print(flow_table(&flows, &peers))
        }
    }
}

/// Every flow, once the appliance has sent all of them; `None` if it takes too long.
fn collect(client: &mut Client, to: Option<&Destination>) -> std::io::Result<Option<BTreeMap<FlowKey, Flow>>> {
    let mut flows = BTreeMap::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.next_message(deadline.min(Instant::now() + Duration::from_millis(20)))? {
            Some(Message::Flow(flow)) if to.is_none_or(|to| to.is(flow.key.destination)) => {
                flows.insert(flow.key, flow);
            }
            Some(_) => {}
            None if client.core().has_contact(Instant::now()) && client.core().is_complete() => return Ok(Some(flows)),
            None if Instant::now() >= deadline => return Ok(None),
            None => {}
        }
    }
}

fn flow_table(flows: &BTreeMap<FlowKey, Flow>, peers: &BTreeMap<u32, Peer>) -> String {
    if flows.is_empty() {
        return "no flows\n".to_owned();
    }
    let mut table = table::for_output();
    // Profiles without late repair have neither.
    let has_late = flows.values().any(|flow| flow.positions.early.is_some() || flow.survives_burst > 0);
    let late = |column: &'static str| has_late.then_some(column);
    let header = [
        Some("protocol"),
        Some("source"),
        Some("destination"),
        Some("from"),
        Some("queued"),
        late("early"),
        Some("on_wire"),
        Some("decoded"),
        Some("acked"),
        late("survives"),
        Some("peer"),
        Some("cookie"),
        Some("state"),
    ];
    table.set_header(header.into_iter().flatten());
    for flow in flows.values() {
        let position = |level| flow.positions.at(level).map_or("-".to_owned(), grouped);
        let peer = peers.get(&flow.peer);
        let name = peer
            .and_then(|peer| peer.name.as_deref())
            .map_or(flow.peer.to_string(), |name| OutputLine(name).to_string());
        let peer = match peer {
            Some(peer) if peer.state != LinkState::Up => format!("{name} ({})", notification::link(peer)),
            Some(_) => format!("{name} (up)"),
            None => name,
        };
        let mut state = match flow.event {
            Event::Gone(reason) => format!("gone: {}", reason.name()),
            _ => "open".to_owned(),
        };
        if let Some(start) = flow.violated {
            state = format!("VIOLATED from {}, {state}", grouped(start));
        }
        let survives = match flow.survives_burst {
            0 => "-".to_owned(),
            burst => notification::burst(burst),
        };
        let row = [
            Some(notification::protocol(flow.key.protocol)),
            Some(flow.key.source.to_string()),
            Some(flow.key.destination.to_string()),
            Some(if flow.origin == Origin::Start { "start" } else { "middle" }.to_owned()),
            Some(position(Level::Queued)),
            has_late.then(|| position(Level::Early)),
            Some(position(Level::OnWire)),
            Some(position(Level::Decoded)),
            Some(position(Level::Acked)),
            Some(survives).filter(|_| has_late),
            Some(peer),
            Some(flow.cookie.map_or("-".to_owned(), |cookie| cookie.to_string())),
            Some(state),
        ];
        table.add_row(row.into_iter().flatten());
    }
    format!("{table}\n")
}
