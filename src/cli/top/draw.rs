//! Puts the model on the screen: 80 columns by 24 lines show all of it; on a smaller screen the less important parts go
//! first.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};

use super::flows::{FLOWS_MAX, Flows, unprotected};
use super::layout::{CURVES, Lines, Wishes, fit};
use super::model::{GateRow, Model, PeerRow};
use crate::cli::output_line::OutputLine;
use crate::cli::render::{bytes, duration, grouped, percent};
use crate::notify::message::Flow;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const GOOD: Style = Style::new().fg(Color::Green);

/// A column of a table: its name, its width and its rank, see [`fit`].
type Column = (&'static str, u16, u8);

const STATE_WIDTH: u16 = 11;
const PEERS: [Column; 8] = [
    ("PEER", 8, 0),
    ("STATE", STATE_WIDTH, 1),
    ("RTT", 8, 4),
    ("LOSS", 7, 2),
    ("SENT/s", 9, 5),
    ("RECV/s", 9, 6),
    ("REPAIR", 7, 3),
    ("LOST BL", 7, 7),
];
const GATES: [Column; 7] = [
    ("GATE", 10, 0),
    ("WAITING", 8, 1),
    ("OLDEST", 9, 2),
    ("UNPROTECTED", 11, 3),
    ("CONN", 5, 4),
    ("EXPOSED", 9, 5),
    ("EARLY ACKS", 12, 6),
];
const FLOWS: [Column; 6] =
    [("FLOW", 22, 0), ("TO", 21, 3), ("WAITS", 9, 1), ("ON WIRE", 14, 2), ("ACKED", 14, 4), ("STATE", 9, 5)];

/// Draws everything.
pub(super) fn draw(canvas: &mut Frame<'_>, model: &Model) {
    let area = canvas.area();
    let (peers, gates, problems) = (model.peers(), model.gates(), model.problems());
    let path = peers.get(model.chosen()).map(|row| model.path(row)).unwrap_or_default();
    let below = below(model, &gates, area.width);
    let wishes = Wishes { problems: problems.len(), peers: peers.len(), path: path.len(), below: below.len() };
    let lines = Lines::share(area.height, wishes);
    let mut at = area.y;
    let mut part = |height: u16| {
        let part = Rect { x: area.x, y: at, width: area.width, height };
        at += height;
        part
    };
    canvas.render_widget(Paragraph::new(title(model, problems.len())), part(lines.title));
    canvas.render_widget(Paragraph::new(problem_lines(&problems, lines.problems)), part(lines.problems));
    canvas.render_widget(Paragraph::new(peer_table(model, &peers, lines.peers, area.width)), part(lines.peers));
    let path: Vec<Line<'_>> = path.into_iter().map(|text| Line::styled(text, DIM)).collect();
    canvas.render_widget(Paragraph::new(path), part(lines.path));
    draw_curves(canvas, model, peers.get(model.chosen()), part(lines.curves));
    canvas.render_widget(Paragraph::new(below), part(lines.below));
    // The keys are at the bottom, whatever is above.
    let bottom = Rect { y: area.bottom().saturating_sub(lines.keys), height: lines.keys, ..area };
    canvas.render_widget(Paragraph::new(keys(model)), bottom);
}

fn title(model: &Model, problems: usize) -> Line<'static> {
    let (state, style) = match (model.nothing.is_some(), problems) {
        (true, _) => ("NOTHING RUNS".to_owned(), BAD),
        (false, 0) if model.peers().is_empty() && model.gates().is_empty() => ("asking ...".to_owned(), DIM),
        (false, 0) => ("OK".to_owned(), GOOD),
        (false, 1) => ("1 PROBLEM".to_owned(), BAD),
        (false, problems) => (format!("{problems} PROBLEMS"), BAD),
    };
    let paused = if model.is_paused { "  PAUSED" } else { "" };
    Line::from(vec![
        Span::styled("onwire ", BOLD),
        Span::styled(state, style),
        Span::styled(paused, BAD),
        Span::raw("  "),
        Span::raw(model.summary()),
    ])
}

fn keys(model: &Model) -> Line<'static> {
    let below = match (model.shows_flows, &model.flows) {
        (true, _) => "f gates",
        (false, Some(_)) => "f flows",
        (false, None) => "f flows?",
    };
    Line::styled(format!("q quit  ↑↓ peer  {below}  p pause"), DIM)
}

/// As many as there is room for; the last line counts the rest.
fn problem_lines(problems: &[String], height: u16) -> Vec<Line<'static>> {
    let height = usize::from(height);
    let mut lines: Vec<Line<'_>> = problems.iter().take(height).map(|text| Line::styled(text.clone(), BAD)).collect();
    if problems.len() > height
        && height > 1
        && let Some(last) = lines.last_mut()
    {
        *last = Line::styled(format!("and {} more: onwire status --check", problems.len() + 1 - height), BAD);
    }
    lines
}

/// A line of a table; the first cell begins at the left, the others end at the right of their columns.
fn row(cells: &[String], columns: &[(usize, u16)]) -> String {
    let mut line = String::new();
    for (place, (at, width)) in columns.iter().enumerate() {
        let width = usize::from(*width);
        let text: String = cells.get(*at).map(|cell| cell.chars().take(width).collect()).unwrap_or_default();
        match place {
            0 => line += &format!("{text:<width$}"),
            _ => line += &format!(" {text:>width$}"),
        }
    }
    line
}

fn header(columns: &[Column], fitting: &[(usize, u16)]) -> Line<'static> {
    let names: Vec<String> = columns.iter().map(|(name, ..)| (*name).to_owned()).collect();
    Line::styled(row(&names, fitting), BOLD)
}

fn fitting(columns: &[Column], width: u16) -> Vec<(usize, u16)> {
    let sizes: Vec<(u16, u8)> = columns.iter().map(|(_, width, rank)| (*width, *rank)).collect();
    fit(&sizes, width)
}

/// The header and the rows around the chosen one.
fn peer_table(model: &Model, peers: &[PeerRow<'_>], height: u16, width: u16) -> Vec<Line<'static>> {
    let columns = fitting(&PEERS, width);
    let mut lines = vec![header(&PEERS, &columns)];
    let rows = usize::from(height).saturating_sub(1);
    let first = (model.chosen() + 1).saturating_sub(rows);
    let is_alone = peers.iter().all(|row| row.node.node == peers[0].node.node);
    for (number, peer) in peers.iter().enumerate().skip(first).take(rows) {
        let text = row(&peer_cells(peer, is_alone), &columns);
        let is_bad = peer.is_old || !is_well(peer);
        lines.push(match (number == model.chosen() && peers.len() > 1, is_bad) {
            (true, _) => Line::styled(text, CHOSEN),
            (false, true) => Line::styled(text, BAD),
            (false, false) => Line::raw(text),
        });
    }
    lines
}

fn is_well(row: &PeerRow<'_>) -> bool {
    row.peer.state == "up" && row.peer.protection.as_ref().is_none_or(|protection| protection.state == "up")
}

fn peer_cells(row: &PeerRow<'_>, is_alone: bool) -> Vec<String> {
    let PeerRow { node, peer, is_old, .. } = row;
    let name = match is_alone {
        true => OutputLine(&peer.name).to_string(),
        false => format!("{}>{}", OutputLine(&node.node), OutputLine(&peer.name)),
    };
    let protection = peer.protection.as_ref().filter(|_| peer.state == "up");
    let (state, since) = match protection {
        _ if *is_old => ("no answer", None),
        Some(protection) => (protection.state.as_str(), protection.since),
        None => (peer.state.as_str(), peer.since),
    };
    let state = OutputLine(state).to_string();
    // A number of which a part is cut off would be a wrong one.
    let state = match since.map(|since| format!("{state} {}", short(since.for_s))) {
        Some(long) if long.len() <= usize::from(STATE_WIDTH) => long,
        _ => state,
    };
    let none = || "-".to_owned();
    let share = |share: Option<f64>| share.map_or_else(none, |share| format!("{}%", percent(share)));
    let rates = peer.rates;
    vec![
        name,
        state,
        peer.rtt_ms.map_or_else(none, |rtt| format!("{rtt:.1}ms")),
        share(rates.and_then(|rates| rates.peer_report?.raw_loss)),
        rates.map_or_else(none, |rates| bytes(rates.sent.adu_bytes_per_second as u64)),
        rates.map_or_else(none, |rates| bytes(rates.received.adu_bytes_per_second as u64)),
        share(rates.and_then(|rates| rates.sent.overhead)),
        peer.peer_report.as_ref().map_or_else(none, |report| grouped(report.received.unrecoverable_blocks)),
    ]
}

/// A time in few characters.
fn short(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..120 => format!("{whole}s"),
        120..7_200 => format!("{}m", whole / 60),
        7_200..172_800 => format!("{}h", whole / 3_600),
        _ => format!("{}d", whole / 86_400),
    }
}

/// The curves of the chosen peer, each with a line above it.
fn draw_curves(canvas: &mut Frame<'_>, model: &Model, row: Option<&PeerRow<'_>>, area: Rect) {
    let Some(row) = row.filter(|_| area.height >= 2 * CURVES) else { return };
    let columns = model.columns(row, usize::from(area.width));
    let height = area.height / CURVES;
    let loss: Vec<Option<f64>> = columns.iter().map(|column| column.loss).collect();
    let rebuilt: Vec<Option<f64>> = columns.iter().map(|column| column.rebuilt).collect();
    let name = OutputLine(&row.peer.name);
    let share = |value: f64| format!("{} %", percent(value));
    let rate = |value: f64| format!("{} symbols/s", grouped(value.round() as u64));
    let above = |what: &str, values: &[Option<f64>], shown: &dyn Fn(f64) -> String| {
        let most = values.iter().flatten().fold(0.0, |most: f64, value| most.max(*value));
        let now = values.last().copied().flatten().map_or("-".to_owned(), shown);
        format!("{what} {now}, most {}", shown(most))
    };
    let curves = [
        (above(&format!("loss to {name}"), &loss, &share), loss, Color::Red),
        (above("rebuilt there", &rebuilt, &rate), rebuilt, Color::Green),
    ];
    for (number, (text, values, colour)) in (0..).zip(curves) {
        let top = Rect { y: area.y + number * height, height: 1, ..area };
        canvas.render_widget(Paragraph::new(Line::styled(text, BOLD)), top);
        let curve = Rect { y: top.y + 1, height: height - 1, ..area };
        canvas.render_widget(sparkline(&values, area.width, colour), curve);
    }
}

/// The newest value is at the right, also while there are few.
fn sparkline(values: &[Option<f64>], width: u16, colour: Color) -> Sparkline<'static> {
    let most = values.iter().flatten().fold(0.0, |most: f64, value| most.max(*value));
    let missing = usize::from(width).saturating_sub(values.len());
    let scaled = values.iter().map(|value| {
        // What is not nothing is seen.
        value.map(|value| if value > 0.0 { (value / most * 1000.0).max(1.0).ceil() as u64 } else { 0 })
    });
    let data: Vec<Option<u64>> = std::iter::repeat_n(None, missing).chain(scaled).collect();
    Sparkline::default().data(data).max(1000).style(Style::new().fg(colour)).absent_value_symbol(" ")
}

/// The gates, or the flows: what is below the curves.
fn below(model: &Model, gates: &[GateRow<'_>], width: u16) -> Vec<Line<'static>> {
    if model.shows_flows {
        return match &model.flows {
            Some(flows) => flow_table(flows, width),
            None => vec![Line::styled("flows are followed with `onwire top --flows`, which needs a key", DIM)],
        };
    }
    if gates.is_empty() {
        return Vec::new();
    }
    let columns = fitting(&GATES, width);
    let mut lines = vec![header(&GATES, &columns)];
    for gate in gates {
        let is_bad = !gate.process.notify.contact || gate.exposed > 0;
        let text = row(&gate_cells(gate), &columns);
        lines.push(if is_bad { Line::styled(text, BAD) } else { Line::raw(text) });
    }
    lines
}

fn gate_cells(row: &GateRow<'_>) -> Vec<String> {
    let GateRow { gate, waiting, oldest_s, unprotected, exposed, .. } = row;
    vec![
        OutputLine(&gate.name).to_string(),
        grouped(*waiting),
        oldest_s.map_or("-".to_owned(), |age| if age < 1.0 { format!("{:.0}ms", age * 1e3) } else { duration(age) }),
        bytes(*unprotected),
        gate.connections.len().to_string(),
        bytes(*exposed),
        grouped(gate.totals.injected_acks),
    ]
}

fn flow_table(flows: &Flows, width: u16) -> Vec<Line<'static>> {
    if !flows.contact {
        let address = flows.address.map_or(String::new(), |address| format!(" at {address}"));
        return vec![Line::styled(format!("the appliance{address} does not tell of flows"), BAD)];
    }
    let columns = fitting(&FLOWS, width);
    let mut lines = vec![header(&FLOWS, &columns)];
    if flows.is_cut {
        lines.push(Line::styled(format!("of more than {}: onwire flows", grouped(FLOWS_MAX as u64)), BAD));
    }
    for flow in &flows.flows {
        let text = row(&flow_cells(flow), &columns);
        lines.push(if flow.violated.is_some() { Line::styled(text, BAD) } else { Line::raw(text) });
    }
    lines
}

fn flow_cells(flow: &Flow) -> Vec<String> {
    let position = |position: Option<u64>| position.map_or("-".to_owned(), grouped);
    vec![
        flow.key.source.to_string(),
        flow.key.destination.to_string(),
        bytes(unprotected(flow)),
        position(flow.positions.on_wire),
        position(flow.positions.acked),
        if flow.violated.is_some() { "VIOLATED" } else { "open" }.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::processes::{Host, Kind, Process};

    fn model(peers: usize, problems: bool) -> Model {
        let mut model = Model::new(None);
        for second in 0..40_u64 {
            let peer = |number: usize| {
                serde_json::json!({
                    "name": format!("peer\u{1b}-{number}"), "state": if problems { "silent" } else { "up" },
                    "rtt_ms": 41.25, "since": { "at_s": 1.0, "for_s": 4000.0 }, "trains": "in trains",
                    "rates": { "over_s": 10.0, "sent": { "overhead": 0.125, "adu_bytes_per_second": 1.5e6 },
                               "peer_report": { "raw_loss": 0.01234 } },
                    "peer_report": {
                        "datagrams": 1000 * second, "lost": second * second, "recovered_symbols": second * second,
                    },
                })
            };
            let peers: Vec<_> = (0..peers).map(peer).collect();
            let appliance =
                serde_json::json!({ "node": "ithaca", "state": "running", "uptime_s": second, "peers": peers });
            let gates = serde_json::json!({
                "role": "gate", "state": "running", "notify": { "contact": true },
                "gates": [{
                    "name": "ledger",
                    "connections": [{ "waiting": 3, "oldest_waiting_s": 0.025, "unprotected": 4096 }],
                }],
            });
            let process = |socket: &str, kind, answer| Process { socket: socket.into(), kind, answer: Ok(answer) };
            let processes = vec![process("a", Kind::Appliance, appliance), process("g", Kind::Gates, gates)];
            model.on_answer(&Host { processes, ..Host::default() });
        }
        model
    }

    fn shown(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|canvas| draw(canvas, model)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn a_usual_screen_shows_peers_curves_and_gates() {
        let text = shown(&model(2, false), 80, 24);
        for part in [
            "onwire OK  ithaca, 1 gate",
            "PEER",
            "up 66m",
            "41.2ms",
            "1.2%",
            "12%",
            "1.5 MB",
            "loss to peer\\u{1b}-0",
            "rebuilt there 77 symbols/s, most 77",
            "█",
            "ledger",
            "25ms",
            "4.1 kB",
            "q quit",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn every_size_of_screen_is_drawn_and_the_smallest_still_says_what_is_wrong() {
        let models = [Model::new(None), model(0, false), model(2, true), model(50, true)];
        for model in &models {
            for width in (1..=90).chain([200, 400]) {
                for height in (1..=30).chain([60, 100]) {
                    shown(model, width, height);
                }
            }
        }
        let text = shown(&models[2], 20, 10);
        assert!(text.contains("onwire 2 PROBLEMS") && text.contains("ithaca: peer peer"), "{text}");
        assert!(text.contains("PEER") && text.contains("silent"), "{text}");
    }
}
