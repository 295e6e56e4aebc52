//! Blocks through the encoder and the decoder of the product, with losses that the caller draws.

use std::time::{Duration, Instant};

use rand::{Rng, RngCore, rngs::SmallRng};

use crate::{
    fec::{
        code::Code,
        gilbert_elliott::GilbertElliott,
        layout::SymbolLayout,
        residual::{ln_residual, residual},
    },
    lab::{
        error::LabError,
        wan::{
            interruptions::Timed,
            loss::{Loss, LossDraw},
        },
    },
};

/// Bytes of a symbol. Whether a block can be rebuilt depends on which symbols are lost, not on their size.
const SYMBOL: usize = 64;

/// A block of k source and m repair symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Source symbols.
    pub k: usize,
    /// Repair symbols.
    pub m: usize,
}

/// Encodes, loses, decodes and compares one block after the other.
pub struct Coder {
    shape: Shape,
    code: Code,
    source: Vec<u8>,
    received: Vec<u8>,
    repair: Vec<u8>,
}

impl Coder {
    /// A coder of blocks of this shape.
    pub fn new(shape: Shape) -> Self {
        let source = vec![0; shape.k * SYMBOL];
        Self { shape, code: Code::new(), received: source.clone(), source, repair: Vec::new() }
    }

    /// Sends a block of random bytes, of which the symbols of `lost` do not arrive; `true` if it was rebuilt. An error if the
    /// decoder gave wrong bytes.
    pub fn survives(&mut self, lost: &[bool], rng: &mut SmallRng) -> Result<bool, LabError> {
        let Shape { k, m } = self.shape;
        let layout = SymbolLayout { symbols: k, stride: SYMBOL, size: SYMBOL };
        rng.fill_bytes(&mut self.source);
        if self.code.encode(layout, &self.source, m, &mut self.repair) != m {
            return Err(LabError::Sentence(format!("the encoder refused a block of {k} and {m} symbols")));
        }
        let present: Vec<bool> = lost[..k].iter().map(|lost| !lost).collect();
        self.received.fill(0);
        for at in (0..k).filter(|at| present[*at]) {
            self.received[layout.range(at)].copy_from_slice(&self.source[layout.range(at)]);
        }
        let arrived = self.repair.chunks(SYMBOL).enumerate().filter(|(at, _)| !lost[k + at]);
        let arrived: Vec<_> = arrived.map(|(at, symbol)| (at as u16, symbol)).collect();
        match self.code.decode(layout, &mut self.received, &present, m, &arrived) {
            Err(_) => Ok(false),
            Ok(_) if self.received == self.source => Ok(true),
            Ok(_) => Err(LabError::Sentence(format!("a block of {k} and {m} symbols was rebuilt with wrong bytes"))),
        }
    }
}

/// What loses the symbols of a block.
#[derive(Clone, Debug)]
pub enum Link {
    /// Each symbol with this chance.
    Independent(f64),
    /// A link with two states; the symbols leave at these times.
    Bursts(Timed, Vec<Duration>),
}

impl Link {
    /// The chance to lose a block, by the formula of the product.
    pub fn expected(&self, shape: Shape) -> f64 {
        match self {
            Self::Independent(loss) => residual(shape.k, shape.m, *loss),
            Self::Bursts(Timed { good, bad, bad_loss, good_loss }, schedule) => {
                let link = GilbertElliott::new(*good_loss, *good, *bad_loss, *bad);
                link.map_or(f64::NAN, |link| link.block_failure(schedule, shape.m))
            }
        }
    }

    /// A wrong formula, for the control: as if the losses of bursts were single ones, or with one repair symbol more.
    pub fn wrong(&self, Shape { k, m }: Shape) -> f64 {
        match self {
            Self::Independent(loss) => residual(k, m + 1, *loss),
            Self::Bursts(timed, _) => residual(k, m, timed.mean_loss()),
        }
    }
}

/// Draws the losses of block after block with the loss model of the emulator.
pub struct Losses<'l> {
    link: &'l Link,
    draw: LossDraw,
    begin: Instant,
    /// From one block to the next: long enough that the link has forgotten the last one.
    pause: Duration,
}

impl<'l> Losses<'l> {
    /// Begins to draw.
    pub fn new(link: &'l Link, rng: &mut SmallRng) -> Self {
        let (loss, pause) = match link {
            Link::Independent(loss) => (Loss::Independent(*loss), Duration::ZERO),
            Link::Bursts(timed, schedule) => {
                let length = schedule.last().copied().unwrap_or_default();
                (Loss::Timed(*timed), length + 100 * (timed.good + timed.bad))
            }
        };
        Self { link, draw: LossDraw::new(&loss, rng), begin: Instant::now(), pause }
    }

    /// Marks the lost symbols of the next block.
    pub fn next_block(&mut self, lost: &mut [bool], rng: &mut SmallRng) {
        lost.fill(false);
        match self.link {
            Link::Independent(_) => self.draw.pass(lost.len() as u64, self.begin, rng, |at| lost[at as usize] = true),
            Link::Bursts(_, schedule) => {
                for (lost, at) in lost.iter_mut().zip(schedule) {
                    self.draw.pass(1, self.begin + *at, rng, |_| *lost = true);
                }
            }
        }
        self.begin += self.pause;
    }
}

/// An estimate and its standard error.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// The chance to lose a block.
    pub chance: f64,
    /// Its standard error.
    pub error: f64,
}

/// Importance sampling: blocks with so much loss that about every second one fails, each counted with the likelihood of its
/// losses at the true `loss` relative to that.
pub fn importance_sampled(shape: Shape, loss: f64, blocks: u32, rng: &mut SmallRng) -> Result<Estimate, LabError> {
    let n = shape.k + shape.m;
    let tilted = ((shape.m + 1) as f64 / n as f64).clamp(loss, 0.9);
    let (ln_lost, ln_arrived) = ((loss / tilted).ln(), ((1.0 - loss) / (1.0 - tilted)).ln());
    let mut coder = Coder::new(shape);
    let mut lost = vec![false; n];
    // Relative to the expected size, so that squares of 1e-200 do not vanish.
    let scale = ln_residual(shape.k, shape.m, loss);
    let (mut sum, mut squares) = (0.0, 0.0);
    for _ in 0..blocks {
        lost.fill_with(|| rng.random::<f64>() < tilted);
        if !coder.survives(&lost, rng)? {
            let losses = lost.iter().filter(|lost| **lost).count();
            let weight = (losses as f64 * ln_lost + (n - losses) as f64 * ln_arrived - scale).exp();
            sum += weight;
            squares += weight * weight;
        }
    }
    let mean = sum / f64::from(blocks);
    let variance = (squares / f64::from(blocks) - mean * mean).max(0.0);
    let error = (variance / f64::from(blocks)).sqrt();
    Ok(Estimate { chance: mean * scale.exp(), error: error * scale.exp() })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_block_survives_exactly_as_many_losses_as_it_has_repair_symbols() {
        let mut rng = SmallRng::seed_from_u64(1);
        let shape = Shape { k: 10, m: 4 };
        let mut coder = Coder::new(shape);
        for losses in 0..=14 {
            for rotation in 0..14 {
                let mut lost = [false; 14];
                (0..losses).for_each(|at| lost[(at + rotation) % 14] = true);
                assert_eq!(coder.survives(&lost, &mut rng).unwrap(), losses <= 4, "{losses} from {rotation}");
            }
        }
    }

    #[test]
    fn importance_sampling_equals_a_formula_that_is_known() {
        let (mut rng, shape) = (SmallRng::seed_from_u64(2), Shape { k: 1, m: 1 });
        let found = importance_sampled(shape, 1e-6, 20_000, &mut rng).unwrap();
        assert!((found.chance / 1e-12 - 1.0).abs() < 0.05 && found.error < 0.02e-12, "{found:?}");
    }
}
