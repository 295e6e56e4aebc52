//! The status of an appliance as text for people.

use std::fmt::Write;

use crate::appliance::status::bypass::WatchdogStatus;
use crate::appliance::status::hooks::HookStatus;
use crate::appliance::status::link::LinkStatus;
use crate::appliance::status::plan::PlanStatus;
use crate::appliance::status::rates::RatesStatus;
use crate::appliance::status::{PeerStatus, ReceivedStatus, Status};
use crate::io::restriction::Restrictions;
use crate::io::since::Since;

/// The whole status, a few lines per peer.
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_status(&mut text, status);
    text
}

/// Writes what the process has given up, and what not.
pub fn write_restrictions(out: &mut String, restrictions: &Restrictions) -> std::fmt::Result {
    writeln!(out, "  restricted to: {}", restrictions.summary())?;
    restrictions.missing.iter().try_for_each(|missing| writeln!(out, "  not restricted: {missing}"))
}

/// Writes how many log lines were lost, if any.
pub fn write_log_loss(out: &mut String, lines: u64) -> std::fmt::Result {
    match lines {
        0 => Ok(()),
        _ => writeln!(out, "  log: {} lines lost: nobody reads it, or it cannot be written", grouped(lines)),
    }
}

fn write_status(out: &mut String, status: &Status) -> std::fmt::Result {
    let tun = &status.tun;
    writeln!(out, "{}: {}, onwire {}, {}", status.node, status.state, status.version, duration(status.uptime_s))?;
    if let Some(candidate) = &status.configuration.candidate {
        writeln!(out, "  candidate: {}", candidate.words())?;
    }
    write_log_loss(out, status.log_lines_lost)?;
    write_restrictions(out, &status.restrictions)?;
    let offloads = match (tun.tcp_offload, tun.udp_offload) {
        (true, true) => "TCP and UDP super-packets",
        (true, false) => "TCP super-packets",
        _ => "one packet a read",
    };
    let dropped = tun.tx_dropped.map_or("?".to_owned(), grouped);
    writeln!(
        out,
        "  {}: {} back-end, {offloads}, MTU {}, {} dropped before we read them",
        tun.name, tun.backend, tun.mtu, dropped
    )?;
    for (prefix, trouble) in &tun.route_troubles {
        writeln!(out, "  {prefix}: {}", trouble.words(&tun.name))?;
    }
    if let Some(WatchdogStatus { pid, stalls }) = status.watchdog {
        let process = pid.map_or("ENDED, restart onwire".to_owned(), |pid| format!("process {pid}"));
        writeln!(out, "  watchdog: {process}; onwire stood still {stalls} times")?;
    }
    for HookStatus { program, pid, runs, failed, last, .. } in &status.hooks {
        let process = if pid.is_none() { "ITS PROCESS HAS ENDED, restart onwire; " } else { "" };
        let last = last.as_ref().map_or(String::new(), |last| format!("; the last {last}"));
        writeln!(out, "  hook {program}: {process}{runs} runs, {failed} failed{last}")?;
    }
    for lane in &status.lanes {
        writeln!(
            out,
            "  lane {}: {}, UDP GSO {}, {} send errors, {} lost to a full receive buffer",
            lane.lane, lane.listen, lane.udp_gso, lane.send_errors, lane.receive_overflows
        )?;
        if lane.too_big > 0 {
            let mtu = lane.path_mtu.map_or("unknown".to_owned(), |mtu| mtu.to_string());
            writeln!(out, "          {} too big for the path, whose MTU is {mtu}: lower `path.mtu`", lane.too_big)?;
        }
    }
    if let Some(notify) = &status.notify {
        writeln!(
            out,
            "  notifications: {}, {} subscribers, {} sent; {} requests, {} refused, {} forged or foreign, {} replayed",
            notify.listen,
            notify.subscribers,
            grouped(notify.sent),
            grouped(notify.requests),
            grouped(notify.refused),
            grouped(notify.forged + notify.not_ours),
            grouped(notify.replayed)
        )?;
    }
    for peer in &status.peers {
        write_peer(out, peer)?;
    }
    for (reason, count) in &status.drops {
        writeln!(out, "  dropped: {} {reason}", grouped(*count))?;
    }
    Ok(())
}

fn write_peer(out: &mut String, peer: &PeerStatus) -> std::fmt::Result {
    let endpoint = peer.endpoint.map_or("nowhere yet".to_owned(), |endpoint| endpoint.to_string());
    writeln!(out, "\npeer {}: {}{} at {endpoint}", peer.name, peer.state, lasting(peer.since))?;
    if let Some(age) = peer.session_age_s {
        let rtt = peer.rtt_ms.map_or("unknown".to_owned(), |rtt| format!("{rtt:.1} ms"));
        writeln!(out, "  session   {} old, {} so far, round trip {rtt}", duration(age), peer.sessions)?;
    }
    if let Some(cause) = peer.bypass.as_ref().and_then(|bypass| bypass.cause.as_ref()) {
        writeln!(out, "  BYPASS    {cause}: its routes are withdrawn, and packets take the plain route, unprotected")?;
    }
    if let (Some("next_public_key"), Some(key)) = (peer.key.as_deref(), &peer.public_key) {
        writeln!(out, "  key       next_public_key, {key}: write it as public_key, and reload")?;
    }
    if let Some(protection) = &peer.protection {
        let since = lasting(protection.since);
        let because = match (protection.reason.as_str(), protection.since == protection.reason_since) {
            ("none", _) => String::new(),
            (reason, true) => format!(" ({reason})"),
            (reason, false) => format!(" ({reason}{})", lasting(protection.reason_since)),
        };
        writeln!(
            out,
            "  promises  link {}{since}{because}; level {}; {} flows; {} blocks protected, {} not; {} violations",
            protection.state,
            protection.level,
            grouped(protection.flows),
            grouped(protection.protected_blocks),
            grouped(protection.untrusted_blocks + protection.unsendable_blocks + protection.stamps_missing),
            grouped(protection.violations)
        )?;
    }
    let sent = &peer.sent;
    // Of nothing there is no share.
    let more = match sent.adu_bytes {
        0 => String::new(),
        _ => format!(", {:.1} % more bytes", sent.overhead * 100.0),
    };
    writeln!(
        out,
        "  sent      {} packets ({}) in {} blocks: {} source and {} repair symbols{more}",
        grouped(sent.adus),
        bytes(sent.adu_bytes),
        grouped(sent.blocks),
        grouped(sent.source_symbols),
        grouped(sent.repair_symbols)
    )?;
    if sent.queue_dropped > 0 {
        let dropped = grouped(sent.queue_dropped);
        writeln!(out, "            {dropped} packets dropped: more came than path.rate carries")?;
    }
    if sent.standing_dropped + sent.standing_marked + sent.repair_shed > 0 {
        writeln!(
            out,
            "            the queue for path.rate stood: {} packets dropped and {} marked so that senders slow down; {} repair \
             symbols not sent",
            grouped(sent.standing_dropped),
            grouped(sent.standing_marked),
            grouped(sent.repair_shed)
        )?;
    }
    if sent.repaired_dropped > 0 {
        let dropped = grouped(sent.repaired_dropped);
        writeln!(
            out,
            "            {dropped} packets dropped so that senders slow down: a full queue on the path dropped as many, and they \
             were repaired"
        )?;
    }
    write_received(out, "received", &peer.received)?;
    if let Some(report) = &peer.peer_report {
        write_received(out, "its side", &report.received)?;
    }
    if let Some(link) = &peer.link {
        writeln!(out, "  way there {}", way_there(link))?;
    }
    if let Some(rates) = &peer.rates {
        write_rates(out, rates)?;
    }
    peer.plans.iter().try_for_each(|plan| write_plan(out, plan))
}

/// A profile that is planned, and which of its targets are not reached.
fn write_plan(out: &mut String, plan: &PlanStatus) -> std::fmt::Result {
    let late = match plan.survive_burst_us {
        0 => String::new(),
        late => format!(", late repair after {} ms", late as f64 / 1e3),
    };
    writeln!(
        out,
        "  planned   {} on lane {}: blocks of up to {} symbols and {} ms with {} repair symbols{late}; {:.1} % repair now; {} \
         changes",
        plan.profile,
        plan.lane,
        plan.block_symbols,
        plan.close_after_us as f64 / 1e3,
        plan.repair_symbols,
        plan.overhead * 100.0,
        plan.changes
    )?;
    for unreached in &plan.unreached {
        writeln!(out, "            {unreached}")?;
    }
    Ok(())
}

fn write_received(out: &mut String, label: &str, received: &ReceivedStatus) -> std::fmt::Result {
    let datagrams = match received.datagrams + received.lost {
        0 => "no datagrams of blocks yet".to_owned(),
        _ => format!(
            "datagrams: {} came, {} lost ({:.3} %)",
            grouped(received.datagrams),
            grouped(received.lost),
            received.raw_loss * 100.0
        ),
    };
    writeln!(out, "  {label}  {} packets ({}); {datagrams}", grouped(received.adus), bytes(received.adu_bytes))?;
    if received.datagrams + received.lost == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "            {} symbols rebuilt in {} blocks; {} of {} blocks could not be rebuilt",
        grouped(received.recovered_symbols),
        grouped(received.recovered_blocks),
        grouped(received.unrecoverable_blocks),
        grouped(received.blocks)
    )?;
    let (path, rebuilt) = (received.path_marked.unwrap_or(0), received.rebuilt_marked.unwrap_or(0));
    if path + rebuilt > 0 {
        writeln!(
            out,
            "            {} packets marked because the path marked datagrams, {} because congestion had lost them",
            grouped(path),
            grouped(rebuilt)
        )?;
    }
    Ok(())
}

/// ` for 2 h 3 min`; nothing of a process that does not say.
pub fn lasting(since: Option<Since>) -> String {
    since.map_or(String::new(), |since| format!(" for {}", duration(since.for_s)))
}

/// The last ten seconds.
fn write_rates(out: &mut String, rates: &RatesStatus) -> std::fmt::Result {
    let share = |share: Option<f64>| share.map_or("no".to_owned(), |share| format!("{} %", percent(share)));
    let (sent, received) = (&rates.sent, &rates.received);
    writeln!(
        out,
        "  last {:2.0} s sent {} packets/s ({}/s), {} more bytes for repair; received {} packets/s ({}/s), {} loss, \
         {} symbols/s rebuilt",
        rates.over_s,
        grouped(sent.adus_per_second.round() as u64),
        bytes(sent.adu_bytes_per_second.round() as u64),
        share(sent.overhead),
        grouped(received.adus_per_second.round() as u64),
        bytes(received.adu_bytes_per_second.round() as u64),
        share(received.raw_loss),
        grouped(received.recovered_symbols_per_second.round() as u64)
    )?;
    if let Some(there) = rates.peer_report.filter(|there| there.datagrams_per_second + there.lost_per_second > 0.0) {
        writeln!(
            out,
            "            its side: {} loss, {} symbols/s rebuilt, {} of blocks not rebuilt",
            share(there.raw_loss),
            grouped(there.recovered_symbols_per_second.round() as u64),
            share(there.residual_loss)
        )?;
    }
    Ok(())
}

/// What is known of the link to a peer.
pub fn way_there(link: &LinkStatus) -> String {
    let Some(age) = link.age_ms else { return "loss not known: no report of datagrams yet".to_owned() };
    let mut text = format!(
        "loss {} % (at 95 % below {} %, {} old)",
        percent(link.loss),
        percent(link.loss_upper),
        duration(age / 1e3)
    );
    match (link.ever.count, link.last_hour.count) {
        (0, _) => text.push_str("; no two in a row"),
        (_, 0) => _ = write!(text, "; longest interruption {:.1} ms, none for an hour", link.ever.longest_ms),
        _ => {
            let [minute, hour, ever] =
                [link.last_minute, link.last_hour, link.ever].map(|of| format!("{:.1}", of.longest_ms));
            _ = write!(text, "; longest interruption {minute} ms in a minute, {hour} ms in an hour, {ever} ms in all");
        }
    }
    if link.model_violated {
        text.push_str("; one was longer than those before allow");
    }
    if link.congested {
        text.push_str("; congested: a full queue loses, set `path.rate`");
    }
    text
}

/// A share, with two digits that say something.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 {
        return "0".to_owned();
    }
    let decimals = (1.0 - percent.max(1e-9).log10().floor()).clamp(0.0, 8.0) as usize;
    format!("{percent:.decimals$}")
}

pub fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::status::link::InterruptionStatus;

    #[test]
    fn the_way_to_a_peer_is_told_with_its_age() {
        let longest = |longest_ms| InterruptionStatus { count: 1, longest_ms, ..InterruptionStatus::default() };
        let known = LinkStatus { loss: 0.01234, loss_upper: 0.021, age_ms: Some(40.0), ..LinkStatus::default() };
        let rows = [
            (LinkStatus::default(), "loss not known: no report of datagrams yet"),
            (known.clone(), "loss 1.2 % (at 95 % below 2.1 %, 0.0 s old); no two in a row"),
            (
                LinkStatus { loss: 0.0, loss_upper: 0.000_034_5, ever: longest(2.0), ..known.clone() },
                "loss 0 % (at 95 % below 0.0034 %, 0.0 s old); longest interruption 2.0 ms, none for an hour",
            ),
            (
                LinkStatus {
                    last_hour: longest(2.5),
                    ever: longest(12.0),
                    model_violated: true,
                    congested: true,
                    ..known.clone()
                },
                "loss 1.2 % (at 95 % below 2.1 %, 0.0 s old); longest interruption 0.0 ms in a minute, 2.5 ms in an hour, \
                 12.0 ms in all; one was longer than those before allow; congested: a full queue loses, set `path.rate`",
            ),
        ];
        for (link, text) in rows {
            assert_eq!(way_there(&link), text);
        }
    }

    #[test]
    fn of_no_traffic_there_are_no_percentages() {
        let mut text = String::new();
        let idle = PeerStatus { name: "syracuse".to_owned(), ..PeerStatus::default() };
        write_peer(&mut text, &idle).unwrap();
        assert!(text.contains("0 packets") && !text.contains('%'), "{text}");
        let mut busy = idle;
        (busy.sent.adu_bytes, busy.sent.overhead) = (1000, 0.125);
        (busy.received.datagrams, busy.received.lost, busy.received.raw_loss) = (99, 1, 0.01);
        let mut text = String::new();
        write_peer(&mut text, &busy).unwrap();
        assert!(text.contains("12.5 % more bytes") && text.contains("99 came, 1 lost (1.000 %)"), "{text}");
    }

    #[test]
    fn numbers_are_grouped_and_scaled() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([bytes(999), bytes(1500), bytes(256_000_000)], ["999 B", "1.5 kB", "256.0 MB"]);
        assert_eq!([duration(1.25), duration(61.0), duration(7260.0)], ["1.2 s", "1 min 1 s", "2 h 1 min"]);
    }
}
