//! Faults of an uplink, drawn at random: each is a list of steps with their times.
//!
//! Draws faults and does not run them. Every fault ends by itself; the next trial's beginning repairs what a step
//! leaves behind.

use std::time::Duration;

use rand::{Rng, rngs::SmallRng};

use crate::lab::error::LabError;

/// The public address of the primary's appliance.
pub const OWN: &str = "192.0.2.1/24";
/// Another address that is added and removed.
const OTHER: &str = "192.0.2.77/24";
/// The destinations of the route to the peer: its network, and its own address.
const WAY: &str = "198.51.100.0/24";
const PEER: &str = "198.51.100.2/32";
/// The provider's router on the first uplink, and the route over the second.
const ROUTER: &str = "192.0.2.254";
const SECOND: &str = "via 203.0.113.254 dev wan1";

/// The arguments of `ip` for a route to the peer over the first uplink, as in the topology.
pub fn first_way() -> String {
    format!("route replace {WAY} via {ROUTER} dev wan0")
}

/// A queue of the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// `htb` with one slow class, in which packets wait.
    Htb,
    /// The same with room for few packets: the rest is refused.
    ShortHtb,
    /// `tbf`, equally slow.
    Tbf,
    /// `pfifo_fast`, as fast as the device.
    PfifoFast,
    /// `pfifo`, as fast as the device.
    Pfifo,
}

impl Queue {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Htb, Self::ShortHtb, Self::Tbf, Self::PfifoFast, Self::Pfifo];

    /// The queue at the beginning of a trial: usually one in which packets wait.
    pub fn draw(rng: &mut SmallRng) -> Self {
        match rng.random_range(0..10) {
            0..6 => Self::Htb,
            6..8 => Self::Tbf,
            _ => Self::PfifoFast,
        }
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Runs `ip` at the primary's appliance.
    Near(String),
    /// Runs `ip neigh` at the primary's appliance.
    Neighbour(String),
    /// Runs `ip` at the provider's router.
    Far(String),
    /// Replaces the queue and drops the packets in it.
    Queue(Queue),
    /// Whether the router answers ARP on the first uplink.
    Answers(bool),
}

/// One step of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When, counted from the beginning of the fault.
    pub at: Duration,
    /// What to do.
    pub action: Action,
}

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The far end of the uplink's cable is down for a while: there is no carrier.
    Carrier,
    /// The device is set down and up again, and loses its routes.
    Device,
    /// The router's Ethernet address is removed from the neighbour table, and the router may not answer ARP.
    Neighbour,
    /// The appliance's own address is removed and added, or another one is added and removed.
    Address,
    /// The queue is replaced, once or several times.
    Queue,
    /// The route to the peer is moved to the second uplink and back.
    Route,
    /// Several of the others at the same time.
    Several,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Carrier, Self::Device, Self::Neighbour, Self::Address, Self::Queue, Self::Route, Self::Several];

    /// Its name in output and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Carrier => "carrier",
            Self::Device => "device",
            Self::Neighbour => "neighbour",
            Self::Address => "address",
            Self::Queue => "queue",
            Self::Route => "route",
            Self::Several => "several",
        }
    }

    /// The kinds that the user named, or all.
    pub fn chosen(names: &[String]) -> Result<Vec<Self>, LabError> {
        let find = |name: &String| {
            Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
                let all = Self::ALL.map(Self::name).join(", ");
                LabError::Sentence(format!("--arm: found \"{name}\"; allowed: {all}"))
            })
        };
        if names.is_empty() { Ok(Self::ALL.to_vec()) } else { names.iter().map(find).collect() }
    }

    /// Draws the steps of one such fault, in the order of their times.
    pub fn draw(self, rng: &mut SmallRng) -> Vec<Step> {
        let mut steps = match self {
            Self::Carrier => carrier(rng),
            Self::Device => device(rng),
            Self::Neighbour => neighbour(rng),
            Self::Address => address(rng),
            Self::Queue => queue(rng),
            Self::Route => route(rng),
            Self::Several => several(rng),
        };
        steps.sort_by_key(|step| step.at);
        steps
    }
}

fn step(at: Duration, action: Action) -> Step {
    Step { at, action }
}

fn near(at: Duration, words: impl Into<String>) -> Step {
    step(at, Action::Near(words.into()))
}

fn millis(rng: &mut SmallRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_micros(rng.random_range(range.start * 1000..range.end * 1000))
}

fn carrier(rng: &mut SmallRng) -> Vec<Step> {
    let mut at = Duration::ZERO;
    let mut steps = Vec::new();
    // A loose plug flaps.
    for _ in 0..rng.random_range(1..=3) {
        steps.push(step(at, Action::Far("link set wan0 down".to_owned())));
        at += millis(rng, 3..60);
        steps.push(step(at, Action::Far("link set wan0 up".to_owned())));
        at += millis(rng, 3..80);
    }
    steps
}

fn device(rng: &mut SmallRng) -> Vec<Step> {
    let up = millis(rng, 3..60);
    vec![near(Duration::ZERO, "link set wan0 down"), near(up, "link set wan0 up"), near(up, first_way())]
}

fn neighbour(rng: &mut SmallRng) -> Vec<Step> {
    let forget = match rng.random_range(0..4) {
        0 => format!("del {ROUTER} dev wan0"),
        1 => "flush dev wan0".to_owned(),
        2 => format!("replace {ROUTER} dev wan0 nud failed"),
        _ => format!("change {ROUTER} dev wan0 nud probe"),
    };
    let mut steps = Vec::new();
    let is_silent = rng.random_bool(0.8);
    if is_silent {
        steps.push(step(Duration::ZERO, Action::Answers(false)));
    }
    let first = Duration::from_millis(1);
    steps.push(step(first, Action::Neighbour(forget.clone())));
    if rng.random_bool(0.3) {
        // Deleting the entry while ARP is pending also drops the packets that wait for the answer.
        steps.push(step(first + millis(rng, 2..40), Action::Neighbour(forget)));
    }
    if is_silent {
        steps.push(step(first + millis(rng, 3..150), Action::Answers(true)));
    }
    steps
}

fn address(rng: &mut SmallRng) -> Vec<Step> {
    let (gone, end) = (Duration::ZERO, millis(rng, 3..60));
    if rng.random_bool(0.5) {
        // Removing the last address also removes the routes of its device.
        let (del, add) = (format!("addr del {OWN} dev wan0"), format!("addr add {OWN} dev wan0"));
        return vec![near(gone, del), near(end, add), near(end, first_way())];
    }
    vec![near(gone, format!("addr add {OTHER} dev wan0")), near(end, format!("addr del {OTHER} dev wan0"))]
}

fn queue(rng: &mut SmallRng) -> Vec<Step> {
    let mut at = Duration::ZERO;
    let mut steps = Vec::new();
    for _ in 0..rng.random_range(0..3) {
        let queue = Queue::ALL[rng.random_range(0..Queue::ALL.len())];
        steps.push(step(at, Action::Queue(queue)));
        at += millis(rng, 3..120);
    }
    // The last queue is slow, so that packets wait when the next fault comes.
    steps.push(step(at, Action::Queue(if rng.random_bool(0.7) { Queue::Htb } else { Queue::Tbf })));
    steps
}

fn route(rng: &mut SmallRng) -> Vec<Step> {
    let back = millis(rng, 5..150);
    if rng.random_bool(0.5) {
        return vec![near(Duration::ZERO, format!("route replace {WAY} {SECOND}")), near(back, first_way())];
    }
    let narrower = format!("{PEER} {SECOND}");
    vec![near(Duration::ZERO, format!("route replace {narrower}")), near(back, format!("route del {narrower}"))]
}

fn several(rng: &mut SmallRng) -> Vec<Step> {
    let single = &Kind::ALL[..Kind::ALL.len() - 1];
    let mut steps = Vec::new();
    for _ in 0..rng.random_range(2..=3) {
        let begin = millis(rng, 0..40);
        let fault = single[rng.random_range(0..single.len())].draw(rng);
        steps.extend(fault.into_iter().map(|step| Step { at: step.at + begin, ..step }));
    }
    steps
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// Upper bound of the length of a fault.
    const LONGEST: Duration = Duration::from_millis(600);

    #[test]
    fn faults_are_short_and_ordered_and_a_seed_repeats_them() {
        for kind in Kind::ALL {
            for seed in 0..200 {
                let draw = || kind.draw(&mut SmallRng::seed_from_u64(seed));
                let steps = draw();
                assert_eq!(steps, draw(), "{kind:?}");
                assert!(!steps.is_empty() && steps.is_sorted_by_key(|step| step.at), "{steps:?}");
                assert!(steps.iter().all(|step| step.at < LONGEST), "{steps:?}");
            }
        }
    }

    #[test]
    fn kinds_are_found_by_name() {
        assert_eq!(Kind::chosen(&[]).unwrap(), Kind::ALL);
        for kind in Kind::ALL {
            assert_eq!(Kind::chosen(&[kind.name().to_owned()]).unwrap(), [kind]);
        }
        let error = Kind::chosen(&["cable".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("allowed: carrier, device, neighbour"), "{error}");
    }

    #[test]
    fn every_fault_restores_devices_addresses_and_routes() {
        let is =
            |action: &Action, words: &str| matches!(action, Action::Near(it) | Action::Far(it) if it.contains(words));
        for kind in Kind::ALL {
            for seed in 0..200 {
                let steps = kind.draw(&mut SmallRng::seed_from_u64(seed));
                for (gone, back) in [("wan0 down", "wan0 up"), ("addr del 192.0.2.1/", "addr add 192.0.2.1/")] {
                    let count = |words| steps.iter().filter(|step| is(&step.action, words)).count();
                    assert_eq!(count(gone), count(back), "{steps:?}");
                }
                let last = steps.iter().rev().find(|step| is(&step.action, "addr del 192.0.2.1/"));
                let mended = |from: &Step| {
                    steps.iter().any(|step| step.at >= from.at && step.action == Action::Near(first_way()))
                };
                assert!(last.is_none_or(mended), "its route comes back: {steps:?}");
            }
        }
    }
}
