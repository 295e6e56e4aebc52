//! Redis and Valkey: the gate sends `REPLCONF ACK` for what is protected, so that `WAIT` returns without the round
//! trip.
//!
//! A replica connects to the gate as if the gate were its primary. The answer to its `PSYNC` shows where the
//! replication stream begins. After `+FULLRESYNC ID OFFSET` and a snapshot, the next byte has the offset OFFSET + 1;
//! after `+CONTINUE`, the next byte has the offset that `PSYNC` asked for. From there each byte counts one, whatever it
//! holds, as in both servers. When a position in the stream is released, the gate sends the primary `REPLCONF ACK` with
//! its offset, between two commands of the replica and only after the replica's first own one. The replica's later ones
//! are forwarded, raised to what was already acknowledged. `FACK`, what the replica's append-only file has on disk,
//! stays the replica's own.
//!
//! The gate does not acknowledge early for `SYNC`, for snapshots over a second connection (the gate removes that offer
//! from the replica's `REPLCONF`, so that one connection is used), or for what it cannot read, such as TLS that ends
//! elsewhere: these pass, with a warning. Other commands are not interpreted: ordinary connections pass.
//!
//! Start with this file, then `stream` for the offsets. `command`, `line` and `snapshot` split the bytes; `unit` checks
//! how much a replica has when it reconnects.

mod command;
mod line;
mod snapshot;
mod stream;
mod unit;

use self::command::{Command, Parsed};
use self::line::{Line, Read};
use self::snapshot::{Progress, Snapshot};
use self::stream::Stream;
use self::unit::Units;
use super::dialect::{Dialect, Note, Release, Side, TlsChoice, Turn};
use super::returns::{EarlyPosition, Mirror, Place};

/// What a replica offers when it can receive the snapshot over a separate connection: Redis 8, Valkey 8. The stream
/// then begins at an offset that is sent only on the other connection.
const SECOND_CONNECTION: [&str; 2] = ["rdb-channel-repl", "dual-channel"];
/// The first byte of a TLS connection: a handshake record.
const TLS_RECORD: u8 = 0x16;

/// One connection of a Redis replica, or of any other client, to its primary.
#[derive(Debug)]
pub struct Redis {
    stage: Stage,
    /// The beginning of a command from the mirror.
    held: Vec<u8>,
    begun: bool,
    tls: TlsChoice,
    /// The port that the replica listens on, and its address if the replica sends one.
    names: [String; 2],
    /// The offset acknowledged early on earlier connections, in the history that the replica asked for.
    recalled: Option<u64>,
    /// Checks whether the replica lacks some of that, until this is decided.
    units: Option<Units>,
}

#[derive(Debug)]
enum Stage {
    /// Before `PSYNC`: `due` answers of one line are still to come.
    StartUp { due: u32, line: Line },
    /// `PSYNC` was sent, after commands whose answers are still to come. `id` and `first` are the history and the
    /// offset of the first byte that it asked for.
    Asked { due: u32, line: Line, id: String, first: Option<u64> },
    /// The snapshot passes; the stream after it has this base.
    Snapshot { base: u64, snapshot: Snapshot },
    /// The replication stream.
    Replication(Stream),
    /// Everything passes, unread.
    Passing(&'static str),
}

impl Redis {
    /// A new connection. If TLS is configured it begins with the first byte, as in Redis, and independently on each
    /// side.
    pub fn new(tls: TlsChoice) -> Self {
        let stage = Stage::StartUp { due: 0, line: Line::default() };
        let names = Default::default();
        Self { stage, held: Vec::new(), begun: false, tls, names, recalled: None, units: None }
    }

    /// From here on, passes everything unread.
    fn pass(&mut self, why: &str, turn: &mut Turn) {
        self.stage = Stage::Passing("replication without early acknowledgements");
        turn.note(Note::Warning(format!("{why}; nothing is acknowledged early on this connection")));
    }

    /// Bytes from the primary, which are forwarded already. Returns how many of them the stage used; after that the
    /// stage may be another one.
    fn on_primary(&mut self, bytes: &[u8], turn: &mut Turn) -> usize {
        match &mut self.stage {
            Stage::StartUp { line, .. } | Stage::Asked { line, .. } => match line.on_bytes(bytes) {
                Read::Within => bytes.len(),
                Read::TooLong => {
                    self.on_unexpected_answer(turn);
                    bytes.len()
                }
                Read::Complete(used) => {
                    self.on_answer(turn);
                    used
                }
            },
            Stage::Snapshot { base, snapshot } => match snapshot.on_bytes(bytes) {
                Progress::Within => bytes.len(),
                Progress::Complete(used) => {
                    self.stage = Stage::Replication(Stream::new(*base));
                    used
                }
                Progress::Foreign => {
                    self.pass("the snapshot from the primary has a form that is not known", turn);
                    bytes.len()
                }
            },
            Stage::Replication(stream) => {
                let offset = stream.on_sent(bytes.len());
                turn.mark(offset);
                if let Some(units) = &mut self.units
                    && let Some(lacks) = units.on_bytes(bytes)
                {
                    if lacks {
                        turn.on_shortfall(Place::Offset(units.start()));
                    }
                    self.units = None;
                }
                bytes.len()
            }
            Stage::Passing(_) => bytes.len(),
        }
    }

    /// A whole line before the replication stream.
    fn on_answer(&mut self, turn: &mut Turn) {
        match &mut self.stage {
            Stage::StartUp { due, line } | Stage::Asked { due, line, .. } if *due > 0 || line.text().is_empty() => {
                let text = line.text();
                // A bare newline keeps the connection alive; it is no answer.
                if text.is_empty() || matches!(text[0], b'+' | b'-') {
                    *due -= u32::from(!text.is_empty());
                    line.clear();
                } else {
                    self.on_unexpected_answer(turn);
                }
            }
            Stage::Asked { line, id, first, .. } => {
                let text = String::from_utf8_lossy(line.text()).into_owned();
                let (id, first) = (std::mem::take(id), *first);
                self.on_psync_answer(&text, &id, first, turn);
            }
            _ => self.on_unexpected_answer(turn),
        }
    }

    fn on_psync_answer(&mut self, answer: &str, id: &str, first: Option<u64>, turn: &mut Turn) {
        let mut words = answer.split_ascii_whitespace();
        match words.next() {
            Some("+FULLRESYNC") => match (words.next(), words.next().and_then(|at| command::number(at.as_bytes()))) {
                (Some(id), Some(base)) => {
                    turn.note(Note::Info(format!("full synchronisation; the stream begins behind offset {base}")));
                    self.stage = Stage::Snapshot { base, snapshot: Snapshot::default() };
                    turn.on_mirror(self.mirror(id));
                }
                _ => self.pass(&format!("the primary answered PSYNC with `{answer}`, without an offset"), turn),
            },
            Some("+CONTINUE") => match first.and_then(|first| first.checked_sub(1)) {
                Some(base) => {
                    turn.note(Note::Info(format!("partial synchronisation; the stream goes on behind offset {base}")));
                    self.stage = Stage::Replication(Stream::new(base));
                    self.units = self.recalled.filter(|limit| *limit > base).map(|limit| Units::new(base, limit));
                    // The history may get another name; the offsets continue.
                    if let Some(new) = words.next().filter(|new| *new != id) {
                        turn.on_mirror(self.mirror(new));
                    }
                }
                None => self.pass("the primary continues a stream whose offset the mirror did not name", turn),
            },
            // Refused for now; the replica asks again, here or on another connection.
            Some(refusal) if refusal.starts_with('-') => {
                self.stage = Stage::StartUp { due: 0, line: Line::default() };
            }
            _ => {
                self.pass(
                    &format!(
                        "the primary answered PSYNC with `{answer}`, which is not known (for a snapshot over a second \
                         connection set `repl-rdb-channel no`, in Valkey `dual-channel-replication-enabled no`)"
                    ),
                    turn,
                );
            }
        }
    }

    /// The replica's identity, in the history `id`.
    fn mirror(&self, id: &str) -> Mirror {
        let [port, address] = &self.names;
        let name = match (port.as_str(), address.as_str()) {
            ("", _) => "a replica".to_owned(),
            (port, "") => format!("the replica with port {port}"),
            (port, address) => format!("replica {address}:{port}"),
        };
        Mirror { name, is_unique: false, history: Some(format!("replication {id}")) }
    }

    /// The primary sent a line that is not an answer, or not in the form of an answer before replication.
    fn on_unexpected_answer(&mut self, turn: &mut Turn) {
        match self.stage {
            Stage::StartUp { .. } => self.stage = Stage::Passing("ordinary session"),
            _ => self.pass("the primary's answer to PSYNC cannot be read", turn),
        }
    }

    /// A whole command from the mirror, with its bytes.
    fn on_command(&mut self, command: &Command, bytes: &[u8], turn: &mut Turn) {
        if command.count() == 0 {
            return turn.send(Side::Primary, bytes);
        }
        let is_ack = command.is(bytes, 0, "REPLCONF") && command.is(bytes, 1, "ACK");
        match &mut self.stage {
            Stage::Replication(stream) if is_ack => {
                let told = command.number(bytes, 2).and_then(|real| Some((real, stream.on_real(real)?)));
                match told {
                    Some((real, told)) => {
                        if real == told {
                            turn.send(Side::Primary, bytes);
                        } else {
                            let mut raised = Vec::with_capacity(bytes.len() + 20);
                            command::emit_ack(told, Some((command, bytes)), &mut raised);
                            turn.send(Side::Primary, &raised);
                        }
                        turn.on_acknowledged(real);
                        note_early_position(stream, turn);
                    }
                    None => {
                        turn.send(Side::Primary, bytes);
                        let offset = String::from_utf8_lossy(command.argument(bytes, 2)).into_owned();
                        self.pass(&format!("the mirror acknowledges offset {offset}, which was not sent to it"), turn);
                    }
                }
            }
            Stage::StartUp { due, line } => {
                let in_start_up = ["PING", "AUTH", "REPLCONF"].iter().any(|word| command.is(bytes, 0, word));
                if in_start_up {
                    *due += u32::from(!is_ack);
                    for at in (2..command.count()).filter(|_| command.is(bytes, 0, "REPLCONF")) {
                        for (name, word) in self.names.iter_mut().zip(["listening-port", "ip-address"]) {
                            if command.is(bytes, at - 1, word) {
                                *name = String::from_utf8_lossy(command.argument(bytes, at)).into_owned();
                            }
                        }
                    }
                    let hidden = without_second_connection(command, bytes);
                    turn.send(Side::Primary, hidden.as_deref().unwrap_or(bytes));
                } else if command.is(bytes, 0, "PSYNC") {
                    let (due, line) = (*due, std::mem::take(line));
                    let id = String::from_utf8_lossy(command.argument(bytes, 1)).into_owned();
                    turn.on_mirror(self.mirror(&id));
                    self.stage = Stage::Asked { due, line, id, first: command.number(bytes, 2) };
                    turn.send(Side::Primary, bytes);
                } else {
                    turn.send(Side::Primary, bytes);
                    if command.is(bytes, 0, "SYNC") {
                        self.pass("the mirror asked with SYNC, whose answer tells no offset", turn);
                    } else {
                        self.stage = Stage::Passing("ordinary session");
                    }
                }
            }
            _ => {
                turn.send(Side::Primary, bytes);
                if !is_ack && !matches!(self.stage, Stage::Passing(_)) {
                    let name = String::from_utf8_lossy(command.argument(bytes, 0)).into_owned();
                    self.pass(&format!("the mirror sent `{name}` where it only acknowledges"), turn);
                }
            }
        }
    }

    /// The mirror sent something that is not a replica's command.
    fn on_foreign(&mut self, turn: &mut Turn) {
        match self.stage {
            Stage::StartUp { .. } => self.stage = Stage::Passing("ordinary session"),
            _ => self.pass("what the mirror sends cannot be read", turn),
        }
    }
}

impl Dialect for Redis {
    fn on_open(&mut self, turn: &mut Turn) {
        if self.tls.accepts {
            turn.start_tls(Side::Mirror);
        }
        if self.tls.connects {
            turn.start_tls(Side::Primary);
        }
    }

    fn on_bytes(&mut self, side: Side, bytes: &[u8], turn: &mut Turn) {
        if side == Side::Primary {
            turn.send(Side::Mirror, bytes);
            let mut at = 0;
            while at < bytes.len() {
                at += self.on_primary(&bytes[at..], turn);
            }
            if matches!(self.stage, Stage::Passing(_)) {
                turn.send(Side::Primary, &std::mem::take(&mut self.held));
            }
            return;
        }
        if !self.begun && bytes.first() == Some(&TLS_RECORD) {
            self.pass(
                "the mirror begins TLS, for which this gate has no certificate (`tls` of the gate, or --tls-cert)",
                turn,
            );
        }
        self.begun |= !bytes.is_empty();
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let mut at = 0;
        while at < held.len() && !matches!(self.stage, Stage::Passing(_)) {
            match command::parse(&held[at..]) {
                Parsed::Incomplete => {
                    self.held = held[at..].to_vec();
                    return;
                }
                Parsed::Foreign => self.on_foreign(turn),
                Parsed::Command(command) => {
                    let end = at + command.len;
                    self.on_command(&command, &held[at..end], turn);
                    at = end;
                }
            }
        }
        turn.send(Side::Primary, &held[at..]);
    }

    fn on_released(&mut self, mark: u64, _release: Release, turn: &mut Turn) {
        let Stage::Replication(stream) = &mut self.stage else { return };
        if let Some(offset) = stream.on_released(mark) {
            let mut ack = Vec::with_capacity(48);
            command::emit_ack(offset, None, &mut ack);
            turn.send(Side::Primary, &ack);
            turn.on_injected();
            note_early_position(stream, turn);
        }
    }

    fn on_recalled(&mut self, early_position: Option<EarlyPosition>) {
        if let Stage::Asked { .. } = self.stage {
            self.recalled = match early_position {
                Some(EarlyPosition { place: Place::Offset(at), .. }) => Some(at),
                _ => None,
            };
        }
    }

    fn on_end(&mut self, side: Side, turn: &mut Turn) {
        if side == Side::Mirror {
            turn.send(Side::Primary, &std::mem::take(&mut self.held));
        }
    }

    fn gives_early(&self) -> bool {
        matches!(&self.stage, Stage::Replication(stream) if stream.has_acknowledged())
    }

    fn phase(&self) -> &str {
        match &self.stage {
            Stage::StartUp { .. } | Stage::Asked { .. } => "start-up",
            Stage::Snapshot { .. } => "snapshot",
            Stage::Replication(_) => "replication",
            Stage::Passing(phase) => phase,
        }
    }
}

/// Remembers the offset acknowledged to the primary, if it is beyond what the replica has acknowledged itself.
fn note_early_position(stream: &Stream, turn: &mut Turn) {
    if let Some(told) = stream.early_position() {
        turn.on_early_position(EarlyPosition { place: Place::Offset(told), stamp: 0 });
    }
}

/// `REPLCONF capa …` without the offer of a second connection: the gate replaces its name by one of the same length
/// that no primary knows. None if there is no such offer.
fn without_second_connection(command: &Command, bytes: &[u8]) -> Option<Vec<u8>> {
    let offers = |at: &usize| SECOND_CONNECTION.iter().any(|offer| command.is(bytes, *at, offer));
    let offered: Vec<usize> =
        (2..command.count()).filter(|&at| command.is(bytes, at - 1, "capa")).filter(offers).collect();
    let mut hidden = (!offered.is_empty()).then(|| bytes.to_vec())?;
    for at in offered {
        hidden[command.range(at)].fill(b'-');
    }
    Some(hidden)
}

#[cfg(test)]
mod tests;
