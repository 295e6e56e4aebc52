//! The flows that the appliance follows, for `onwire top --flows`: a subscription on a thread of its own.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crate::cli::subscription::{FileOrSubscription, Publisher};
use crate::notify::client::{Client, Wish};
use crate::notify::message::{Event, Filter, Flow, FlowKey, Message};

/// Flows remembered; that there are more is said.
pub(super) const FLOWS_MAX: usize = 10_000;
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
    /// There are more than are remembered.
    pub is_cut: bool,
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
    let (mut flows, mut run, mut is_cut) = (BTreeMap::new(), None, false);
    loop {
        let due = Instant::now() + INTERVAL;
        while Instant::now() < due {
            match client.next_message(due) {
                Ok(message) => {
                    if client.core().run() != run {
                        // Positions of an earlier run mean nothing.
                        run = client.core().run();
                        flows.clear();
                        is_cut = false;
                    }
                    if let Some(message) = message {
                        is_cut |= !on_message(&mut flows, message);
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
            is_cut,
        };
        // The screen takes the next one if it is busy.
        if let Err(TrySendError::Disconnected(_)) = news.try_send(shown) {
            return;
        }
    }
}

/// False if there was no room.
fn on_message(flows: &mut BTreeMap<FlowKey, Flow>, message: Message) -> bool {
    if let Message::Flow(flow) = message {
        match flow.event {
            Event::Gone(_) => drop(flows.remove(&flow.key)),
            _ if flows.len() < FLOWS_MAX || flows.contains_key(&flow.key) => drop(flows.insert(flow.key, flow)),
            _ => return false,
        }
    }
    true
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::message::{GoneReason, Level, Origin, Positions};

    fn flow(port: u32, event: Event) -> Message {
        let at = |ip: u32| SocketAddr::from((ip.to_be_bytes(), 1));
        Message::Flow(Flow {
            key: FlowKey::tcp(at(port), at(1)),
            instance: 1,
            peer: 1,
            event,
            level: Level::OnWire,
            origin: Origin::Start,
            origin_seq: None,
            positions: Positions::default(),
            violated: None,
            packets: None,
            cookie: None,
            block: None,
            survives_burst: 0,
        })
    }

    #[test]
    fn flows_are_bounded_and_what_has_no_room_is_told() {
        let mut flows = BTreeMap::new();
        assert!((0..FLOWS_MAX as u32).all(|port| on_message(&mut flows, flow(port, Event::New))));
        assert!(!on_message(&mut flows, flow(FLOWS_MAX as u32, Event::New)), "there is no room");
        assert!(on_message(&mut flows, flow(7, Event::Protected)), "one that is known stays");
        assert_eq!(flows.len(), FLOWS_MAX);
        assert!(on_message(&mut flows, flow(7, Event::Gone(GoneReason::Closed))));
        assert!(on_message(&mut flows, flow(FLOWS_MAX as u32, Event::New)));
    }
}
