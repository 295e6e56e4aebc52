//! UDP sockets that send and receive whole trains of equal datagrams in one system call.
//!
//! Sending uses the kernel's UDP segmentation (GSO) and falls back to `sendmmsg`; receiving uses UDP GRO. A datagram
//! may request a timestamp that proves that it left. No error of the network is fatal here: errors are counted. The
//! meaning of datagrams, pacing and retries are not handled here.
//!
//! Start with `send`, then `stamps` (which datagram a timestamp belongs to) and `errors` (the queue through which
//! timestamps come).

mod address;
mod arrival;
mod control;
mod errors;
mod receive;
mod send;
mod stamps;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket as StdSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

pub use errors::ErrorCounts;
pub use receive::Received;
pub use send::{GsoOff, GsoState, SendOutcome, Target};
pub use stamps::{StampChoice, StampState, StampsOff};

use super::explain;
use super::retry::Retry;
use arrival::ArrivalClock;
use stamps::InFlight;

/// Whether to use a feature that some kernels and devices lack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// Where it works.
    #[default]
    Auto,
    /// Without a probe; reports do not switch it off ([`UdpSocket::keeps_trains`]).
    On,
    /// Never.
    Off,
}

/// After this many refusals in a row, each of which succeeded without the feature, it is off for a while. A single
/// refusal may have another cause: a missing source address is `EINVAL` too.
const REFUSALS_MAX: u8 = 3;

/// A feature that the kernel may refuse; sending goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// Segmentation of trains.
    Segmentation,
    /// Transmit timestamps.
    Timestamps,
}

impl std::fmt::Display for Extra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Segmentation => "the segmentation of trains (each datagram costs a part of a call)",
            Self::Timestamps => "transmit timestamps (nothing is called protected by leaving)",
        })
    }
}

/// A change of such a feature.
#[derive(Debug)]
pub enum Change {
    /// The kernel refuses it, with this error.
    Refused(Extra, io::Error),
    /// The kernel takes it again.
    Back(Extra),
}

/// How to open a socket.
#[derive(Clone, Copy, Debug)]
pub struct UdpOptions {
    /// Segmentation of trains by the kernel.
    pub gso: Switch,
    /// Transmit timestamps.
    pub stamps: StampChoice,
    /// Size of the send buffer and of the receive buffer, in bytes; as much of it as the system allows.
    pub buffer_bytes: usize,
    /// Each datagram comes with its DSCP and ECN field.
    pub classes: bool,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self { gso: Switch::Auto, stamps: StampChoice::Auto, buffer_bytes: 8 << 20, classes: false }
    }
}

/// A non-blocking UDP socket. Bound to `[::]` it serves IPv4 too; callers then see plain IPv4 addresses.
#[derive(Debug)]
pub struct UdpSocket {
    socket: StdSocket,
    local: SocketAddr,
    switch: Switch,
    gso: GsoState,
    gso_retry: Retry,
    stamps: StampState,
    /// The state before timestamps were refused.
    stamps_before: StampState,
    stamp_retry: Retry,
    changes: VecDeque<Change>,
    in_flight: InFlight,
    errors_left: bool,
    is_unread: bool,
    receive_error: Option<io::Error>,
    counts: ErrorCounts,
    late_errors: Vec<IpAddr>,
    refused: Vec<SocketAddr>,
    overflows: u64,
    arrivals: ArrivalClock,
}

impl UdpSocket {
    /// Binds a socket. Port 0 lets the kernel choose; see [`local_addr`](Self::local_addr).
    pub fn bind(address: SocketAddr, options: UdpOptions) -> io::Result<Self> {
        let words = |error: io::Error| {
            let advice = match error.raw_os_error() {
                Some(libc::EADDRINUSE) => {
                    ": the port is in use; `ss -lunp` says by whom: stop that program or choose another port in \
                     `node.listen`"
                }
                Some(libc::EADDRNOTAVAIL) => {
                    ": no interface of this host has this address; `ip address` lists them: correct `node.listen`"
                }
                Some(libc::EACCES) => ": not permitted; ports below 1024 need CAP_NET_BIND_SERVICE",
                Some(libc::EAFNOSUPPORT) => ": this host has no IPv6; use an IPv4 address in `node.listen`",
                _ => "",
            };
            explain(&error, format_args!("cannot open UDP {address}{advice}"))
        };
        let socket = open(address, options).map_err(words)?;
        let local = socket.local_addr().map_err(words)?;
        let gso = match options.gso {
            Switch::Off => GsoState::Off(GsoOff::Configured),
            Switch::On => GsoState::Active,
            Switch::Auto => match control::probe_segmentation(socket.as_fd()) {
                Ok(()) => GsoState::Active,
                Err(error) => GsoState::Off(GsoOff::Unsupported(error.raw_os_error().unwrap_or(0))),
            },
        };
        let stamps = stamps::settle(socket.as_fd(), address.is_ipv6(), options.stamps);
        Ok(Self {
            socket,
            local,
            switch: options.gso,
            gso,
            gso_retry: Retry::after(REFUSALS_MAX),
            stamps,
            stamps_before: stamps,
            stamp_retry: Retry::after(REFUSALS_MAX),
            changes: VecDeque::new(),
            in_flight: InFlight::new(stamps),
            errors_left: false,
            is_unread: false,
            receive_error: None,
            counts: ErrorCounts::default(),
            late_errors: Vec::new(),
            refused: Vec::new(),
            overflows: 0,
            arrivals: ArrivalClock::default(),
        })
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Bytes of the kernel's send and receive buffers, as granted.
    pub fn buffer_sizes(&self) -> io::Result<(usize, usize)> {
        let socket = self.socket.as_fd();
        Ok((
            rustix::net::sockopt::socket_send_buffer_size(socket)?,
            rustix::net::sockopt::socket_recv_buffer_size(socket)?,
        ))
    }

    /// Whether the kernel segments our trains, and if not, why.
    pub fn gso_state(&self) -> GsoState {
        self.gso
    }

    /// The configuration demands trains, whatever reports show about them.
    pub fn keeps_trains(&self) -> bool {
        self.switch == Switch::On
    }

    /// The next feature that the kernel refuses, or takes again; each change is returned once.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// How timestamps are matched to datagrams, or why there are none. Whether a device makes timestamps shows when the
    /// first one comes.
    pub fn stamps(&self) -> StampState {
        self.stamps
    }

    /// Datagrams that the kernel dropped because our receive buffer was full, since the start. As of the last datagram
    /// received or the last [`count_overflows`](Self::count_overflows).
    pub fn receive_overflows(&self) -> u64 {
        self.overflows
    }

    /// Reads this count from the kernel: no datagram reports what was dropped after the last one received.
    pub fn count_overflows(&mut self) -> u64 {
        if let Some(total) = control::drops(self.socket.as_fd()) {
            self.on_overflows(total);
        }
        self.overflows
    }

    fn on_overflows(&mut self, total: u32) {
        // The kernel's counter has 32 bits and wraps. A count that came with a datagram may be older than the last
        // known one.
        let more = total.wrapping_sub(self.overflows as u32);
        if more <= u32::MAX / 2 {
            self.overflows += u64::from(more);
        }
    }
}

fn open(address: SocketAddr, options: UdpOptions) -> io::Result<StdSocket> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: StdSocket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?.into();
    let fd = socket.as_fd();
    if address.is_ipv6() {
        control::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
        control::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        control::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    }
    // An IPv6 socket also carries IPv4, and these options hold for that; a kernel without IPv4 may refuse them.
    //
    // PROBE: never fragment, because a lost fragment would lose a datagram that the code counts as one symbol. It also
    // ignores the kernel's path MTU cache: a forged or stale "fragmentation needed" must not stop a tunnel whose
    // datagram size is configured. Such messages still arrive in the error queue, to be counted and shown.
    for (option, value) in [(libc::IP_RECVERR, 1), (libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)] {
        let set = control::set_option(fd, libc::IPPROTO_IP, option, value);
        if address.is_ipv4() {
            set?;
        }
    }
    if address.ip().is_unspecified() {
        // Datagrams to a peer have to leave from the address that it called.
        if address.is_ipv6() {
            control::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        } else {
            control::set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        }
    }
    if options.classes {
        // Without them no mark of the path is seen; a kernel that lacks one family has no datagrams of it.
        let _ = control::set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
        if address.is_ipv6() {
            let _ = control::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1);
        }
    }
    control::set_option(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    // Without arrival times, a datagram counts as having come when it is read.
    let _ = control::set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1);
    let bytes = libc::c_int::try_from(options.buffer_bytes).unwrap_or(libc::c_int::MAX);
    for (force, polite) in [(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)] {
        control::set_option(fd, libc::SOL_SOCKET, force, bytes)
            .or_else(|_| control::set_option(fd, libc::SOL_SOCKET, polite, bytes))?;
    }
    // Kernels before 5.0 have no UDP GRO: there every datagram comes alone.
    let _ = control::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
    rustix::net::bind(fd, &address)?;
    Ok(socket)
}

/// Turns an IPv4-mapped IPv6 address into the IPv4 address.
fn unmapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => (v4, v6.port()).into(),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// The address in the form that the socket's family needs.
fn mapped(address: SocketAddr, socket_is_v6: bool) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if socket_is_v6 => (Ipv4Addr::to_ipv6_mapped(v4.ip()), v4.port()).into(),
        _ => address,
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_mapped_for_an_ipv6_socket_and_unmapped_for_callers() {
        let v4: SocketAddr = "192.0.2.1:7117".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::1]:7117".parse().unwrap();
        assert_eq!(mapped(v4, true), "[::ffff:192.0.2.1]:7117".parse().unwrap());
        for address in [v4, v6] {
            assert_eq!(unmapped(mapped(address, true)), address);
            assert_eq!(mapped(address, false), address);
        }
    }

    #[test]
    fn the_configuration_decides_whether_trains_are_kept() {
        for (switch, state, keeps) in [
            (Switch::Auto, GsoState::Active, false),
            (Switch::On, GsoState::Active, true),
            (Switch::Off, GsoState::Off(GsoOff::Configured), false),
        ] {
            let options = UdpOptions { gso: switch, ..UdpOptions::default() };
            let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
            assert_eq!((socket.gso_state(), socket.keeps_trains()), (state, keeps));
        }
    }

    #[test]
    fn the_error_of_a_port_in_use_names_the_remedy() {
        let first = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), UdpOptions::default()).unwrap();
        let error = UdpSocket::bind(first.local_addr(), UdpOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("ss -lunp"), "{error}");
    }
}
