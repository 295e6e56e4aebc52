//! Links, addresses and routes through `rtnetlink`: one request, its answer, no shelling out.
//!
//! A socket belongs to the network namespace of the thread that opened it, for good. [`Monitor`] reports changes, and
//! [`CounterReader`] reads counters that are needed often. Which routes should exist is not decided here.
//!
//! Start with this file: the socket and one exchange. `link` and `route` make requests, `attributes` reads answers.

mod attributes;
mod counters;
mod link;
mod monitor;
mod route;
mod route_table;

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

pub use counters::{CounterReader, LinkCounters};
pub use link::{Link, LinkStatistics};
pub use monitor::{Change, Monitor};
pub use route::{LocalAddress, ROUTE_PROTOCOL, Route};
pub use route_table::RouteEntry;

use super::explain;

/// A socket for requests about links, addresses and routes. Blocking; for start, stop and status.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    answer: Vec<u8>,
}

/// The kernel sends dumps in pieces of at most 32 KiB.
const ANSWER_BYTES: usize = 64 * 1024;

impl Netlink {
    /// A socket in this thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket =
            open().map_err(|error: io::Error| explain(&error, format_args!("cannot open a netlink socket")))?;
        Ok(Self { socket, sequence: 0, answer: Vec::with_capacity(ANSWER_BYTES) })
    }

    /// Sends a request for one change or one object, and waits for the kernel's answer.
    pub(super) fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags)
    }

    /// Requests all objects of a kind.
    pub(super) fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_DUMP)
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut shown = Vec::new();
        loop {
            self.answer.clear();
            self.socket.recv(&mut self.answer, 0)?;
            if handle_answer(&self.answer, self.sequence, flags, &mut shown)? {
                return Ok(shown);
            }
        }
    }
}

/// Takes the messages of one datagram; true if it holds the last one of the answer.
fn handle_answer(
    mut bytes: &[u8],
    sequence: u32,
    flags: u16,
    shown: &mut Vec<RouteNetlinkMessage>,
) -> io::Result<bool> {
    while let Some(length) = bytes.first_chunk().map(|field| u32::from_ne_bytes(*field) as usize) {
        if length < 16 || length > bytes.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the kernel's netlink answer is cut: {length} bytes announced, {} there", bytes.len()),
            ));
        }
        let decoded = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes[..length]);
        // Messages are aligned to four bytes.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        match decoded {
            Ok(message) if message.header.sequence_number != sequence => {}
            Ok(message) => match message.payload {
                NetlinkPayload::InnerMessage(inner) => shown.push(inner),
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) => {
                    return match error.code {
                        None => Ok(true),
                        Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
                    };
                }
                _ => {}
            },
            // In a dump: a link or route of another program, with something newer than the decoder.
            Err(_) if flags & NLM_F_DUMP == NLM_F_DUMP => {}
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
        }
    }
    Ok(false)
}
