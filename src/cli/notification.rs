//! Notifications as text for people, and as JSON. Decides nothing: every notification is shown as received.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::render::grouped;
use crate::config::units::show_duration;
use crate::notify::message::{Block, Event, Flow, FlowKey, Level, Origin, Peer, Range, Violation};

/// `tcp 10.1.0.1:40000 -> 10.2.0.1:5432`.
pub fn key(key: &FlowKey) -> String {
    format!("{} {} -> {}", protocol(key.protocol), key.source, key.destination)
}

/// `tcp`, `udp`, or the number.
pub fn protocol(number: u8) -> String {
    match number {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        number => number.to_string(),
    }
}

/// What happened to a flow, after its addresses.
pub fn flow(flow: &Flow) -> String {
    let mut text = match flow.event {
        Event::New => "new".to_owned(),
        Event::Protected => "protected".to_owned(),
        Event::Gone(reason) => format!("gone ({})", reason.name()),
    };
    // Writing to a string cannot fail.
    for level in Level::ALL.into_iter().rev() {
        if let Some(position) = flow.positions.at(level) {
            let _ = write!(text, "  {} {}", level.name(), grouped(position));
        }
    }
    if let Some(packets) = flow.packets {
        let _ = write!(text, "  packets {}", grouped(packets));
    }
    if let Some((k, m)) = flow.block {
        let _ = write!(text, "  k {k} m {m}");
    }
    if flow.survives_burst > 0 {
        let _ = write!(text, "  survives {}", burst(flow.survives_burst));
    }
    if flow.origin == Origin::Middle {
        text.push_str("  seen from its middle");
    }
    if flow.level == Level::Queued {
        text.push_str("  no timestamps: queued is all that is known");
    }
    if let Some(cookie) = flow.cookie {
        let _ = write!(text, "  cookie {cookie}");
    }
    if let Some(start) = flow.violated {
        let _ = write!(text, "  VIOLATED from {}", grouped(start));
    }
    text
}

/// An interruption in microseconds, for people.
pub fn burst(micros: u32) -> String {
    show_duration(Duration::from_micros(micros.into()))
}

/// The state of a link: `degraded: no reports`.
pub fn link(peer: &Peer) -> String {
    use crate::notify::message::StateReason;
    match peer.reason {
        StateReason::None => peer.state.name().to_owned(),
        reason => format!("{}: {}", peer.state.name(), reason.name()),
    }
}

/// A block and its outcome.
pub fn block(block: &Block) -> String {
    let outcome = block.level.map_or("failed", Level::name);
    let mut text = format!(
        "block {} of lane {}, profile {}: k {} m {}  {outcome}",
        grouped(block.sbn),
        block.lane,
        block.profile,
        block.k,
        block.m
    );
    block.ranges.iter().for_each(|it| {
        let _ = write!(text, "  {}", range(it));
    });
    text
}

/// Bytes of a flow.
pub fn range(range: &Range) -> String {
    format!("{} bytes {} to {}", key(&range.key), grouped(range.start), grouped(range.end))
}

/// The time of day in UTC, to the microsecond.
pub fn time_of_day(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}.{:06}", seconds / 3600, seconds / 60 % 60, seconds % 60, since.subsec_micros())
}

/// Seconds since 1970, to the microsecond.
pub fn unix_time(at: SystemTime) -> f64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_micros() as f64 / 1e6
}

/// The fields of a flow's addresses.
pub fn key_json(key: &FlowKey) -> Map<String, Value> {
    object(json!({
        "protocol": protocol(key.protocol),
        "source": key.source.to_string(),
        "destination": key.destination.to_string(),
    }))
}

/// A flow, with its link if that is known.
pub fn flow_json(flow: &Flow, peer: Option<&Peer>) -> Map<String, Value> {
    let (event, gone) = match flow.event {
        Event::New => ("new", None),
        Event::Protected => ("protected", None),
        Event::Gone(reason) => ("gone", Some(reason.name())),
    };
    let mut fields = key_json(&flow.key);
    fields.extend(object(json!({
        "instance": flow.instance,
        "event": event,
        "gone_reason": gone,
        "level": flow.level.name(),
        "origin": if flow.origin == Origin::Start { "start" } else { "middle" },
        "origin_seq": flow.origin_seq,
        "queued": flow.positions.queued,
        "early": flow.positions.early,
        "on_wire": flow.positions.on_wire,
        "decoded": flow.positions.decoded,
        "acked": flow.positions.acked,
        "violated": flow.violated,
        "packets": flow.packets,
        "cookie": flow.cookie,
        "k": flow.block.map(|(k, _)| k),
        "m": flow.block.map(|(_, m)| m),
        "survives_burst_us": flow.survives_burst,
        "peer": flow.peer,
        "peer_name": peer.and_then(|peer| peer.name.as_deref()),
        "link_state": peer.map(|peer| peer.state.name()),
    })));
    fields
}

/// A link.
pub fn link_json(peer: &Peer) -> Map<String, Value> {
    object(json!({
        "peer": peer.id,
        "peer_name": peer.name.as_deref(),
        "state": peer.state.name(),
        "reason": peer.reason.name(),
    }))
}

/// A violation.
pub fn violation_json(violation: &Violation) -> Map<String, Value> {
    object(json!({ "number": violation.number, "peer": violation.peer, "ranges": ranges_json(&violation.ranges) }))
}

/// A block.
pub fn block_json(block: &Block) -> Map<String, Value> {
    object(json!({
        "peer": block.peer,
        "lane": block.lane,
        "profile": block.profile,
        "sbn": block.sbn,
        "k": block.k,
        "m": block.m,
        "level": block.level.map(Level::name),
        "ranges": ranges_json(&block.ranges),
    }))
}

fn ranges_json(ranges: &[Range]) -> Vec<Value> {
    let range = |range: &Range| {
        let mut fields = key_json(&range.key);
        fields.extend(object(json!({ "instance": range.instance, "start": range.start, "end": range.end })));
        Value::Object(fields)
    };
    ranges.iter().map(range).collect()
}

/// The fields of `json!({ ... })`.
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_to_the_microsecond() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        assert_eq!(time_of_day(at), "22:13:20.123456");
        assert_eq!(unix_time(at), 1_700_000_000.123_456);
    }
}
