//! An explained profile as text for people.

use std::fmt::{self, Write};

use super::explained::{Block, COMMIT, Explained};
use crate::config::Rate;

/// A paragraph.
pub fn paragraph(explained: &Explained) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, explained);
    text
}

fn write(out: &mut String, explained: &Explained) -> fmt::Result {
    let rate = Rate::from_bits_per_second(explained.rate_bits);
    let (lone, stream) = (&explained.lone, &explained.stream);
    writeln!(out, "{}", explained.profile)?;
    write_block(out, &format!("a lone commit of {COMMIT} symbols, idle link"), lone, explained)?;
    write_block(out, &format!("a stream of {rate}"), stream, explained)?;
    let bound = |block: &Block| {
        let plural = if block.early + block.late == 1 { "" } else { "s" };
        format!("{} datagram{plural}, {}", block.early + block.late, time(block.survives_s))
    };
    writeln!(out, "  burst bound  lone: {}; stream: {} (certain, at any moment)", bound(lone), bound(stream))?;
    let bursts = if explained.knows_bursts { "with the measured bursts" } else { "single losses only, no bursts" };
    let age = explained.loss_age_s.map_or(String::new(), |age| format!(" {} ago", time(age)));
    writeln!(
        out,
        "  model        lone: lost with {:.1e}; stream: {:.1e} (loss {}, {}{age}; {bursts})",
        lone.lost_with,
        stream.lost_with,
        percent(explained.loss),
        explained.loss_from
    )?;
    match explained.observed {
        None => writeln!(out, "  observed     nothing: this is a file; a running appliance is asked with --socket")?,
        Some((0, _)) => writeln!(out, "  observed     no blocks yet")?,
        Some((blocks, 0)) => {
            let bound = 3.0 / blocks as f64;
            writeln!(out, "  observed     none of {blocks} blocks lost: at most {bound:.1e} at 95 %")?;
        }
        Some((blocks, lost)) => writeln!(out, "  observed     {lost} of {blocks} blocks lost")?,
    }
    writeln!(out, "  weakest      {}", explained.weakest)?;
    explained.unreached.iter().try_for_each(|words| writeln!(out, "  not reached  {words}"))
}

fn write_block(out: &mut String, title: &str, block: &Block, explained: &Explained) -> fmt::Result {
    let Block { k, early, late, .. } = block;
    writeln!(out, "  {title}")?;
    writeln!(
        out,
        "    k {k}, m {} ({early} early, {late} late), overhead {}, memory {} B here, {} B there",
        early + late,
        percent(block.overhead),
        block.memory_sender,
        block.memory_receiver
    )?;
    writeln!(out, "    {}", block.schedule)?;
    let waits =
        if block.waits_s > 0.0 { format!(", and {} until late repair", time(block.waits_s)) } else { String::new() };
    let (closes, protected) = (time(block.closes_s), time(block.protected_s()));
    write!(out, "    protected after {protected}: {closes} until the block closes{waits}")?;
    match explained.round_trip_s {
        Some(round_trip) => writeln!(out, "; an answer of the peer takes {}", time(round_trip)),
        None => writeln!(out),
    }
}

/// A time with three digits.
fn time(seconds: f64) -> String {
    match seconds {
        s if s > 1e9 => "any time".to_owned(),
        s if s >= 1.0 => format!("{} s", rounded(s)),
        s if s >= 1e-3 => format!("{} ms", rounded(s * 1e3)),
        s => format!("{} us", rounded(s * 1e6)),
    }
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    format!("{} %", rounded(share * 100.0))
}

fn rounded(number: f64) -> String {
    let digits = match number {
        n if n >= 100.0 => 0,
        n if n >= 10.0 => 1,
        n if n >= 0.1 || n <= 0.0 => 2,
        // Two digits that say something.
        n => (1.0 - n.log10().floor()).min(12.0) as usize,
    };
    let text = format!("{number:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_their_unit() {
        assert_eq!([0.0, 5e-5, 2.05e-3, 0.1234, 61.0].map(time), ["0 us", "50 us", "2.05 ms", "123 ms", "61 s"]);
        assert_eq!(time(f64::MAX), "any time");
        assert_eq!([0.0001, 0.125, 1.0, 2.5].map(percent), ["0.01 %", "12.5 %", "100 %", "250 %"]);
    }
}
