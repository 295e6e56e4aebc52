//! The honest peer beside the malicious one: UDP flows of numbered packets, one after the other, and what the notifications
//! say about them.
//!
//! Nothing of UDP is sent again: a packet that was called protected and has not arrived was promised falsely.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    lab::{
        error::LabError, network::Network, pair::Publisher, scenario::uplink::notified::Notes, subscriber::Subscriber,
        workload::numbered::NumberedSink,
    },
    notify::message::{Message, Positions},
};

/// Packets of a flow, and the time between them: 400 a second.
const PACKETS: u32 = 200;
const PACE: Duration = Duration::from_micros(2500);
/// How long a packet may be on its way, and a notification.
const QUIET: Duration = Duration::from_millis(300);

/// What became of the flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    /// Packets sent.
    pub sent: u64,
    /// Packets that did not arrive.
    pub missing: u64,
    /// Packets that arrived otherwise than they were sent.
    pub wrong: u64,
    /// Packets called protected.
    pub claimed: u64,
    /// Those of them that did not arrive.
    pub claimed_and_missing: u64,
}

/// Running flows.
pub struct HonestFlows {
    is_over: Arc<AtomicBool>,
    so_far: Arc<Mutex<Flows>>,
    sending: JoinHandle<Result<(), LabError>>,
    subscriber: Subscriber,
    decoded: Arc<AtomicU64>,
}

impl HonestFlows {
    /// Starts flows from `from` to `to`, both nodes with their addresses. What is said of flows to `other`, an address
    /// behind the malicious peer, is noted too.
    pub fn start(
        network: &Network<'_>,
        from: (&str, IpAddr),
        to: (&str, IpAddr),
        other: IpAddr,
        (node, publisher): (&str, &Publisher),
    ) -> Result<Self, LabError> {
        let sink = NumberedSink::listen(network, from, to)?;
        let notes = Arc::<Mutex<Notes>>::default();
        let decoded = Arc::<AtomicU64>::default();
        let (taking, believed) = (notes.clone(), decoded.clone());
        let look = move |message: &Message, at| {
            if let Message::Flow(flow) = message
                && flow.key.destination.ip() == other
            {
                let Positions { decoded, .. } = flow.positions;
                believed.fetch_max(decoded.unwrap_or_default(), Ordering::Relaxed);
            } else {
                lock(&taking).take(message, at);
            }
        };
        let subscriber = Subscriber::start(network, node, publisher, look)?;
        let (is_over, so_far) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Flows>>::default());
        let (over, sum) = (is_over.clone(), so_far.clone());
        let sending = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let mut flow = sink.open()?;
                for _ in 0..PACKETS {
                    flow.send(200 + flow.packets as usize % 1000)?;
                    thread::sleep(PACE);
                }
                thread::sleep(QUIET);
                // What is called protected by now counts; what is on its way may still arrive.
                let claimed = lock(&notes).before(&flow.key, Instant::now()).map_or(0, |claim| claim.packets);
                let claimed = u32::try_from(claimed).unwrap_or(u32::MAX).min(flow.packets);
                let missing = sink.drain(&flow, QUIET);
                let mut sum = lock(&sum);
                sum.sent += u64::from(flow.packets);
                sum.missing += missing;
                sum.wrong += sink.wrong(&flow) + sink.twice(&flow);
                sum.claimed += u64::from(claimed);
                sum.claimed_and_missing += sink.missing_of(&flow.key, claimed);
                lock(&notes).end(&flow.key);
                sink.forget(flow);
            }
            sink.end();
            Ok(())
        });
        Ok(Self { is_over, so_far, sending, subscriber, decoded })
    }

    /// What became of the flows that have ended.
    pub fn so_far(&self) -> Flows {
        *lock(&self.so_far)
    }

    /// The most bytes of a flow to the malicious peer that were called decoded.
    pub fn believed(&self) -> u64 {
        self.decoded.load(Ordering::Relaxed)
    }

    /// Ends them.
    pub fn finish(self) -> Result<Flows, LabError> {
        self.is_over.store(true, Ordering::Relaxed);
        self.sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        self.subscriber.finish()?;
        Ok(*lock(&self.so_far))
    }
}

impl Flows {
    /// What came after `earlier` was taken.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            missing: self.missing - earlier.missing,
            wrong: self.wrong - earlier.wrong,
            claimed: self.claimed - earlier.claimed,
            claimed_and_missing: self.claimed_and_missing - earlier.claimed_and_missing,
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
