//! What the two appliances send each other, as the WAN sees it: a tap at each of them keeps the datagrams that leave.

use std::{
    io,
    net::SocketAddrV4,
    num::NonZero,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with,
    sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout},
};

use super::forgery::Recorded;
use crate::{
    io::namespace::NetworkNamespace,
    lab::{error::LabError, network::Network},
    wire::datagram::DatagramType,
};

/// `ETH_P_ALL`, in network order.
const EVERY_PROTOCOL: u32 = 0x0003u16.to_be() as u32;
const UDP: u8 = 17;
const BUFFER: usize = 8 << 20;
const STEP: Duration = Duration::from_millis(5);
const IP_LEN: usize = 20;
const UDP_LEN: usize = 8;

/// A tap at each appliance.
#[derive(Debug)]
pub struct Taps {
    sockets: [OwnedFd; 2],
    senders: [SocketAddrV4; 2],
}

impl Taps {
    /// Opens them in the appliances' nodes; what leaves from now on waits to be collected, as far as there is room.
    pub fn open(network: &Network<'_>, nodes: [&str; 2], senders: [SocketAddrV4; 2]) -> Result<Self, LabError> {
        let open = |node: &str| {
            let open = || -> io::Result<OwnedFd> {
                let protocol = NonZero::new(EVERY_PROTOCOL).map(Protocol::from_raw);
                let inside = NetworkNamespace::named(&network.namespace(node))?;
                let socket = inside
                    .run(|| socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol))??;
                set_socket_timeout(&socket, Timeout::Recv, Some(STEP))?;
                set_socket_recv_buffer_size_force(&socket, BUFFER)?;
                Ok(socket)
            };
            open().map_err(LabError::doing(format!("look at what {node} sends")))
        };
        Ok(Self { sockets: [open(nodes[0])?, open(nodes[1])?], senders })
    }

    /// Collects for this long, or until there are `most` datagrams of each.
    pub fn collect(self, time: Duration, most: usize) -> Recorded {
        let mut recorded = Recorded::default();
        let deadline = Instant::now() + time;
        let mut buffer = vec![0; 1 << 16];
        for (at, socket) in self.sockets.iter().enumerate() {
            // What the first one sends goes to the second one.
            let target = 1 - at;
            while Instant::now() < deadline && recorded.datagrams[target].len() < most {
                // The timeout lets the loop look at the clock.
                let Ok((length, _)) = recv(socket, &mut buffer[..], RecvFlags::empty()) else { continue };
                let Some(datagram) = datagram_of(&buffer[..length], self.senders[at]) else { continue };
                match DatagramType::of(datagram) {
                    Some(DatagramType::Initiation | DatagramType::CookieInitiation) => {
                        recorded.initiations[target].push(datagram.to_vec());
                    }
                    Some(_) => recorded.datagrams[target].push(datagram.to_vec()),
                    None => {}
                }
            }
        }
        recorded
    }
}

/// The UDP payload, if the packet is from this address and port.
fn datagram_of(packet: &[u8], sender: SocketAddrV4) -> Option<&[u8]> {
    let is_ours = packet.first() == Some(&0x45)
        && packet.get(9) == Some(&UDP)
        && packet.get(12..16) == Some(&sender.ip().octets()[..])
        && packet.get(IP_LEN..IP_LEN + 2) == Some(&sender.port().to_be_bytes()[..]);
    if is_ours { packet.get(IP_LEN + UDP_LEN..) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_payload_of_what_the_sender_sent_is_kept() {
        let sender = SocketAddrV4::new([192, 0, 2, 1].into(), 7117);
        let mut packet = vec![0; IP_LEN + UDP_LEN];
        packet[0] = 0x45;
        packet[9] = UDP;
        packet[12..16].copy_from_slice(&[192, 0, 2, 1]);
        packet[20..22].copy_from_slice(&7117_u16.to_be_bytes());
        packet.extend([6, 1, 2, 3]);
        assert_eq!(datagram_of(&packet, sender), Some(&[6, 1, 2, 3][..]));
        for at in [0, 9, 12, 15, 20, 21] {
            let mut other = packet.clone();
            other[at] ^= 1;
            assert_eq!(datagram_of(&other, sender), None, "byte {at}");
        }
        assert_eq!(datagram_of(&packet[..15], sender), None);
    }
}
