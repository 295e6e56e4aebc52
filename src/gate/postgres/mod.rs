//! PostgreSQL: the mirror connects to the gate as if the gate were its primary, and a commit that waits for
//! `remote_write` returns when its WAL is protected.
//!
//! * `startup`: the first packets of a client
//! * `message`: splits the stream into messages
//! * `authentication`: channel binding if TLS ends at the gate
//! * `command`: the mirror's commands to the walsender
//! * `replication`: one replication stream: the positions that were sent, acknowledged and raised
//! * `records`: where WAL records end, to find out what a mirror lacks when it reconnects
//! * `session`: both directions of a session
//!
//! This file handles the first packets of a connection, TLS on both legs, and connections that pass unread. It decides
//! nothing about protection, and raises only the write position: see `replication`.
//!
//! Start with `replication`, which holds the positions, then `session`, which finds them in the stream.

mod authentication;
mod command;
mod lsn;
mod message;
mod records;
mod replication;
mod session;
mod startup;

use crate::gate::dialect::{Dialect, Note, Release, Side, TlsChoice, Turn};
use crate::gate::returns::EarlyPosition;
use session::{Further, Session};
use startup::Opening;

/// One request for TLS and one for GSSAPI may be declined.
const MOST_DECLINED: u8 = 2;

/// A connection of a PostgreSQL standby, subscriber or other client to its primary.
#[derive(Debug)]
pub struct Postgres {
    tls: TlsChoice,
    /// TLS toward the client is established.
    private: bool,
    /// Bytes from the client that cannot be forwarded yet.
    held: Vec<u8>,
    /// Requests for encryption that were declined.
    declined: u8,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Waits for the first packet, or for the next one after a request that was answered.
    Opening,
    /// TLS toward the client is being established.
    Securing,
    /// The primary was asked for TLS; after its answer TLS is being established. `held` contains the packet to open
    /// with.
    Asking { first: First, answered: bool },
    /// The session, message by message.
    Session(Box<Session>),
    /// Everything passes unread; the text is the reason.
    Passing(&'static str),
    /// Nothing passes any more.
    Over,
}

/// The packet that the client opens with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Cancel,
    Start { walsender: bool },
}

impl Postgres {
    /// A connection on which nothing has arrived. `tls` names the legs on which TLS ends at the gate.
    pub fn new(tls: TlsChoice) -> Self {
        Self { tls, private: false, held: Vec::new(), declined: 0, stage: Stage::Opening }
    }

    /// Reads what the client sends until it opens a session.
    fn open(&mut self, turn: &mut Turn) {
        while let Some((opening, len)) = startup::parse(&self.held) {
            let first = match opening {
                Opening::Ssl if self.tls.accepts && !self.private => {
                    // A client waits for the answer, as it must, so it has not sent more: an attacker has.
                    if self.held.len() > len {
                        return self.refuse("unencrypted bytes follow the request for TLS", "", turn);
                    }
                    self.held.clear();
                    turn.send(Side::Mirror, b"S");
                    turn.start_tls(Side::Mirror);
                    self.stage = Stage::Securing;
                    return;
                }
                // As the server, the gate answers each kind once: a client that does not read the answers must not cost
                // memory.
                Opening::Ssl | Opening::Gss if self.declined == MOST_DECLINED => {
                    Err("a further request for encryption that was declined".to_owned())
                }
                Opening::Ssl | Opening::Gss => {
                    self.declined += 1;
                    self.held.drain(..len);
                    turn.send(Side::Mirror, b"N");
                    continue;
                }
                Opening::DirectTls if !self.private => {
                    let what = "it is encrypted from its first byte, which the gate cannot read; \
                                leave sslnegotiation at its default in primary_conninfo";
                    return self.pass("TLS passed through", what, turn);
                }
                Opening::DirectTls => Err("TLS within TLS".to_owned()),
                Opening::Unknown(what) => Err(what),
                Opening::Cancel => Ok(First::Cancel),
                Opening::Start { .. } if self.tls.accepts && !self.private => {
                    let hint = "Set sslmode=require, or better verify-full, in the connection string.";
                    return self.refuse("this gate accepts only connections with TLS", hint, turn);
                }
                Opening::Start { walsender } => Ok(First::Start { walsender }),
            };
            return match first {
                Ok(first) if self.tls.connects => {
                    turn.send(Side::Primary, &startup::ssl_request());
                    self.stage = Stage::Asking { first, answered: false };
                }
                Ok(first) => self.begin(first, turn),
                Err(what) if self.tls.accepts || self.tls.connects => {
                    self.refuse(&format!("{what} is not PostgreSQL's protocol 3"), "", turn);
                }
                Err(what) => self.pass("an unknown protocol", &what, turn),
            };
        }
    }

    /// Both legs have the configured TLS: the session begins with the first packet.
    fn begin(&mut self, first: First, turn: &mut Turn) {
        let held = std::mem::take(&mut self.held);
        match first {
            First::Cancel => {
                turn.send(Side::Primary, &held);
                self.stage = Stage::Passing("cancellation");
            }
            First::Start { walsender: false } if !self.tls.connects => {
                turn.send(Side::Primary, &held);
                self.stage = Stage::Passing("ordinary session");
            }
            First::Start { walsender } => {
                let len = startup::parse(&held).map_or(held.len(), |(_, len)| len);
                let (packet, rest) = held.split_at(len.min(held.len()));
                turn.send(Side::Primary, packet);
                self.stage = Stage::Session(Box::new(Session::new(
                    walsender,
                    self.tls.connects,
                    startup::application_name(packet),
                )));
                self.on_bytes(Side::Mirror, rest, turn);
            }
        }
    }

    /// Passes everything from now on, and logs why nothing is acknowledged early.
    fn pass(&mut self, phase: &'static str, what: &str, turn: &mut Turn) {
        turn.note(Note::Warning(format!("nothing is acknowledged early on this connection: {what}")));
        turn.send(Side::Primary, &std::mem::take(&mut self.held));
        self.stage = Stage::Passing(phase);
    }

    /// Sends the client an error and ends the connection.
    fn refuse(&mut self, what: &str, hint: &str, turn: &mut Turn) {
        turn.send(Side::Mirror, &startup::refusal(what, hint));
        self.end(what.to_owned(), turn);
    }

    fn end(&mut self, reason: String, turn: &mut Turn) {
        turn.close(reason);
        self.held = Vec::new();
        self.stage = Stage::Over;
    }

    /// The primary's answer to the request for TLS.
    fn on_answer(&mut self, bytes: &[u8], turn: &mut Turn) {
        let Stage::Asking { answered, .. } = &mut self.stage else { return };
        match bytes {
            // More than the answer did not come from the primary, or was not meant for the gate.
            b"S" if !*answered => {
                *answered = true;
                turn.start_tls(Side::Primary);
            }
            [] => {}
            [b'N', ..] if !*answered => {
                let hint = "Set ssl = on at the primary, or take TLS toward it out of the gate's configuration.";
                self.refuse("the primary does not offer TLS, which this gate is told to use", hint, turn);
            }
            _ => self.refuse("the primary answered a request for TLS with something else", "", turn),
        }
    }
}

impl Dialect for Postgres {
    fn on_bytes(&mut self, side: Side, bytes: &[u8], turn: &mut Turn) {
        let further = match (&mut self.stage, side) {
            (Stage::Opening, Side::Mirror) => {
                self.held.extend_from_slice(bytes);
                return self.open(turn);
            }
            (Stage::Asking { .. }, Side::Primary) => return self.on_answer(bytes, turn),
            (Stage::Asking { .. }, Side::Mirror) => {
                // Neither end may send anything before the first packet is answered.
                return self.refuse("more was sent before the start-up packet was answered", "", turn);
            }
            (Stage::Securing, Side::Mirror) | (Stage::Over, _) => return,
            (Stage::Opening | Stage::Securing, Side::Primary) if self.tls.connects => {
                return self.refuse("the primary spoke before it was spoken to", "", turn);
            }
            (Stage::Opening | Stage::Securing | Stage::Passing(_), _) => {
                return turn.send(other(side), bytes);
            }
            (Stage::Session(session), Side::Primary) => session.on_primary(bytes, turn),
            (Stage::Session(session), Side::Mirror) => session.on_mirror(bytes, turn),
        };
        match further {
            Further::Follow => {}
            Further::Pass => {
                let Stage::Session(session) = &self.stage else { return };
                let ordinary = session.is_ordinary();
                self.stage =
                    Stage::Passing(if ordinary { "ordinary session" } else { "passed without early acknowledgements" });
            }
            Further::Over => self.stage = Stage::Over,
        }
    }

    fn on_released(&mut self, mark: u64, _release: Release, turn: &mut Turn) {
        if let Stage::Session(session) = &mut self.stage {
            session.on_released(mark, turn);
        }
    }

    fn on_recalled(&mut self, early_position: Option<EarlyPosition>) {
        if let Stage::Session(session) = &mut self.stage {
            session.on_recalled(early_position);
        }
    }

    fn on_end(&mut self, side: Side, turn: &mut Turn) {
        match &mut self.stage {
            Stage::Session(session) => session.on_end(side, turn),
            Stage::Opening if side == Side::Mirror && self.declined > 0 && self.held.is_empty() => {
                turn.note(Note::Warning(
                    "the client left when its request for encryption was declined: it insists on it (sslmode=require or stricter, \
                     gssencmode=require); give the gate a certificate (--tls-cert, --tls-key), or set sslmode=prefer in \
                     primary_conninfo"
                        .to_owned(),
                ));
            }
            // Half a first packet may be anything; it must not reach the primary unencrypted.
            Stage::Opening if side == Side::Mirror && !self.tls.connects => {
                turn.send(Side::Primary, &std::mem::take(&mut self.held));
            }
            _ => {}
        }
    }

    fn on_tls(&mut self, side: Side, turn: &mut Turn) {
        match (side, &self.stage) {
            (Side::Mirror, Stage::Securing) => {
                self.private = true;
                self.stage = Stage::Opening;
            }
            (Side::Primary, Stage::Asking { first, answered: true }) => {
                let first = *first;
                self.begin(first, turn);
            }
            _ => {}
        }
    }

    fn is_starting(&self) -> bool {
        match &self.stage {
            Stage::Opening | Stage::Securing | Stage::Asking { .. } => true,
            Stage::Session(session) => session.is_starting(),
            // Unread: the primary's own time limit ends a client that it has not admitted.
            Stage::Passing(_) | Stage::Over => false,
        }
    }

    fn gives_early(&self) -> bool {
        matches!(&self.stage, Stage::Session(session) if session.gives_early())
    }

    fn phase(&self) -> &str {
        match &self.stage {
            Stage::Opening | Stage::Securing | Stage::Asking { .. } => "start-up",
            Stage::Session(session) => session.phase(),
            Stage::Passing(phase) => phase,
            Stage::Over => "ended",
        }
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::Primary => Side::Mirror,
        Side::Mirror => Side::Primary,
    }
}
