//! Many flows at once: one datagram from each of many ports, to fill an appliance's flow table.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use crate::{
    io::namespace::NetworkNamespace,
    lab::{error::LabError, network::Network},
};

const FIRST_PORT: u16 = 10_000;
/// A TUN queues 500 packets and drops the rest.
const AT_ONCE: u16 = 100;
const REST: Duration = Duration::from_millis(2);

/// Sends a datagram from each of `flows` ports of node `from` to `address` of node `to`, where a socket receives but
/// does not read them.
pub fn gather(network: &Network<'_>, from: &str, to: &str, address: IpAddr, flows: u16) -> Result<(), LabError> {
    let send = || -> io::Result<()> {
        // The port must be open, otherwise ICMP errors would come back.
        let end = NetworkNamespace::named(&network.namespace(to))?.run(|| UdpSocket::bind((address, 0)))??;
        let goal = end.local_addr()?;
        NetworkNamespace::named(&network.namespace(from))?.run(|| {
            for number in 0..flows {
                let own = SocketAddr::from((Ipv4Addr::UNSPECIFIED, FIRST_PORT + number));
                UdpSocket::bind(own)?.send_to(&[7], goal)?;
                if number % AT_ONCE == 0 {
                    thread::sleep(REST);
                }
            }
            Ok(())
        })?
    };
    send().map_err(LabError::doing(format!("send from {flows} ports of {from} to {address} in {to}")))
}
