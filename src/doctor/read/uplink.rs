//! Reads the devices that lead to the peers: queue, MTU, offloads, timestamps.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::appliance::host::names::ask_system;
use crate::appliance::status::Status;
use crate::config::{Config, OuterPath, Peer};
use crate::doctor::facts::UplinkFacts;
use crate::io::ethtool;
use crate::io::netlink::Netlink;
use crate::io::qdisc::egress;
use crate::io::udp::{StampState, UdpOptions, UdpSocket};
use crate::notify::message::Level;

/// How long names may take to be resolved, all together.
const RESOLVED_WITHIN: Duration = Duration::from_secs(3);

/// Reads them for each peer.
pub fn read(config: &Config, status: Option<&Status>) -> Vec<UplinkFacts> {
    let names = resolve(config, status);
    let timestamps = timestamps();
    let facts = |peer: &Peer| {
        let to = address(peer, status, &names);
        let from = Some(config.node.listen.ip().to_canonical()).filter(|address| !address.is_unspecified());
        let egress = match &to {
            Ok(to) => egress(to.ip(), from).map_err(|error| error.to_string()),
            Err(cause) => Err(cause.clone()),
        };
        let device = egress.as_ref().ok().map(|egress| egress.device.as_str());
        let link = |name: &str| Netlink::open().and_then(|mut netlink| netlink.link(name)).ok();
        UplinkFacts {
            peer: peer.name.clone(),
            from,
            mtu: device.and_then(link).map(|link| link.mtu),
            features: device.and_then(|name| ethtool::features(name).ok()),
            is_hardware: device.is_some_and(|name| Path::new("/sys/class/net").join(name).join("device").exists()),
            datagram: datagram_bytes(&peer.path, to.as_ref().is_ok_and(|to| to.ip().is_ipv6())),
            tun: config.tun.name.clone(),
            needs_timestamps: config.notify.as_ref().map(|notify| notify.level != Level::Queued),
            timestamps: timestamps.clone(),
            to,
            egress,
        }
    };
    config.peers.iter().map(facts).collect()
}

/// Bytes of our largest datagram on this path, with the headers of IP and UDP.
pub fn datagram_bytes(path: &OuterPath, is_v6: bool) -> u16 {
    // Those of IPv4 are 20 bytes shorter.
    let headers = if is_v6 { OuterPath::HEADERS } else { OuterPath::HEADERS - 20 };
    path.symbol_size() + headers
}

/// Where the peer is: as the appliance knows it, else as its file says.
fn address(
    peer: &Peer,
    status: Option<&Status>,
    names: &BTreeMap<String, Result<SocketAddr, String>>,
) -> Result<SocketAddr, String> {
    if let Some(known) = known(peer, status) {
        return Ok(known);
    }
    let Some(endpoint) = &peer.endpoint else {
        return Err("it has no endpoint here, and has not called yet".to_owned());
    };
    let unresolved = || Err(format!("its name was not resolved within {RESOLVED_WITHIN:?}"));
    endpoint.address().map_or_else(|| names.get(&endpoint.to_string()).cloned().unwrap_or_else(unresolved), Ok)
}

fn known(peer: &Peer, status: Option<&Status>) -> Option<SocketAddr> {
    let known = status?.peers.iter().find(|of| of.name == peer.name)?.endpoint?;
    Some(SocketAddr::new(known.ip().to_canonical(), known.port()))
}

/// Resolves the names of endpoints, all at once. A name server that does not answer delays nothing else.
fn resolve(config: &Config, status: Option<&Status>) -> BTreeMap<String, Result<SocketAddr, String>> {
    let (send, receive) = channel();
    for peer in &config.peers {
        let name = peer.endpoint.as_ref().filter(|endpoint| endpoint.address().is_none()).map(ToString::to_string);
        let Some(name) = name.filter(|_| known(peer, status).is_none()) else { continue };
        let send = send.clone();
        // Without a thread there is no answer, which is said.
        let _ = std::thread::Builder::new().spawn(move || {
            let none = || format!("its name {name} has no address");
            let found = ask_system(&name).and_then(|found| found.first().copied().ok_or_else(none));
            let _ = send.send((name.clone(), found.map_err(|error| format!("{name} does not resolve: {error}"))));
        });
    }
    drop(send);
    let deadline = Instant::now() + RESOLVED_WITHIN;
    let next = || receive.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok();
    std::iter::from_fn(next).collect()
}

/// Whether the system gives timestamps of what a socket such as ours has sent.
fn timestamps() -> Result<(), String> {
    let any = SocketAddr::from((IpAddr::from(Ipv4Addr::UNSPECIFIED), 0));
    let socket = UdpSocket::bind(any, UdpOptions { buffer_bytes: 64 << 10, ..UdpOptions::default() });
    match socket.map(|socket| socket.stamps()) {
        Ok(StampState::Off(why)) => Err(StampState::Off(why).to_string()),
        Ok(StampState::OwnId | StampState::LoopedData) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
