//! MariaDB and MySQL, semi-synchronous replication: an acknowledgement for each transaction that is protected.
//!
//! A replica connects to the gate as if the gate were its primary. The gate removes TLS and compression from the
//! greeting, and passes authentication and commands. After `COM_BINLOG_DUMP` or `COM_BINLOG_DUMP_GTID` the primary
//! sends events; with semi-sync each event has a header that shows whether the primary waits for its acknowledgement.
//! The gate marks the ends of these events. When a mark is released, the gate sends the primary the acknowledgement in
//! place of the replica: file and end position, as the replica would. If the primary has it already, the replica's own
//! acknowledgement is dropped, because a server version that counts acknowledgements would count it as another
//! replica's. Nothing is sent before the replica's first own acknowledgement.
//!
//! The gate does not make a replica semi-synchronous, has no time limits of its own (the primary has them, and then
//! falls back to asynchronous replication by itself), and reads no transaction. What the gate does not understand
//! passes, with a warning.
//!
//! Start with this file, then `acknowledgement` for the places that the primary waits for. `packet`, `event` and
//! `greeting` read the bytes; `resumption` checks how much a replica has when it reconnects.

mod acknowledgement;
mod event;
mod greeting;
mod packet;
mod resumption;

use self::acknowledgement::{Place, Places, Real};
use self::event::Received;
use self::greeting::Taken;
use self::packet::{HEAD_LEN, Packet, Packets};
use self::resumption::Resumption;
use super::dialect::{Dialect, Note, Release, Side, Turn};
use super::returns::{self, EarlyPosition, Mirror};

/// `COM_BINLOG_DUMP` and `COM_BINLOG_DUMP_GTID`.
const DUMPS: [u8; 2] = [0x12, 0x1e];
/// First byte of an OK packet from the primary.
const OK: u8 = 0;
/// Bytes of a packet's header.
const HEADER_LEN: usize = 4;

/// One connection of a MariaDB or MySQL replica, or of any other client, to its primary.
#[derive(Debug)]
pub struct MariaDb {
    stage: Stage,
    from_primary: Packets,
    from_mirror: Packets,
    /// The beginning of the greeting, or of a packet that the mirror sends during a dump.
    held: Vec<u8>,
    /// The mirror has answered the greeting.
    answered: bool,
    /// The primary has accepted the answer.
    admitted: bool,
    /// The last number of a mark. Numbers continue from dump to dump.
    numbered: u64,
    /// The mirror's server number, and the check for what the mirror lacks when it reconnects.
    server: u32,
    resumption: Resumption,
}

#[derive(Debug)]
enum Stage {
    /// Until the primary's greeting is complete.
    Greeting,
    /// Authentication and commands.
    Commands,
    /// The mirror has asked for the binary log.
    Dump(Dump),
    /// Everything passes, unread.
    Passing(&'static str),
}

#[derive(Debug)]
enum Dump {
    /// Before the first event.
    Asked,
    /// With semi-synchronous headers.
    SemiSync(Places),
    /// Without.
    Asynchronous,
}

impl Default for MariaDb {
    fn default() -> Self {
        Self::new()
    }
}

impl MariaDb {
    /// A new connection.
    pub fn new() -> Self {
        Self {
            stage: Stage::Greeting,
            from_primary: Packets::default(),
            from_mirror: Packets::default(),
            held: Vec::new(),
            answered: false,
            admitted: false,
            numbered: 0,
            server: 0,
            resumption: Resumption::default(),
        }
    }

    /// From here on, passes everything unread.
    fn pass(&mut self, why: &str, turn: &mut Turn) {
        self.stage = Stage::Passing("replication without early acknowledgements");
        turn.note(Note::Warning(format!("{why}; nothing is acknowledged early on this connection")));
    }

    /// Takes bytes from the primary, up to the end of one packet at most. Returns how many.
    fn on_primary(&mut self, bytes: &[u8], turn: &mut Turn) -> usize {
        if let Stage::Passing(_) = self.stage {
            turn.send(Side::Mirror, bytes);
            return bytes.len();
        }
        let (used, complete) = self.from_primary.on_bytes(bytes);
        if let Stage::Greeting = self.stage {
            self.held.extend_from_slice(&bytes[..used]);
            if complete || self.held.len() > HEAD_LEN {
                self.on_greeting(complete, turn);
            }
            return used;
        }
        turn.send(Side::Mirror, &bytes[..used]);
        self.admitted |= complete && self.answered && self.from_primary.packet().kind() == Some(OK);
        if complete && let Stage::Dump(dump) = &mut self.stage {
            let packet = self.from_primary.packet();
            match dump {
                Dump::Asked if event::is_end(packet) => self.stage = Stage::Commands,
                Dump::Asked => self.on_first_event(turn),
                Dump::Asynchronous if event::is_end(packet) => self.stage = Stage::Commands,
                Dump::Asynchronous => {}
                Dump::SemiSync(places) => {
                    // Before the packet names the next file: the transaction lies in the present one.
                    if let Some(has) = self.resumption.on_event(packet, places.file(), self.server) {
                        turn.on_shortfall(has);
                    }
                    let next = on_event(packet, places, turn);
                    self.numbered = places.last();
                    match next {
                        Next::Event => {}
                        Next::Command => self.stage = Stage::Commands,
                        Next::Foreign => self.pass("the primary sent an event that cannot be read", turn),
                    }
                }
            }
        }
        used
    }

    /// The first packet from the primary is complete, or longer than a greeting.
    fn on_greeting(&mut self, complete: bool, turn: &mut Turn) {
        let mut greeting = std::mem::take(&mut self.held);
        let is_greeting = complete && greeting.get_mut(HEADER_LEN..).is_some_and(greeting::hide);
        turn.send(Side::Mirror, &greeting);
        // Otherwise an error: too many connections, a blocked host.
        self.stage = if is_greeting { Stage::Commands } else { Stage::Passing("refused by the primary") };
    }

    fn on_first_event(&mut self, turn: &mut Turn) {
        let packet = self.from_primary.packet();
        match event::is_semi_sync(packet) {
            Some(true) => {
                let mut places = Places::after(self.numbered);
                if on_event(packet, &mut places, turn) == Next::Event {
                    self.numbered = places.last();
                    self.stage = Stage::Dump(Dump::SemiSync(places));
                } else {
                    self.pass("the primary's first event cannot be read", turn);
                }
            }
            Some(false) => {
                self.stage = Stage::Dump(Dump::Asynchronous);
                turn.note(Note::Warning(
                    "the mirror replicates without semi-sync: the primary waits for nothing, and the gate has nothing to \
                     acknowledge; set rpl_semi_sync_slave_enabled=ON at the mirror and restart its I/O thread (MySQL: \
                     rpl_semi_sync_replica_enabled)"
                        .to_owned(),
                ));
            }
            None => self.pass("the primary's first event is not the name of a binary log", turn),
        }
    }

    /// Takes bytes from the mirror, up to the end of one packet at most. Returns how many.
    fn on_mirror(&mut self, bytes: &[u8], turn: &mut Turn) -> usize {
        if let Stage::Greeting = self.stage {
            turn.send(Side::Mirror, &std::mem::take(&mut self.held));
            self.pass("the mirror speaks before it was greeted, which is not this protocol", turn);
        }
        if let Stage::Passing(_) = self.stage {
            turn.send(Side::Primary, bytes);
            return bytes.len();
        }
        let (used, complete) = self.from_mirror.on_bytes(bytes);
        if let Stage::Dump(_) = self.stage {
            self.held.extend_from_slice(&bytes[..used]);
            if complete {
                let held = std::mem::take(&mut self.held);
                self.on_dump_packet(&held, turn);
            } else if self.held.len() > HEADER_LEN + HEAD_LEN {
                turn.send(Side::Primary, &std::mem::take(&mut self.held));
                self.pass("the mirror sent something long where it only acknowledges", turn);
            }
            return used;
        }
        turn.send(Side::Primary, &bytes[..used]);
        if complete {
            self.on_packet(turn);
        }
        used
    }

    /// A packet from the mirror before a dump; it is forwarded already.
    fn on_packet(&mut self, turn: &mut Turn) {
        let packet = self.from_mirror.packet();
        if !std::mem::replace(&mut self.answered, true) {
            match greeting::taken(&packet.head) {
                Taken::Neither => {}
                Taken::Tls => self.pass(
                    "the mirror begins TLS, which the gate does not offer (MASTER_SSL=0; between the sites the appliances \
                     encrypt)",
                    turn,
                ),
                Taken::Compression => {
                    self.pass("the mirror compresses, which the gate does not offer (slave_compressed_protocol=OFF)", turn);
                }
            }
        } else if packet.number == 0 && packet.kind().is_some_and(|kind| DUMPS.contains(&kind)) {
            self.server = resumption::server(&packet.head);
            let name = format!("server {}", self.server);
            // The primary itself does not serve two replicas with the same number.
            turn.on_mirror(Mirror { name, is_unique: true, history: None });
            self.stage = Stage::Dump(Dump::Asked);
        }
    }

    /// A packet from the mirror during a dump, with its header.
    fn on_dump_packet(&mut self, bytes: &[u8], turn: &mut Turn) {
        let content = bytes.get(HEADER_LEN..).unwrap_or_default();
        let Some((position, file)) = acknowledgement::parse(content) else {
            // The command that ends the connection.
            return turn.send(Side::Primary, bytes);
        };
        let Stage::Dump(Dump::SemiSync(places)) = &mut self.stage else {
            return turn.send(Side::Primary, bytes);
        };
        match places.on_real(position, file) {
            Real::News(number) => {
                turn.send(Side::Primary, bytes);
                turn.on_acknowledged(number);
            }
            Real::Known(number) => turn.on_acknowledged(number),
            Real::Foreign => {
                turn.send(Side::Primary, bytes);
                return self.pass("the mirror acknowledges a binary log that it was not sent", turn);
            }
        }
        acknowledge(places.poll_released(), self.resumption.latest(), turn);
    }
}

/// What a packet of a dump was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Event,
    Command,
    Foreign,
}

/// A packet of a semi-synchronous dump, which is forwarded already.
fn on_event(packet: &Packet, places: &mut Places, turn: &mut Turn) -> Next {
    let rotate = match event::parse(packet) {
        Received::Wanted { end, rotate } => {
            if let Some(number) = places.on_wanted(end) {
                turn.mark(number);
            }
            rotate
        }
        Received::Unwanted { rotate } => rotate,
        Received::End => return Next::Command,
        Received::Foreign => return Next::Foreign,
    };
    if let Some(name) = rotate {
        places.on_file(name);
    }
    Next::Event
}

/// Sends the acknowledgement of `place`. `latest` is the newest time in the events sent so far.
fn acknowledge(place: Option<&Place>, latest: u64, turn: &mut Turn) {
    if let Some(place) = place {
        let mut packet = Vec::with_capacity(64);
        place.emit(&mut packet);
        turn.send(Side::Primary, &packet);
        turn.on_injected();
        let place = returns::Place::Binlog { file: place.file.clone(), position: place.position };
        turn.on_early_position(EarlyPosition { place, stamp: latest });
    }
}

impl Dialect for MariaDb {
    fn on_bytes(&mut self, side: Side, bytes: &[u8], turn: &mut Turn) {
        let mut at = 0;
        while at < bytes.len() {
            at += match side {
                Side::Primary => self.on_primary(&bytes[at..], turn),
                Side::Mirror => self.on_mirror(&bytes[at..], turn),
            };
        }
        // Outside these stages nothing is held back: the mirror's packet would never end.
        if !matches!(self.stage, Stage::Greeting | Stage::Dump(_)) && !self.held.is_empty() {
            turn.send(Side::Primary, &std::mem::take(&mut self.held));
        }
    }

    fn on_released(&mut self, mark: u64, _release: Release, turn: &mut Turn) {
        if let Stage::Dump(Dump::SemiSync(places)) = &mut self.stage {
            acknowledge(places.on_released(mark), self.resumption.latest(), turn);
        }
    }

    fn on_recalled(&mut self, early_position: Option<EarlyPosition>) {
        self.resumption = Resumption::new(early_position);
    }

    fn on_end(&mut self, side: Side, turn: &mut Turn) {
        let held = match (side, &self.stage) {
            (Side::Primary, Stage::Greeting) => Side::Mirror,
            (Side::Mirror, Stage::Dump(_)) => Side::Primary,
            _ => return,
        };
        turn.send(held, &std::mem::take(&mut self.held));
    }

    fn is_starting(&self) -> bool {
        match self.stage {
            Stage::Greeting => true,
            Stage::Commands | Stage::Dump(_) => !self.admitted,
            Stage::Passing(_) => false,
        }
    }

    fn gives_early(&self) -> bool {
        matches!(&self.stage, Stage::Dump(Dump::SemiSync(places)) if places.has_acknowledged())
    }

    fn phase(&self) -> &str {
        match &self.stage {
            Stage::Greeting => "start-up",
            Stage::Commands => "ordinary session",
            Stage::Dump(Dump::Asked) => "start of the binary log",
            Stage::Dump(Dump::SemiSync(_)) => "semi-synchronous replication",
            Stage::Dump(Dump::Asynchronous) => "asynchronous replication",
            Stage::Passing(phase) => phase,
        }
    }
}

#[cfg(test)]
mod tests;
