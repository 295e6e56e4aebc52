//! The process at one end of a bare tunnel: what its TUN gives leaves in datagrams, and what comes goes to the TUN.
//!
//! No code, no cipher, no handling of loss: a packet of which a datagram is missing is dropped. It has what makes a tunnel
//! fast: super-packets, trains that the kernel cuts and merges, and one blocking thread for each direction.

use std::{
    io::{self, Read},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::{Arc, mpsc},
    thread,
};

use rustix::{
    net::{RecvFlags, SendFlags},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

use crate::{
    io::{
        tun::{MAX_PACKET, Tun, TunOptions},
        udp::{StampChoice, UdpOptions, UdpSocket},
    },
    lab::trace::say,
};

/// What a process needs to know.
#[derive(Clone, Debug)]
pub struct BareOptions {
    /// The name of the new TUN device.
    pub device: String,
    /// Its MTU.
    pub mtu: u32,
    /// The UDP address of this end.
    pub local: SocketAddr,
    /// The UDP address of the other end.
    pub peer: SocketAddr,
}

/// Bytes of a datagram: with IP and UDP headers they fit into an MTU of 1500.
const SEGMENT: usize = 1400;
/// Before each packet: a mark, the packet's length and its virtio header.
const HEAD: usize = 16;
const MARK: [u8; 2] = [0xba, 0x4e];
const SHORTEST_PACKET: usize = 20;

/// Runs until standard input ends, or the TUN or the socket fails. Prints `ready` once the device exists.
pub fn run(options: &BareOptions) -> io::Result<()> {
    let shape = TunOptions { mtu: options.mtu, ..TunOptions::default() };
    let tun = Tun::open(&options.device, shape)?.into_iter().next();
    let tun = Arc::new(tun.ok_or_else(|| io::Error::other("the TUN gave no queue"))?);
    let stamps = StampChoice::Off;
    let socket = UdpSocket::bind(options.local, UdpOptions { stamps, ..UdpOptions::default() })?;
    rustix::net::connect(&socket, &options.peer)?;
    make_blocking(tun.as_raw_fd())?;
    make_blocking(socket.as_raw_fd())?;
    let receiving = socket.as_fd().try_clone_to_owned()?;

    let (end, ended) = mpsc::channel();
    let ends = [end.clone(), end.clone(), end];
    let [sent, received, told] = ends;
    let (reader, peer) = (tun.clone(), options.peer);
    // Whichever ends first ends the process; nobody waits for the results of the others.
    thread::spawn(move || sent.send(send(&reader, socket, peer)));
    thread::spawn(move || received.send(receive(&receiving, &tun)));
    thread::spawn(move || told.send(io::stdin().read_to_end(&mut Vec::new()).map(drop)));
    say("ready");
    ended.recv().unwrap_or(Ok(()))
}

/// Lets calls wait. The flag belongs to the open file, which a duplicate of the descriptor shares.
fn make_blocking(descriptor: RawFd) -> io::Result<()> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    let duplicate = pidfd_getfd(own, descriptor, PidfdGetfdFlags::empty())?;
    Ok(rustix::io::ioctl_fionbio(duplicate, false)?)
}

/// Sends what the TUN gives: a packet that fits is one datagram, a super-packet one train.
fn send(tun: &Tun, mut socket: UdpSocket, peer: SocketAddr) -> io::Result<()> {
    let mut buffer = vec![0; HEAD + MAX_PACKET];
    let mut virtio = [0; 10];
    loop {
        let length = match tun.read(&mut virtio, &mut buffer[HEAD..]) {
            Ok(length) => length,
            // A device that is down is a device that will be up.
            Err(error) => match tun.gone(&error) {
                Some(error) => return Err(error),
                None => continue,
            },
        };
        buffer[..HEAD].copy_from_slice(&head(length, &virtio));
        let bytes = &buffer[..HEAD + length];
        if bytes.len() <= SEGMENT {
            // The socket is connected: without an address the kernel looks up no route. What it refuses is lost.
            let _ = rustix::net::send(&socket, bytes, SendFlags::empty());
        } else {
            let _ = socket.send_train(peer, bytes, SEGMENT);
        }
    }
}

/// Gives the TUN what comes.
fn receive(socket: &OwnedFd, tun: &Tun) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut reassembly = Reassembly::default();
    loop {
        // An error is about an earlier datagram: the other end may not listen yet.
        let Ok((length, _)) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) else { continue };
        // What the TUN refuses is lost.
        reassembly.take(&buffer[..length], |virtio, packet| drop(tun.write(virtio, packet)));
    }
}

fn head(length: usize, virtio: &[u8; 10]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..2].copy_from_slice(&MARK);
    head[2..6].copy_from_slice(&(length as u32).to_be_bytes());
    head[6..].copy_from_slice(virtio);
    head
}

/// The bytes that a packet takes with its head, if these bytes begin with one.
fn whole(bytes: &[u8]) -> Option<usize> {
    let [first, second, rest @ ..] = bytes.first_chunk::<HEAD>()?;
    let length = u32::from_be_bytes(*rest.first_chunk()?) as usize;
    let is_head = [*first, *second] == MARK && (SHORTEST_PACKET..=MAX_PACKET).contains(&length);
    is_head.then_some(HEAD + length)
}

/// Packets from trains: the kernel may have merged several trains, or given one in parts.
#[derive(Debug, Default)]
struct Reassembly {
    /// The beginning of a packet.
    part: Vec<u8>,
}

impl Reassembly {
    fn take(&mut self, train: &[u8], mut deliver: impl FnMut(&[u8; 10], &[u8])) {
        let mut deliver = |bytes: &[u8]| {
            let (head, packet) = bytes.split_at(HEAD);
            if let Some(virtio) = head.last_chunk() {
                deliver(virtio, packet);
            }
        };
        let mut rest = train;
        if let Some(wanted) = whole(&self.part) {
            if whole(rest).is_some() {
                // The end of the packet before is missing.
                self.part.clear();
            } else {
                let (end, after) = rest.split_at(rest.len().min(wanted - self.part.len()));
                self.part.extend_from_slice(end);
                rest = after;
                if self.part.len() < wanted {
                    return;
                }
                deliver(&self.part);
                self.part.clear();
            }
        }
        // Bytes without a head are the end of a packet whose beginning is missing.
        while let Some(wanted) = whole(rest) {
            let Some((packet, after)) = rest.split_at_checked(wanted) else {
                self.part.extend_from_slice(rest);
                return;
            };
            deliver(packet);
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet as it is sent.
    fn sent(byte: u8, length: usize) -> Vec<u8> {
        [&head(length, &[byte; 10])[..], &vec![byte; length]].concat()
    }

    /// First byte and length of the packets that come of these trains.
    fn received(trains: &[&[u8]]) -> Vec<(u8, usize)> {
        let (mut reassembly, mut packets) = (Reassembly::default(), Vec::new());
        for train in trains {
            reassembly.take(train, |virtio, packet| {
                assert!(virtio.iter().chain(packet).all(|byte| *byte == packet[0]));
                packets.push((packet[0], packet.len()));
            });
        }
        packets
    }

    #[test]
    fn packets_come_as_they_were_sent_however_the_kernel_merges_and_parts_trains() {
        let [short, long] = [sent(1, 64), sent(2, 60_000)];
        assert_eq!(received(&[&short, &long, &short]), [(1, 64), (2, 60_000), (1, 64)]);
        assert_eq!(received(&[&[&short[..], &long, &short].concat()]), [(1, 64), (2, 60_000), (1, 64)]);
        let parts: Vec<&[u8]> = long.chunks(SEGMENT).collect();
        assert_eq!(received(&parts), [(2, 60_000)]);
    }

    #[test]
    fn a_packet_of_which_a_datagram_is_missing_is_dropped_and_no_other() {
        let [short, long] = [sent(1, 64), sent(2, 60_000)];
        let parts: Vec<&[u8]> = long.chunks(SEGMENT).collect();
        let last = parts.len() - 1;
        assert_eq!(received(&[&parts[..last], &[&short[..], &long]].concat()), [(1, 64), (2, 60_000)]);
        assert_eq!(received(&[&parts[1..], &[&short[..]]].concat()), [(1, 64)]);
        assert_eq!(received(&[b"x", &[0; 3000], &short]), [(1, 64)]);
    }
}
