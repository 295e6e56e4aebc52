//! A table of a profile over losses and rates: the numbers of a block of the stream.

use super::explained::{Explained, Question};
use super::text::percent;
use crate::cli::table::for_output;
use crate::config::{Profile, Rate};

/// The losses and the rates, in megabits a second.
pub const LOSSES: [f64; 7] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1];
const RATES: [u64; 5] = [1, 10, 100, 1000, 10_000];

/// The table, with its title.
pub fn table(profile: &Profile, question: &Question) -> String {
    let mut table = for_output();
    table.set_header(["loss", "rate", "k", "early", "late", "overhead", "survives", "lost with", "not reached"]);
    for loss in LOSSES {
        for rate in RATES {
            let rate = Rate::from_bits_per_second(rate * 1_000_000);
            let at = Question { loss: Some(loss), rate, measured: None, ..*question };
            let explained = Explained::new(profile, &at);
            let block = &explained.stream;
            let stream = format!("at {rate}: ");
            let unreached =
                explained.unreached.iter().filter_map(|words| words.strip_prefix(&stream)?.split(' ').next());
            table.add_row([
                percent(loss),
                rate.to_string(),
                block.k.to_string(),
                block.early.to_string(),
                block.late.to_string(),
                percent(block.overhead),
                format!("{:.2} ms", block.survives_s * 1e3),
                format!("{:.1e}", block.lost_with),
                unreached.collect::<Vec<_>>().join(", "),
            ]);
        }
    }
    format!("{}\n{}\n", profile.name, table)
}
