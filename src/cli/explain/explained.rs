//! The numbers of a profile on a link, for people and for programs. Prints nothing.

use std::time::Duration;

use serde::Serialize;

use super::assumed_loss;
use super::measured::Measured;
use crate::config::{Profile, Rate, Repair};
use crate::plan::prediction::{Prediction, Traffic};
use crate::plan::{GilbertElliott, Link, Plan, SendPlan, choose};

/// Source symbols of the lone commit.
pub const COMMIT: usize = 4;
/// The columns of a drawn schedule.
const COLUMNS: u32 = 48;

/// The link that profiles are explained for.
#[derive(Debug)]
pub struct Question {
    /// Bytes of a symbol.
    pub symbol_bytes: u16,
    /// Source bytes of the stream.
    pub rate: Rate,
    /// The loss, if it was named.
    pub loss: Option<f64>,
    /// The round trip, if it is known.
    pub round_trip: Option<Duration>,
    /// What an appliance has measured.
    pub measured: Option<Measured>,
}

impl Question {
    /// Source symbols of the stream a second.
    pub fn symbols_per_second(&self) -> f64 {
        self.rate.bytes_per_second() as f64 / f64::from(self.symbol_bytes)
    }

    /// The plan for a profile at a loss and a rate.
    pub fn plan(&self, profile: &Profile, link: &Link) -> SendPlan {
        let block_symbols = usize::from(profile.block_symbols);
        let repair = match profile.repair {
            Repair::None => Plan::none(),
            Repair::Fixed { symbols, assume_loss } => Plan::fixed(block_symbols, symbols.into(), assume_loss),
            Repair::Targets(targets) => return choose(&targets.into(), &profile.limits(self.symbol_bytes), link),
        };
        SendPlan {
            block_symbols,
            close_when_idle: profile.close_when_idle,
            close_after: profile.close_after,
            repair,
            survive_burst: Duration::ZERO,
            unreached: Vec::new(),
        }
    }

    fn bursts(&self) -> Option<GilbertElliott> {
        self.measured.as_ref()?.bursts()
    }
}

/// A profile, explained.
#[derive(Debug, Serialize)]
pub struct Explained {
    /// Its name.
    pub profile: String,
    /// The loss of single datagrams that the model uses, and where it is from: `named`, `measured` or `assumed`.
    pub loss: f64,
    /// See `loss`.
    pub loss_from: &'static str,
    /// Seconds since the measurement, where it says so.
    pub loss_age_s: Option<f64>,
    /// The rate of the stream, in bits a second.
    pub rate_bits: u64,
    /// Whether the model has the bursts of the link.
    pub knows_bursts: bool,
    /// The round trip, if it is known.
    pub round_trip_s: Option<f64>,
    /// A lone commit of four symbols, on an idle link.
    pub lone: Block,
    /// A block of the stream.
    pub stream: Block,
    /// Blocks sent so far and lost, of a running appliance.
    pub observed: Option<(u64, u64)>,
    /// The targets that are not reached, in words.
    pub unreached: Vec<String>,
    /// Which of the three lines promises least, and why.
    pub weakest: String,
}

/// A block, explained.
#[derive(Debug, Serialize)]
pub struct Block {
    /// Source symbols.
    pub k: usize,
    /// Repair symbols that leave when it closes.
    pub early: usize,
    /// Repair symbols that leave later.
    pub late: usize,
    /// Repair symbols per source symbol.
    pub overhead: f64,
    /// The schedule as a line of characters.
    pub schedule: String,
    /// From its first byte until it closes.
    pub closes_s: f64,
    /// From then until the last repair symbol has left.
    pub waits_s: f64,
    /// Bytes at the sender and at the receiver while it is open.
    pub memory_sender: usize,
    /// See `memory_sender`.
    pub memory_receiver: usize,
    /// The longest interruption that it survives with certainty.
    pub survives_s: f64,
    /// The chance that it is lost.
    pub lost_with: f64,
}

impl Block {
    fn new(plan: &SendPlan, traffic: Traffic, link: &Link, symbol_bytes: u16) -> Self {
        let block = Prediction::new(plan, traffic);
        let single = block.single_chance(link.loss);
        let bytes = usize::from(symbol_bytes);
        Self {
            k: block.source,
            early: block.early,
            late: block.late,
            overhead: block.overhead(),
            schedule: block.drawn(COLUMNS),
            closes_s: block.closes.as_secs_f64(),
            waits_s: block.waits.as_secs_f64(),
            memory_sender: (plan.block_symbols + block.repair()) * bytes,
            memory_receiver: (block.source + block.repair()) * bytes,
            survives_s: block.survives.as_secs_f64(),
            lost_with: link.bursts.map_or(single, |bursts| block.burst_chance(&bursts).max(single)),
        }
    }

    /// From its first byte until the last repair symbol has left.
    pub fn protected_s(&self) -> f64 {
        self.closes_s + self.waits_s
    }
}

impl Explained {
    /// The profile on the link of the question.
    pub fn new(profile: &Profile, question: &Question) -> Self {
        let measured = question.measured.as_ref();
        let (loss, loss_from) = match (question.loss, measured.and_then(Measured::loss_bound)) {
            (Some(loss), _) => (loss, "named"),
            (None, Some(bound)) => (bound, "measured"),
            (None, None) => (assumed_loss(profile), "assumed"),
        };
        let bursts = question.bursts();
        let stream = question.symbols_per_second();
        let link =
            |symbols_per_second| Link { loss, bursts, symbols_per_second, congested: false, peer_knows_late: true };
        let block = |traffic, link: Link| {
            let plan = question.plan(profile, &link);
            (Block::new(&plan, traffic, &link, question.symbol_bytes), plan.unreached)
        };
        // A lone commit is lone on an idle link: there its blocks are short.
        let (lone, idle_unreached) = block(Traffic::Lone(COMMIT), link(0.0));
        let (streamed, unreached) = block(Traffic::Stream(stream), link(stream));
        let mut words: Vec<_> = idle_unreached.iter().map(|unreached| format!("idle: {unreached}")).collect();
        words.extend(unreached.iter().map(|unreached| format!("at {}: {unreached}", question.rate)));
        let observed = measured.map(Measured::blocks);
        let weakest = weakest([&lone, &streamed], bursts.is_some(), loss_from, observed);
        Self {
            profile: profile.name.clone(),
            loss,
            loss_from,
            loss_age_s: measured.and_then(Measured::age_s),
            rate_bits: question.rate.bits_per_second(),
            knows_bursts: bursts.is_some(),
            round_trip_s: question.round_trip.map(|time| time.as_secs_f64()),
            lone,
            stream: streamed,
            observed,
            unreached: words,
            weakest,
        }
    }
}

/// Which line promises least.
fn weakest(blocks: [&Block; 2], knows_bursts: bool, loss_from: &str, observed: Option<(u64, u64)>) -> String {
    let survives = blocks.iter().map(|block| block.survives_s).fold(f64::INFINITY, f64::min);
    let likeliest = blocks.iter().map(|block| block.lost_with).fold(0.0, f64::max);
    if blocks.iter().any(|block| block.early + block.late == 0) {
        return "burst bound: without repair every lost datagram is a lost block".to_owned();
    }
    match observed {
        Some((_, lost)) if lost > 0 => return format!("observed: {lost} blocks were lost, whatever the others say"),
        Some((blocks, _)) if blocks > 0 && 3.0 / blocks as f64 <= likeliest => {
            return "model: what was observed is better than what it expects".to_owned();
        }
        _ => {}
    }
    if survives < 1e-4 {
        return "burst bound: one short interruption takes a block, and the model of single losses does not know it"
            .to_owned();
    }
    match (knows_bursts, loss_from, observed) {
        (_, "assumed", _) => "model: its loss is assumed, not measured".to_owned(),
        (false, ..) => "model: it knows single losses only, no bursts".to_owned(),
        (true, _, Some((blocks, _))) if blocks > 0 => {
            format!("observed: {blocks} blocks cannot show less than {:.1e}", 3.0 / blocks as f64)
        }
        _ => "model: nothing observed supports it".to_owned(),
    }
}
