//! The watchdog process of an appliance with `bypass: withdraw_routes`: it sets the TUN device down when the appliance stands
//! still or has died, and the routes into the device are gone with that.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crate::io::netlink::Netlink;
use crate::io::restriction::{CapabilitySet, Needs, restrict};
use crate::io::watchdog;

/// Watches the appliance at the other end of standard input until it has ended.
///
/// # Errors
/// There is no such device, or standard input is no such channel.
pub fn run(device: &str) -> io::Result<()> {
    watchdog::outlive_signals()?;
    let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // What acting needs is made before.
    let mut netlink = Netlink::open()?;
    let index = netlink.link_index(device)?;
    // What cannot be given up is not worth a line: the appliance says it of itself.
    restrict(&Needs { capabilities: CapabilitySet::NET_ADMIN, files: vec![], readable: vec![], sockets: vec![] });
    let set_down = || {
        // A device of a process that has died is gone, unless somebody has made it to stay.
        let is_ours = netlink.link(device).is_ok_and(|link| link.index == index && link.up);
        if is_ours && let Err(error) = netlink.set_down(index) {
            // Nobody may be there to read it.
            let _ = writeln!(io::stderr(), "onwire watchdog: {error}");
        }
    };
    watchdog::watch(channel, set_down).map(drop)
}
