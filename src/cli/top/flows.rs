//! The flows that the appliance follows, for `onwire top --flows`: a subscription on a thread of its own.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crate::cli::subscription::{FileOrSubscription, Publisher};
use crate::notify::client::{Client, Wish};
use crate::notify::message::{Event, Filter, Flow, FlowKey, Message};

/// Flows remembered; more are counted.
const FLOWS_MAX: usize = 10_000;
/// How often the screen gets them.
const INTERVAL: Duration = Duration::from_millis(500);

/// What is known of the flows at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Flows {
    /// Where the appliance was asked.
    pub address: Option<SocketAddr>,
    /// Whether it answers.
    pub contact: bool,
    /// The flows that live, those that wait for protection first.
    pub flows: Vec<Flow>,
}

/// The flows, as they become known.
pub(super) struct FlowList {
    news: Receiver<Flows>,
}

impl FlowList {
    /// Subscribes. The error names the fault and the remedy.
    pub fn start(subscription: &FileOrSubscription) -> Result<Self, String> {
        let publisher = subscription.find()?;
        let client = publisher.client(Wish::following(Filter::default(), false))?;
        let (sender, news) = sync_channel(1);
        let thread = std::thread::Builder::new().name("flows".to_owned());
        thread
            .spawn(move || follow(client, &publisher, &sender))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Self { news })
    }

    /// What is new.
    pub fn poll(&self) -> Option<Flows> {
        self.news.try_iter().last()
    }
}

/// Until the screen is gone. An error of the socket is one of an earlier datagram: it is sent again.
fn follow(mut client: Client, publisher: &Publisher, news: &SyncSender<Flows>) {
    let (mut flows, mut run) = (BTreeMap::new(), None);
    loop {
        let due = Instant::now() + INTERVAL;
        while Instant::now() < due {
            match client.next_message(due) {
                Ok(message) => {
                    if client.core().run() != run {
                        // Positions of an earlier run mean nothing.
                        run = client.core().run();
                        flows.clear();
                    }
                    if let Some(message) = message {
                        on_message(&mut flows, message);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => std::thread::sleep(INTERVAL / 10),
            }
        }
        let shown = Flows {
            address: Some(publisher.address),
            contact: client.core().has_contact(Instant::now()),
            flows: ordered(&flows),
        };
        // The screen takes the next one if it is busy.
        if let Err(TrySendError::Disconnected(_)) = news.try_send(shown) {
            return;
        }
    }
}

fn on_message(flows: &mut BTreeMap<FlowKey, Flow>, message: Message) {
    if let Message::Flow(flow) = message {
        match flow.event {
            Event::Gone(_) => drop(flows.remove(&flow.key)),
            _ if flows.len() < FLOWS_MAX || flows.contains_key(&flow.key) => drop(flows.insert(flow.key, flow)),
            _ => {}
        }
    }
}

/// Bytes that the kernel has and that are not on the wire with their repair.
pub(super) fn unprotected(flow: &Flow) -> u64 {
    let position = flow.positions.on_wire.max(flow.positions.acked).unwrap_or(0);
    flow.positions.queued.unwrap_or(0).saturating_sub(position)
}

fn ordered(flows: &BTreeMap<FlowKey, Flow>) -> Vec<Flow> {
    let mut flows: Vec<Flow> = flows.values().copied().collect();
    flows.sort_by_key(|flow| (flow.violated.is_none(), std::cmp::Reverse(unprotected(flow))));
    flows
}
