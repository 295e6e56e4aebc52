//! A session after its start-up packet: follows both directions message by message, and finds replication in them.
//!
//! Everything is forwarded as it came, with three exceptions: the write position in the mirror's status updates is
//! raised, status updates are added in the mirror's place, and channel binding is removed if TLS ends at the gate. This
//! module does not see start-up packets or TLS.

use std::collections::VecDeque;

use super::{
    authentication,
    command::{BEGINNING, Command, Start},
    lsn::Lsn,
    message::{BadLength, HEADER, Messages, Part},
    replication::{DATA, STATUS, Status, Stream},
    startup,
};
use crate::gate::dialect::{Note, Side, Turn};
use crate::gate::returns::{EarlyPosition, Mirror, Place};

/// Commands that a client may send without waiting for answers. Clients that replicate send one at a time.
const MOST_COMMANDS: usize = 64;

/// Bytes of the answer to IDENTIFY_SYSTEM that hold the system's number, which is its first column.
const IDENTITY: usize = 32;

/// The longest list of SASL mechanisms that is read.
const LONGEST_LIST: usize = 4096;

/// Whether the session must be followed further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Further {
    /// Yes.
    Follow,
    /// No: everything passes unread.
    Pass,
    /// It ends.
    Over,
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    from_primary: Messages,
    from_mirror: Messages,
    /// The session is with a walsender.
    walsender: bool,
    /// TLS toward the primary ends at the gate.
    unbind: bool,
    login: Login,
    /// Commands that the primary has not answered yet.
    commands: VecDeque<Command>,
    stream: Option<Stream>,
    /// The client's application name.
    name: String,
    /// The number of the primary's system, in digits.
    system: Option<String>,
    /// The position acknowledged early for the mirror on earlier connections.
    recalled: Option<Lsn>,
    /// The stream continues in both directions.
    streaming: bool,
    /// The mark for the message that is passing toward the mirror.
    due: Option<u64>,
    /// The highest mark noted.
    marked: u64,
    /// Everything so far was understood by the gate.
    trusted: bool,
    phase: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    /// The client is being authenticated.
    Asked,
    /// The server has listed SASL mechanisms; the client's choice comes next.
    Choosing,
    /// The server has accepted the client, and starts the session.
    Accepted,
    /// The server takes commands.
    Done,
}

impl Session {
    /// Begins after the start-up packet of a client with the application name `name`. `unbind`: TLS toward the primary
    /// ends at the gate.
    pub(super) fn new(walsender: bool, unbind: bool, name: String) -> Self {
        Self {
            from_primary: Messages::new(),
            from_mirror: Messages::new(),
            walsender,
            unbind,
            login: Login::Asked,
            commands: VecDeque::new(),
            stream: None,
            name,
            system: None,
            recalled: None,
            streaming: false,
            due: None,
            marked: 0,
            trusted: true,
            phase: "authentication".into(),
        }
    }

    /// What the session does, for the status.
    pub(super) fn phase(&self) -> &str {
        &self.phase
    }

    /// Whether it is a session with a backend, which replicates nothing.
    pub(super) fn is_ordinary(&self) -> bool {
        !self.walsender
    }

    /// Whether the client is still being authenticated.
    pub(super) fn is_starting(&self) -> bool {
        matches!(self.login, Login::Asked | Login::Choosing)
    }

    /// Whether what is protected is acknowledged to the primary.
    pub(super) fn gives_early(&self) -> bool {
        self.trusted && self.stream.as_ref().is_some_and(Stream::is_of_mirror)
    }

    /// Bytes from the primary.
    pub(super) fn on_primary(&mut self, mut input: &[u8], turn: &mut Turn) -> Further {
        loop {
            let (streaming, login) = (self.streaming, self.login);
            let identifies = self.commands.front() == Some(&Command::Identify);
            let part = self.from_primary.next(&mut input, |tag, len| match tag {
                b'd' if streaming => DATA,
                b'R' if login != Login::Done && len <= LONGEST_LIST => len,
                b'D' if identifies => IDENTITY,
                _ => 0,
            });
            match part {
                Ok(None) => return Further::Follow,
                Ok(Some(Part::More(more))) => {
                    turn.send(Side::Mirror, more);
                    if let Some(stream) = &mut self.stream {
                        stream.on_more(more);
                    }
                    self.tell_shortfall(turn);
                }
                Ok(Some(Part::Start)) => {
                    if self.on_primary_start(turn) == Further::Pass {
                        self.release_held(turn);
                        turn.send(Side::Mirror, input);
                        return Further::Pass;
                    }
                }
                Err(bad) => {
                    self.on_nonsense(Side::Primary, bad, turn);
                    turn.send(Side::Mirror, input);
                    return Further::Pass;
                }
            }
            if self.from_primary.is_between()
                && let Some(mark) = self.due.take()
            {
                self.marked = mark;
                turn.mark(mark);
            }
        }
    }

    /// Bytes from the mirror.
    pub(super) fn on_mirror(&mut self, mut input: &[u8], turn: &mut Turn) -> Further {
        loop {
            let (streaming, walsender) = (self.streaming, self.walsender);
            let choosing = self.login == Login::Choosing && self.unbind;
            // A possible status update is held until it is complete: no update of the gate may come in the middle of
            // it.
            let part = self.from_mirror.next(&mut input, |tag, len| match tag {
                b'd' if streaming && len == STATUS => STATUS,
                b'd' if streaming => 1,
                b'Q' if walsender => BEGINNING,
                b'p' if choosing => authentication::FIRST_MESSAGE,
                _ => 0,
            });
            match part {
                Ok(None) => return Further::Follow,
                Ok(Some(Part::More(more))) => turn.send(Side::Primary, more),
                Ok(Some(Part::Start)) => {
                    if self.on_mirror_start(turn) == Further::Over {
                        return Further::Over;
                    }
                }
                Err(bad) => {
                    self.on_nonsense(Side::Mirror, bad, turn);
                    turn.send(Side::Primary, input);
                    return Further::Pass;
                }
            }
            self.send_early(turn);
        }
    }

    /// The gate releases a mark.
    pub(super) fn on_released(&mut self, mark: u64, turn: &mut Turn) {
        if let Some(stream) = &mut self.stream
            && self.trusted
        {
            stream.on_released(mark);
            self.send_early(turn);
        }
    }

    /// `side` sends nothing more: its held bytes are forwarded, and replication is over.
    pub(super) fn on_end(&mut self, side: Side, turn: &mut Turn) {
        match side {
            Side::Primary => turn.send(Side::Mirror, self.from_primary.held()),
            Side::Mirror => turn.send(Side::Primary, self.from_mirror.held()),
        }
        self.streaming = false;
    }

    fn on_primary_start(&mut self, turn: &mut Turn) -> Further {
        let seen = self.from_primary.seen();
        let (tag, body) = (seen[0], &seen[HEADER..]);
        if tag == b'R' && self.login != Login::Done {
            let request = authentication::request(body);
            let unbound = (self.unbind && request == Some(authentication::SASL)).then(|| authentication::unbound(body));
            turn.send(Side::Mirror, unbound.flatten().as_deref().unwrap_or(seen));
            self.login = match request {
                Some(authentication::OK) => Login::Accepted,
                Some(authentication::SASL) => Login::Choosing,
                _ => Login::Asked,
            };
            let ordinary = self.login == Login::Accepted && !self.walsender;
            return if ordinary { Further::Pass } else { Further::Follow };
        }
        turn.send(Side::Mirror, seen);
        match tag {
            b'd' if self.streaming => {
                let due = self.stream.as_mut().map(|stream| stream.on_data(body, self.from_primary.body_len()));
                match due {
                    Some(Ok(mark)) => self.due = mark.filter(|_| self.trusted),
                    Some(Err(doubt)) => self.distrust(&doubt.to_string(), turn),
                    None => {}
                }
            }
            b'D' if self.commands.front() == Some(&Command::Identify) => self.system = identity(body),
            b'W' if self.walsender => self.on_stream(turn),
            b'c' | b'C' | b'E' => self.streaming = false,
            b'Z' => {
                self.streaming = false;
                if self.login == Login::Done {
                    self.commands.pop_front();
                }
                self.login = Login::Done;
                self.set_phase("commands of replication");
            }
            _ => {}
        }
        Further::Follow
    }

    /// The primary has answered that replication begins.
    fn on_stream(&mut self, turn: &mut Turn) {
        match self.commands.front() {
            Some(Command::Start(start)) => {
                let start: Start = start.clone();
                self.stream = Some(Stream::new(&start, self.marked, self.recalled.take()));
                self.streaming = true;
                if self.trusted {
                    turn.note(Note::Info(format!("{start} begins at {}", start.from)));
                    self.set_phase(&start.to_string());
                }
            }
            Some(Command::Unclear) => self.distrust("START_REPLICATION was not understood", turn),
            Some(Command::Identify | Command::Other) | None => {
                self.distrust("replication begins that nobody started", turn)
            }
        }
    }

    fn on_mirror_start(&mut self, turn: &mut Turn) -> Further {
        let seen = self.from_mirror.seen();
        let (tag, body) = (seen[0], &seen[HEADER..]);
        match tag {
            b'p' if self.login == Login::Choosing && self.unbind => {
                if authentication::wants_channel_binding(body) {
                    let reason = "the mirror wants channel binding, and TLS ends at this gate";
                    turn.send(
                        Side::Mirror,
                        &startup::refusal(reason, "Set channel_binding=disable in the connection string."),
                    );
                    turn.close(format!("{reason}: set channel_binding=disable in its primary_conninfo"));
                    return Further::Over;
                }
                self.login = Login::Asked;
            }
            b'Q' if self.walsender => {
                let command = Command::parse(body);
                self.on_command(command, turn);
            }
            // These are also answered with ReadyForQuery.
            b'S' | b'F' if self.walsender && !self.streaming => self.on_command(Command::Other, turn),
            b'd' if self.streaming && body.first() == Some(&b'r') => {
                let Some(status) = Status::parse(body) else {
                    self.distrust("a status update of the mirror has an unknown length", turn);
                    turn.send(Side::Primary, self.from_mirror.seen());
                    return Further::Follow;
                };
                if let Some(stream) = &mut self.stream {
                    let kept = stream.only_keeps();
                    let (told, mark) = stream.on_status(status);
                    turn.send(Side::Primary, &told.emit());
                    turn.on_acknowledged(mark);
                    note_early_position(stream, turn);
                    if stream.only_keeps() && !kept && self.trusted {
                        turn.note(Note::Warning(
                            "what replicates here keeps WAL and applies none (pg_receivewal, pg_basebackup, pg_recvlogical): it \
                             is no mirror, and nothing is acknowledged early for it. If its application_name is one of \
                             synchronous_standby_names the primary counts it as a standby all the same: give it another"
                                .to_owned(),
                        ));
                    }
                    self.tell_shortfall(turn);
                    return Further::Follow;
                }
            }
            // After CopyDone a status update would not belong to the stream.
            b'c' | b'f' | b'X' => self.streaming = false,
            _ => {}
        }
        turn.send(Side::Primary, self.from_mirror.seen());
        Further::Follow
    }

    fn on_command(&mut self, command: Command, turn: &mut Turn) {
        if let Command::Start(start) = &command
            && !start.logical
        {
            let name = match &start.slot {
                Some(slot) => format!("slot {slot}"),
                None if self.name.is_empty() => "a mirror without a name".to_owned(),
                None => self.name.clone(),
            };
            let timeline = start.timeline.map_or("unnamed".to_owned(), |timeline| timeline.to_string());
            let history = format!("system {}, timeline {timeline}", self.system.as_deref().unwrap_or("unnamed"));
            turn.on_mirror(Mirror { name, is_unique: start.slot.is_some(), history: Some(history) });
        }
        if self.commands.len() < MOST_COMMANDS {
            self.commands.push_back(command);
        } else {
            self.distrust("the mirror sends commands without waiting for answers", turn);
        }
    }

    /// The position acknowledged early for the mirror on earlier connections.
    pub(super) fn on_recalled(&mut self, early_position: Option<EarlyPosition>) {
        self.recalled = match early_position {
            Some(EarlyPosition { place: Place::Wal(at), .. }) => Some(Lsn(at)),
            _ => None,
        };
    }

    /// Acknowledges to the primary what is protected, unless a message from the mirror is passing at the moment.
    fn send_early(&mut self, turn: &mut Turn) {
        if self.streaming
            && self.trusted
            && self.from_mirror.is_between()
            && let Some(stream) = &mut self.stream
            && let Some(early) = stream.poll_early_status()
        {
            turn.send(Side::Primary, &early.emit());
            turn.on_injected();
            note_early_position(stream, turn);
        }
    }

    /// Reports that the mirror has come back with too little, once that is proven.
    fn tell_shortfall(&mut self, turn: &mut Turn) {
        if let Some(has) = self.stream.as_mut().and_then(Stream::poll_shortfall) {
            turn.on_shortfall(Place::Wal(has.0));
        }
    }

    fn on_nonsense(&mut self, side: Side, BadLength { tag, length }: BadLength, turn: &mut Turn) {
        let who = match side {
            Side::Primary => "primary",
            Side::Mirror => "mirror",
        };
        self.distrust(&format!("the {who} sends a message {:?} of {length} bytes", char::from(tag)), turn);
        self.release_held(turn);
    }

    /// Forwards the held bytes of both sides, because nothing is read any more.
    fn release_held(&mut self, turn: &mut Turn) {
        turn.send(Side::Mirror, self.from_primary.held());
        turn.send(Side::Primary, self.from_mirror.held());
    }

    /// Stops early acknowledgements for the rest of the connection, and logs that once.
    fn distrust(&mut self, reason: &str, turn: &mut Turn) {
        if self.trusted && self.walsender {
            self.set_phase("passed without early acknowledgements");
            turn.note(Note::Warning(format!(
                "nothing more is acknowledged early on this connection: {reason}; commits wait for the mirror"
            )));
        }
        self.trusted = false;
        if let Some(stream) = &mut self.stream {
            stream.stop();
        }
    }

    fn set_phase(&mut self, phase: &str) {
        if self.trusted && self.phase != phase {
            self.phase = phase.into();
        }
    }
}

/// Remembers the position acknowledged to the primary, if it is beyond what the mirror has acknowledged itself.
fn note_early_position(stream: &Stream, turn: &mut Turn) {
    if let Some(told) = stream.early_position() {
        turn.on_early_position(EarlyPosition { place: Place::Wal(told.0), stamp: 0 });
    }
}

/// The first column of a row: the number of the system.
fn identity(row: &[u8]) -> Option<String> {
    let (length, text) = row.get(2..)?.split_first_chunk::<4>()?;
    let digits = text.get(..u32::from_be_bytes(*length) as usize)?;
    let digits = std::str::from_utf8(digits).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.to_owned())
}
