//! `onwire wait`: returns when all that local sockets have sent to a host is protected: a barrier for scripts.
//!
//! The kernel lists the connections and how many bytes each was given; the appliance reports how many of these are
//! protected, and the kernel how many the far end has acknowledged. Connections in other network namespaces are not
//! seen, and connections that ended before the start are not counted. If there is nothing to wait for, the result is
//! not success.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::destination::Destination;
use super::render::grouped;
use super::subscription::{FileOrSubscription, Publisher};
use super::{FAILURE, NO_CONTACT, NOTHING, USAGE, notification, print, print_error};
use crate::config::units::{parse_duration, show_duration};
use crate::io::sock_diag::{Sent, TcpSocket, tcp_sockets};
use crate::io::status_socket::SCHEMA_VERSION;
use crate::notify::client::{Client, Need, Reason, Status, Wish};
use crate::notify::message::{FlowKey, Level};

/// Wait until all that local sockets have sent to a host is protected
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  redis-cli SET order 17 && onwire wait --to mirror     the replica's connection, whoever opened it
  onwire wait --to mirror:5432 --timeout 2s || alarm 'not protected'
  onwire wait --to mirror --survive-burst 2ms           it also survives an interruption of the link of 2 ms
  onwire wait --to mirror --survive-burst 0ms           does not wait for late repair: single losses are survived
  onwire wait --to mirror --json | jq .flows

It counts what every open TCP connection of this network namespace to that host (all its addresses) has been given so
far, and waits until all of it is on the wire together with its repair, or acknowledged by the host. What is sent
meanwhile does not prolong the wait. Some profiles have late repair, so that an interruption loses nothing: without
--survive-burst that is waited for too, whatever the profile promises; with a time the profile must promise as much, or
the mirror must have the bytes. A connection that ended before is not counted. Where no open connection has sent
anything there is nothing to wait for, and that is no yes: exit code 4, or 0 with --allow-none.

JSON: { schema_version, protected, level, reason, open, ended, flows: [{ protocol, source, destination, bytes,
        protected, missing, level, reason, survives_burst_us }] }. survives_burst_us: what the flow promises; null where
        that is unknown. open, ended: connections to the host that the kernel knows. protected is false where flows is
        empty.
Exit codes: 0 protected, 1 not protected within the timeout, 2 usage, 3 no contact with the appliance, 4 nothing to wait
for.")]
pub struct Wait {
    #[command(flatten)]
    subscription: FileOrSubscription,
    /// The host at the far end
    #[arg(long, value_name = "HOST[:PORT]")]
    to: String,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    /// What to wait for: queued, on_wire, decoded or acked
    #[arg(long, default_value = "on_wire", value_parser = parse_level)]
    level: Level,
    /// The interruption of the link that the bytes must survive at any moment; 0ms: none
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "level")]
    survive_burst: Option<Duration>,
    /// End with 0 also where no open connection has sent anything
    #[arg(long)]
    allow_none: bool,
    /// No effect: without --allow-none something to wait for is required. Older scripts name it
    #[arg(long, conflicts_with = "allow_none")]
    require: bool,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_level(text: &str) -> Result<Level, String> {
    let level = Level::ALL.into_iter().filter(|level| *level != Level::Early).find(|level| level.name() == text);
    level.ok_or_else(|| match text {
        "early" => "to end before late repair has left, write --survive-burst 0ms".to_owned(),
        _ => "allowed: queued, on_wire, decoded, acked".to_owned(),
    })
}

/// How often the kernel is queried again.
const ROUND: Duration = Duration::from_millis(50);
/// Without any contact for this long at the start, the appliance counts as absent.
const FIRST_CONTACT: Duration = Duration::from_secs(3);
/// Time until progress is shown first, and then between two updates.
const PROGRESS: [Duration; 2] = [Duration::from_secs(2), Duration::from_millis(500)];

/// A connection, and how many of its bytes to wait for.
struct Awaited {
    key: FlowKey,
    bytes: u64,
    /// How many bytes the far end has acknowledged, according to the kernel.
    acknowledged: u64,
    /// The kernel no longer lists the connection, and it was not seen to end properly.
    vanished: bool,
    status: Status,
}

/// The connections to the host when the wait began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Connections {
    open: usize,
    /// Ended recently; the host had acknowledged all their bytes.
    ended: usize,
}

impl Connections {
    fn count(sockets: &[TcpSocket]) -> Self {
        let ended = sockets.iter().filter(|socket| socket.sent.is_none()).count();
        Self { open: sockets.len() - ended, ended }
    }

    /// Explains why there is nothing to wait for.
    fn words(self, to: &Destination) -> String {
        let mut words = match self.open {
            0 => format!("no open TCP connection of this host goes to {to}"),
            open => format!("{} to {to} {} sent nothing", count(open), if open == 1 { "has" } else { "have" }),
        };
        if self.ended > 0 {
            words += &format!("; {} ended, and what has ended is not counted", count(self.ended));
        }
        words
    }
}

impl Awaited {
    fn new(socket: &TcpSocket) -> Option<Self> {
        let Sent { written, acknowledged } = socket.sent.filter(|sent| sent.written > 0)?;
        let key = FlowKey::tcp(socket.local, socket.remote);
        let status = Status::Pending(Reason::UnknownFlow);
        Some(Self { key, bytes: written, acknowledged, vanished: false, status })
    }

    /// Updates it from the kernel's present list.
    fn on_socket(&mut self, found: Option<&TcpSocket>) {
        match found.map(|socket| socket.sent) {
            // Bytes written before still count; but a FIN that waits to be sent was counted as a byte.
            Some(Some(sent)) => {
                self.bytes = self.bytes.min(sent.written);
                self.acknowledged = self.acknowledged.max(sent.acknowledged);
            }
            Some(None) => self.acknowledged = self.bytes,
            None => self.vanished = true,
        }
    }

    fn level(&self) -> Option<Level> {
        match self.status {
            Status::Protected { level } => Some(level),
            Status::Pending(_) | Status::Never(_) => None,
        }
    }

    fn reason(&self) -> Option<Reason> {
        match self.status {
            Status::Protected { .. } => None,
            Status::Pending(reason) | Status::Never(reason) => Some(reason),
        }
    }

    /// Whether nothing can make it protected any more.
    fn is_hopeless(&self) -> bool {
        self.vanished && matches!(self.status, Status::Never(_))
    }

    fn protected(&self, client: &Client, need: Need) -> u64 {
        // If something was lost after the claim, only what the far end has acknowledged is certain.
        let claimed = match self.reason() {
            Some(Reason::Violated | Reason::OtherConnection) => 0,
            _ => client.core().covered(&self.key, need),
        };
        self.acknowledged.max(claimed).min(self.bytes)
    }
}

impl Wait {
    /// What it waits for.
    fn need(&self) -> Need {
        self.survive_burst.map_or(self.level.into(), Need::surviving)
    }

    /// Waits; see the exit codes above.
    pub fn run(self) -> ExitCode {
        let prepared = Destination::resolve(&self.to).and_then(|to| {
            let publisher = self.subscription.find()?;
            let mut client = publisher.client(Wish::default())?;
            client.set_need(self.need());
            Ok((to, publisher, client))
        });
        let (to, publisher, mut client) = match prepared {
            Ok(prepared) => prepared,
            Err(words) => {
                print_error(format_args!("onwire wait: {words}\n"));
                return ExitCode::from(USAGE);
            }
        };
        let waited = tcp_sockets(|remote| to.is(remote)).and_then(|sockets| {
            let (flows, code) = self.wait(&to, &sockets, &mut client)?;
            Ok((Connections::count(&sockets), flows, code))
        });
        match waited {
            Ok((connections, flows, code)) => self.tell(&to, (&publisher, &client), connections, &flows, code),
            Err(error) => {
                print_error(format_args!("onwire wait: {error}\n"));
                ExitCode::from(FAILURE)
            }
        }
    }

    /// Waits. Returns the state of every connection at the end, and the exit code.
    fn wait(&self, to: &Destination, sockets: &[TcpSocket], client: &mut Client) -> io::Result<(Vec<Awaited>, u8)> {
        let begin = Instant::now();
        let deadline = begin.checked_add(self.timeout);
        let mut flows: Vec<Awaited> = sockets.iter().filter_map(Awaited::new).collect();
        if flows.is_empty() {
            return Ok((flows, if self.allow_none && !self.require { 0 } else { NOTHING }));
        }
        let mut progress = Progress::new(begin);
        for flow in &flows {
            client.watch(flow.key);
        }
        let mut had_contact = false;
        loop {
            self.look(to, client, &mut flows)?;
            let now = Instant::now();
            let has_contact = client.core().has_contact(now);
            had_contact |= has_contact;
            let open: Vec<&Awaited> = flows.iter().filter(|flow| flow.level().is_none()).collect();
            if open.is_empty() {
                return Ok((flows, 0));
            }
            let is_over = deadline.is_some_and(|deadline| now >= deadline);
            if is_over || open.iter().all(|flow| flow.is_hopeless()) {
                return Ok((flows, if has_contact { FAILURE } else { NO_CONTACT }));
            }
            if !had_contact && now >= begin + FIRST_CONTACT {
                return Ok((flows, NO_CONTACT));
            }
            progress.show(&open, client, self.need());
            let round = deadline.map_or(now + ROUND, |deadline| deadline.min(now + ROUND));
            match open.iter().find(|flow| matches!(flow.status, Status::Pending(_))) {
                Some(flow) => {
                    let (key, bytes) = (flow.key, flow.bytes);
                    // The next `look` decides; this only reads notifications, and returns early when they suffice.
                    let _ = client.wait(&key, bytes, round)?;
                }
                None => std::thread::sleep(round.saturating_duration_since(Instant::now())),
            }
        }
    }

    /// Queries the kernel again, and decides each connection again.
    fn look(&self, to: &Destination, client: &mut Client, flows: &mut [Awaited]) -> io::Result<()> {
        let sockets = tcp_sockets(|remote| to.is(remote))?;
        for flow in flows.iter_mut().filter(|flow| flow.level().is_none()) {
            let same = |socket: &&TcpSocket| FlowKey::tcp(socket.local, socket.remote) == flow.key;
            let found = sockets.iter().find(same);
            if let Some(sent) = found.and_then(|socket| socket.sent) {
                // Queried after the claims below arrived: a claim beyond `written` is about another connection.
                client.handle_written(&flow.key, sent.written);
            }
            flow.on_socket(found);
            flow.status = if flow.acknowledged >= flow.bytes {
                Status::Protected { level: Level::Acked }
            } else {
                client.core().status(&flow.key, flow.bytes, self.need(), Instant::now())
            };
        }
        Ok(())
    }

    fn tell(
        &self,
        to: &Destination,
        (publisher, client): (&Publisher, &Client),
        connections: Connections,
        flows: &[Awaited],
        code: u8,
    ) -> ExitCode {
        let level = flows.iter().filter_map(Awaited::level).min();
        let reason = flows.iter().find_map(Awaited::reason).map(|reason| reason.to_string());
        let nothing = flows.is_empty().then(|| connections.words(to));
        if self.json {
            let flow = |flow: &Awaited| {
                let protected = flow.protected(client, self.need());
                let mut fields = notification::key_json(&flow.key);
                fields.extend(notification::object(json!({
                    "bytes": flow.bytes,
                    "protected": protected,
                    "missing": flow.bytes - protected,
                    "level": flow.level().map(Level::name),
                    "reason": flow.reason().map(|reason| reason.to_string()),
                    "survives_burst_us": client.core().survives_burst(&flow.key).map(|burst| burst.as_micros() as u64),
                })));
                Value::Object(fields)
            };
            let notification = json!({
                "schema_version": SCHEMA_VERSION,
                "protected": code == 0 && nothing.is_none(),
                "level": level.filter(|_| code == 0).map(Level::name),
                "reason": nothing.or(reason),
                "open": connections.open,
                "ended": connections.ended,
                "flows": flows.iter().map(flow).collect::<Vec<_>>(),
            });
            let printed = print(format_args!("{notification}\n"));
            return if code == 0 { printed } else { ExitCode::from(code) };
        }
        if let Some(words) = nothing {
            if code == 0 {
                return print(format_args!("nothing to wait for: {words}\n"));
            }
            print_error(format_args!("onwire wait: nothing to wait for: {words}\n  = {REMEDY}\n"));
            return ExitCode::from(code);
        }
        let bytes: u64 = flows.iter().map(|flow| flow.bytes).sum();
        let connections = count(flows.len());
        if code == 0 {
            let level = level.map_or("", Level::name);
            return print(format_args!("protected ({level}): {} bytes of {connections} to {to}\n", grouped(bytes)));
        }
        let open: Vec<&Awaited> = flows.iter().filter(|flow| flow.level().is_none()).collect();
        let waited = show_duration(self.timeout);
        match code {
            NO_CONTACT => {
                let at = publisher.address;
                print_error(format_args!("onwire wait: the appliance at {at} does not answer\n"));
                print_error(format_args!("  = {}\n", publisher.advice()));
            }
            _ => print_error(format_args!("onwire wait: not protected within {waited}\n")),
        }
        let too_little = open.iter().any(|flow| matches!(flow.reason(), Some(Reason::SurvivesBurst(_))));
        for flow in open {
            let missing = grouped(flow.bytes - flow.protected(client, self.need()));
            let (key, of) = (notification::key(&flow.key), grouped(flow.bytes));
            let why = flow.reason().map_or(String::new(), |reason| format!(": {reason}"));
            print_error(format_args!("  {key}  {missing} of {of} bytes are not protected{why}\n"));
        }
        if too_little {
            print_error(format_args!("  = {MORE}\n"));
        }
        ExitCode::from(code)
    }
}

const REMEDY: &str = "run it on the host and in the network namespace of the program that sends, while its connection \
                      is open, and name the address that its connection goes to (`ss -tn`); --allow-none makes this exit \
                      code 0";

const MORE: &str = "raise `survive_burst` of their profile under `redundancy` of the appliance, or demand less with \
                    --survive-burst";

fn count(connections: usize) -> String {
    format!("{connections} connection{}", if connections == 1 { "" } else { "s" })
}

/// A line on the terminal with what is still missing; it is erased at the end.
struct Progress {
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    fn new(begin: Instant) -> Self {
        Self { next: Some(begin + PROGRESS[0]).filter(|_| io::stderr().is_terminal()), shown: false }
    }

    fn show(&mut self, open: &[&Awaited], client: &Client, need: Need) {
        let now = Instant::now();
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        self.next = Some(now + PROGRESS[1]);
        self.shown = true;
        let missing: u64 = open.iter().map(|flow| flow.bytes - flow.protected(client, need)).sum();
        let why = open.iter().find_map(|flow| flow.reason().filter(|reason| *reason != Reason::Deadline));
        let why = why.map_or(String::new(), |reason| format!(", {reason}"));
        print_error(format_args!("\r\x1b[Kwaiting for {} bytes of {}{why}", grouped(missing), count(open.len())));
        let _ = io::stderr().flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            print_error("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::io::sock_diag::TcpState;

    fn socket(state: TcpState, sent: Option<(u64, u64)>) -> TcpSocket {
        let at = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        let sent = sent.map(|(written, acknowledged)| Sent { written, acknowledged });
        TcpSocket { local: at("10.1.0.1:4000"), remote: at("10.2.0.1:22"), state, sent }
    }

    #[test]
    fn the_message_explains_why_there_is_nothing_to_wait_for() {
        use TcpState::{Established, FinWait2, TimeWait};
        let (idle, ended) = (socket(Established, Some((0, 0))), [socket(TimeWait, None), socket(FinWait2, None)]);
        let to = Destination::resolve("10.2.0.1").expect("an address");
        for (sockets, open, wanted) in [
            (&[][..], 0, "no open TCP connection of this host goes to 10.2.0.1"),
            (&[idle], 1, "1 connection to 10.2.0.1 has sent nothing"),
            (&[idle, idle], 2, "2 connections to 10.2.0.1 have sent nothing"),
            (
                &ended,
                0,
                "no open TCP connection of this host goes to 10.2.0.1; 2 connections ended, and what has ended is not \
                 counted",
            ),
        ] {
            let connections = Connections::count(sockets);
            assert_eq!((connections.open, connections.words(&to).as_str()), (open, wanted));
        }
    }

    #[test]
    fn a_connection_is_updated_from_the_kernels_later_list() {
        use TcpState::{Established, FinWait1, FinWait2, TimeWait};
        assert!(Awaited::new(&socket(Established, Some((0, 0)))).is_none());
        assert!(Awaited::new(&socket(TimeWait, None)).is_none());
        for (first, later, bytes, acknowledged, vanished) in [
            (socket(Established, Some((100, 0))), Some(socket(Established, Some((500, 90)))), 100, 90, false),
            // The FIN was counted as a byte while it waited.
            (socket(FinWait1, Some((101, 0))), Some(socket(FinWait1, Some((100, 50)))), 100, 50, false),
            (socket(FinWait1, Some((101, 0))), Some(socket(FinWait2, Some((100, 100)))), 100, 100, false),
            (socket(FinWait1, Some((101, 0))), Some(socket(TimeWait, None)), 101, 101, false),
            (socket(Established, Some((100, 20))), None, 100, 20, true),
        ] {
            let mut flow = Awaited::new(&first).expect("it has sent something");
            flow.on_socket(later.as_ref());
            assert_eq!((flow.bytes, flow.acknowledged, flow.vanished), (bytes, acknowledged, vanished), "{later:?}");
        }
    }
}
