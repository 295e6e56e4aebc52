//! The hosts behind both appliances: TCP connections with handshakes, retransmissions, sequence wraps and closes.
//!
//! What has arrived is derived from the packets given to the TUNs, never from an appliance's reports. No host waits for
//! an answer: segments are chosen at random, within what the other end has really acknowledged.

use std::collections::HashMap;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::packets::{Packet, Segment, segment};
use crate::side::Side;
use crate::spans::Spans;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// The most bytes that a connection carries in one direction.
const BYTES_MAX: u32 = 60_000;

/// The sending state of one end of a connection.
#[derive(Debug, Default)]
struct Half {
    isn: u32,
    /// Bytes sent at least once.
    written: u32,
    /// Bytes that the other end has received.
    arrived: Spans,
    /// How many of them the sender knows to have arrived.
    acked: u32,
    /// The other end has the SYN.
    open: bool,
    closed: bool,
    /// The other end has the FIN.
    close: bool,
}

#[derive(Debug)]
struct Connection {
    begun_by: Side,
    ipv4: bool,
    /// By side.
    ports: [u16; 2],
    profiles: [u8; 2],
    halves: [Half; 2],
    over: bool,
}

/// A segment as its sender made it.
#[derive(Clone, Copy, Debug)]
pub struct SegmentInfo {
    connection: usize,
    from: Side,
    start: u32,
    len: u32,
    flags: u8,
    acked: u32,
}

impl SegmentInfo {
    /// The direction of the segment, and its range of bytes.
    pub fn bytes(&self) -> (Direction, u32, u32) {
        (Direction { connection: self.connection, from: self.from }, self.start, self.start + self.len)
    }
}

/// One direction of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Direction {
    connection: usize,
    /// The sending side.
    pub from: Side,
}

/// All hosts.
#[derive(Debug, Default)]
pub struct Hosts {
    connections: Vec<Connection>,
    /// The current connection of each pair of ports.
    present: Vec<usize>,
    /// By the sending side and the packet number.
    segments: HashMap<(Side, u16), SegmentInfo>,
}

impl Hosts {
    /// Opens a connection from `side` on a new pair of ports. One in four began before the appliances saw anything.
    pub fn open(&mut self, side: Side, profiles: [u8; 2], random: &mut SmallRng) -> usize {
        let ports = [10_000 + self.connections.len() as u16, 5432];
        let ports = if side == Side::Near { ports } else { [ports[1], ports[0]] };
        let ipv4 = random.random_bool(0.6);
        let midway = random.random_bool(0.25);
        let number = self.push(side, ipv4, ports, profiles, random);
        if midway {
            for half in &mut self.connections[number].halves {
                half.written = random.random_range(0..5000);
                half.acked = random.random_range(0..=half.written);
                half.arrived.add(0, random.random_range(half.acked..=half.written));
                half.open = true;
            }
        }
        self.present.push(number);
        self.present.len() - 1
    }

    fn push(&mut self, side: Side, ipv4: bool, ports: [u16; 2], profiles: [u8; 2], random: &mut SmallRng) -> usize {
        let halves = Side::BOTH.map(|from| {
            loop {
                let isn: u32 =
                    if random.random_bool(0.3) { u32::MAX - random.random_range(0..9000) } else { random.random() };
                let near = |other: &Connection| other.halves[from.index()].isn.wrapping_sub(isn) as i32;
                // Otherwise a byte could not be assigned to one connection.
                if !self.connections.iter().any(|other| other.ports == ports && near(other).abs() < 1 << 24) {
                    break Half { isn, ..Half::default() };
                }
            }
        });
        self.connections.push(Connection { begun_by: side, ipv4, ports, profiles, halves, over: false });
        self.connections.len() - 1
    }

    /// One of the two ends on this pair of ports acts; returns what it sends, in order.
    pub fn act(&mut self, pair: usize, random: &mut SmallRng) -> Vec<(Side, SegmentInfo, Packet)> {
        let number = self.present[pair];
        let connection = &mut self.connections[number];
        let begun_by = connection.begun_by;
        if connection.over {
            if random.random_bool(0.3) {
                let (ipv4, ports, profiles) = (connection.ipv4, connection.ports, connection.profiles);
                self.present[pair] = self.push(begun_by, ipv4, ports, profiles, random);
                return Vec::new();
            }
            // A packet of it that the network still holds.
            let side = Side::BOTH[random.random_range(0..2)];
            let written = connection.halves[side.index()].written;
            let start = random.random_range(0..=written);
            let len = random.random_range(0..=1000.min(written - start));
            return vec![self.make(number, side, start, len, ACK, random)];
        }
        let side = if random.random_bool(0.7) { begun_by } else { begun_by.other() };
        let [half, other] = if side == Side::Near { [0, 1] } else { [1, 0] };
        let (own, remote) = (&connection.halves[half], &connection.halves[other]);
        if !own.open || !remote.open {
            return vec![self.make(number, begun_by, 0, 0, SYN, random)];
        }
        let (written, acked, room) = (own.written, own.acked, BYTES_MAX.saturating_sub(own.written));
        let (closed, done) = (own.closed, own.closed && remote.closed);
        let len = match random.random_range(0..10) {
            0..4 => random.random_range(1..200),
            4..9 => random.random_range(1..1460),
            _ => random.random_range(1460..9000),
        };
        let mut sent = Vec::new();
        match random.random_range(0..100) {
            0..58 if !closed && room > 3 * len => {
                connection.halves[half].written += 2 * len;
                sent.push(self.make(number, side, written, len, ACK, random));
                sent.push(self.make(number, side, written + len, len, ACK, random));
                if random.random_bool(0.1) {
                    sent.reverse();
                } else if random.random_bool(0.1) {
                    sent.remove(random.random_range(0..2));
                }
            }
            0..80 => {
                let from = if random.random_bool(0.8) { acked } else { 0 };
                let start = if random.random_bool(0.6) { from } else { random.random_range(from..=written) };
                let flags = if closed { ACK | FIN } else { ACK };
                let end = if flags & FIN != 0 { written } else { written.min(start + len) };
                sent.push(self.make(number, side, start, end - start, flags, random));
            }
            80..83 if !closed && room > len => {
                // These bytes take another path.
                let half = &mut connection.halves[half];
                half.written += len;
                if random.random_bool(0.5) {
                    half.arrived.add(written, written + len);
                }
            }
            83..86 => {
                connection.halves[half].closed = true;
                sent.push(self.make(number, side, written, 0, ACK | FIN, random));
            }
            86..87 => {
                connection.over = true;
                sent.push(self.make(number, side, written, 0, ACK | RST, random));
            }
            _ => sent.push(self.make(number, side, written, 0, ACK, random)),
        }
        if done {
            self.connections[number].over = true;
        }
        sent
    }

    fn make(
        &self,
        number: usize,
        from: Side,
        start: u32,
        len: u32,
        flags: u8,
        random: &mut SmallRng,
    ) -> (Side, SegmentInfo, Packet) {
        let connection = &self.connections[number];
        let (own, remote) = (&connection.halves[from.index()], &connection.halves[from.other().index()]);
        let acked = remote.arrived.contiguous();
        let fin = u32::from(remote.close && acked == remote.written);
        let syn = u32::from(flags & SYN == 0);
        let [near, far] = connection.ports;
        let head = Segment {
            from,
            ipv4: connection.ipv4,
            profile: connection.profiles[from.index()],
            ports: if from == Side::Near { [near, far] } else { [far, near] },
            sequence: own.isn.wrapping_add(syn).wrapping_add(start),
            acknowledgement: if flags & ACK != 0 { remote.isn.wrapping_add(1 + acked + fin) } else { 0 },
            flags,
        };
        let payload: Vec<u8> = (start..start + len).map(|at| (at as usize * 7 + number) as u8).collect();
        let info = SegmentInfo { connection: number, from, start, len, flags, acked };
        (from, info, segment(head, &payload, random))
    }

    /// A segment waits in the TUN of `side` under this packet number.
    pub fn on_sent(&mut self, side: Side, number: u16, info: SegmentInfo) {
        self.segments.insert((side, number), info);
    }

    /// The segment in packet `number` of `side`, if it is one.
    pub fn segment_info(&self, side: Side, number: u16) -> Option<&SegmentInfo> {
        self.segments.get(&(side, number))
    }

    /// Packet `number` of `side` was delivered to the other side's TUN. Returns the answer, if there is one.
    pub fn on_delivered(
        &mut self,
        side: Side,
        number: u16,
        random: &mut SmallRng,
    ) -> Option<(Side, SegmentInfo, Packet)> {
        let info = *self.segments.get(&(side, number))?;
        let connection = &mut self.connections[info.connection];
        let (to, was_over) = (side.other(), connection.over);
        if info.flags & ACK != 0 {
            let answered = &mut connection.halves[to.index()];
            answered.acked = answered.acked.max(info.acked);
        }
        let half = &mut connection.halves[side.index()];
        half.open |= info.flags & SYN != 0;
        half.close |= info.flags & FIN != 0;
        half.arrived.add(info.start, info.start + info.len);
        connection.over |= info.flags & RST != 0;
        if was_over || connection.over || (info.len == 0 && info.flags & (SYN | FIN) == 0) {
            return None;
        }
        // An old SYN on an open connection is answered by an ACK (RFC 5961).
        let is_new_connection = info.flags & (SYN | ACK) == SYN && !connection.halves[to.index()].open;
        let flags = if is_new_connection { SYN | ACK } else { ACK };
        let start = if flags & SYN != 0 { 0 } else { connection.halves[to.index()].written };
        random.random_bool(0.7).then(|| self.make(info.connection, to, start, 0, flags, random))
    }

    /// The direction in which the sequence number `base`, sent by `from`, is byte `offset`.
    pub fn find(&self, from: Side, ipv4: bool, ports: [u16; 2], base: u32) -> Option<(Direction, u32)> {
        let [source, destination] = ports;
        let ports = if from == Side::Near { [source, destination] } else { [destination, source] };
        let mut connections = self.connections.iter().enumerate();
        connections.find_map(|(connection, candidate)| {
            let half = &candidate.halves[from.index()];
            let offset = base.wrapping_sub(half.isn.wrapping_add(1));
            let fits = candidate.ipv4 == ipv4 && candidate.ports == ports && offset <= half.written;
            fits.then_some((Direction { connection, from }, offset))
        })
    }

    /// Whether the connection of this segment was reset or has ended.
    pub fn is_over(&self, info: &SegmentInfo) -> bool {
        self.connections[info.connection].over
    }

    /// The bytes that the other end has received.
    pub fn arrived(&self, direction: Direction) -> &Spans {
        &self.connections[direction.connection].halves[direction.from.index()].arrived
    }
}
