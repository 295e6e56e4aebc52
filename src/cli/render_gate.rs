//! The status of gates as text for people. Computes nothing.

use std::fmt::Write;
use std::time::Duration;

use super::output_line::OutputLine;
use super::render::{duration, grouped, lasting, write_log_loss, write_restrictions};
use crate::config::units::show_duration;
use crate::gate::status::{ConnectionStatus, GateStatus, Status};

/// The whole status, a few lines per gate and per replicating connection.
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_status(&mut text, status);
    text
}

fn write_status(out: &mut String, status: &Status) -> std::fmt::Result {
    writeln!(out, "gates: {}, onwire {}, {}", status.state, status.version, duration(status.uptime_s))?;
    write_log_loss(out, status.log_lines_lost)?;
    write_restrictions(out, &status.restrictions)?;
    if let Some(last) = status.reload.last.as_ref().filter(|last| !last.is_good) {
        let first = last.text.lines().next().unwrap_or_default();
        writeln!(out, "  NOT RELOADED, all goes on as before: {}", OutputLine(first))?;
    }
    let notify = &status.notify;
    match (notify.contact, notify.heard_s) {
        (true, _) => writeln!(out, "  appliance at {}: heard{}", notify.address, lasting(notify.since))?,
        (false, Some(heard)) => writeln!(
            out,
            "  appliance at {}: silent for {}: nothing counts as protected",
            notify.address,
            duration(heard)
        )?,
        (false, None) => writeln!(
            out,
            "  appliance at {}: never heard: does it run, does it listen there, and is this its key?",
            notify.address
        )?,
    }
    for link in &notify.links {
        match link.state.as_str() {
            "up" => writeln!(out, "  link to {}: up{}", OutputLine(&link.name), lasting(link.since))?,
            state => writeln!(
                out,
                "  link to {}: {} ({}){}",
                OutputLine(&link.name),
                OutputLine(state),
                OutputLine(&link.reason),
                lasting(link.since)
            )?,
        }
    }
    status.gates.iter().try_for_each(|gate| write_gate(out, gate))
}

fn write_gate(out: &mut String, gate: &GateStatus) -> std::fmt::Result {
    let totals = &gate.totals;
    writeln!(
        out,
        "\n{}: {} on {} to {}, policy {}, level {}{}{}",
        gate.name,
        gate.kind,
        gate.listen,
        gate.upstream,
        gate.policy,
        gate.level,
        demanded(gate.survive_burst_s),
        match gate.state.as_str() {
            "draining" => "; DRAINING: it accepts nobody any more",
            _ => "",
        }
    )?;
    writeln!(
        out,
        "  connections: {} now, {} so far, {} refused, {} without a server, {} ended by strict, {} let go, {} probes",
        gate.connections.len(),
        grouped(totals.connections),
        grouped(totals.refused),
        grouped(totals.connect_failures),
        grouped(totals.ended_by_strict),
        grouped(totals.overdue),
        grouped(totals.probes)
    )?;
    if gate.earlier_settings > 0 {
        writeln!(out, "  {} of them keep earlier settings, from before a reload", grouped(gate.earlier_settings))?;
    }
    writeln!(
        out,
        "  acknowledgements: {} real, {} given early; {} bytes to mirrors, {} from them",
        grouped(totals.real_acks),
        grouped(totals.injected_acks),
        grouped(totals.sent_bytes),
        grouped(totals.received_bytes)
    )?;
    if totals.exposures > 0 {
        writeln!(
            out,
            "  EXPOSED: {} bytes were acknowledged with nothing behind them, in {} times",
            grouped(totals.exposed_bytes),
            grouped(totals.exposures)
        )?;
    }
    if totals.violations > 0 {
        writeln!(
            out,
            "  BROKEN: {} ranges that were called protected were lost; {} early acknowledgements stood on them, of {} lost bytes",
            grouped(totals.violations),
            grouped(totals.broken_acks),
            grouped(totals.broken_bytes)
        )?;
    }
    if totals.shortfalls > 0 {
        writeln!(
            out,
            "  SHORTFALL: {} times a mirror came back with less than was acknowledged early for it, {} bytes; the log says which",
            grouped(totals.shortfalls),
            grouped(totals.shortfall_bytes)
        )?;
    }
    gate.connections.iter().filter(|it| it.replicates).try_for_each(|it| write_connection(out, it))
}

/// What the gate demands besides the level.
fn demanded(survive_burst_s: Option<f64>) -> String {
    match survive_burst_s {
        None => String::new(),
        Some(0.0) => ", late repair is not waited for".to_owned(),
        Some(burst) => format!(", survives an interruption of {}", burst_words(burst)),
    }
}

/// An interruption as it was written; a document may hold any number.
fn burst_words(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map_or(format!("{seconds} s"), show_duration)
}

fn write_connection(out: &mut String, it: &ConnectionStatus) -> std::fmt::Result {
    writeln!(out, "  {}: {}, {}, {}", it.number, it.client, OutputLine(&it.phase), duration(it.age_s))?;
    writeln!(
        out,
        "    sent {}, protected {}, unprotected {}; acks {} real, {} early; {} marks wait",
        grouped(it.sent),
        grouped(it.protected),
        grouped(it.unprotected),
        grouped(it.real_acks),
        grouped(it.injected_acks),
        grouped(it.waiting)
    )?;
    if let Some(burst) = it.survives_burst_s.filter(|burst| *burst > 0.0) {
        writeln!(out, "    on the wire: survives an interruption of {}", burst_words(burst))?;
    }
    if it.exposed > 0 {
        writeln!(out, "    EXPOSED: {} bytes are acknowledged and nowhere but here", grouped(it.exposed))?;
    }
    if let Some(age) = it.oldest_waiting_s.filter(|age| *age > 1.0) {
        writeln!(out, "    the oldest mark waits for {}", duration(age))?;
    }
    if let Some(reason) = &it.reason {
        writeln!(out, "    not protected: {}", OutputLine(reason))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::status::Totals;

    #[test]
    fn counters_that_should_stay_at_zero_are_shown_only_when_they_do_not() {
        let gate = |totals: Totals| GateStatus {
            name: "pg".to_owned(),
            kind: "postgres".to_owned(),
            state: "listening".to_owned(),
            earlier_settings: 0,
            listen: ([127, 0, 0, 1], 6432).into(),
            upstream: ([127, 0, 0, 1], 5432).into(),
            policy: "auto".to_owned(),
            level: "on_wire".to_owned(),
            survive_burst_s: None,
            totals,
            connections: vec![],
        };
        let shown = |totals| {
            let mut text = String::new();
            write_gate(&mut text, &gate(totals)).expect("a string takes everything");
            text
        };
        let healthy = shown(Totals::default());
        for (totals, words) in [
            (
                Totals { shortfalls: 2, shortfall_bytes: 12_345, ..Totals::default() },
                "SHORTFALL: 2 times a mirror came back",
            ),
            (Totals { violations: 3, ..Totals::default() }, "BROKEN: 3 ranges"),
            (Totals { exposures: 1, exposed_bytes: 70, ..Totals::default() }, "EXPOSED: 70 bytes"),
        ] {
            let text = shown(totals);
            assert!(text.contains(words), "{text}");
            assert!(!healthy.contains(words.split(':').next().unwrap_or_default()), "{healthy}");
        }
    }
}
