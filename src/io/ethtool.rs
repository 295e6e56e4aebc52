//! What a device and its driver can do, as `ethtool` shows it. Asks only; needs no privilege.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketType};

use super::explain;

/// `SIOCETHTOOL` of `linux/sockios.h`.
const REQUEST: libc::Ioctl = 0x8946;
/// Commands of `linux/ethtool.h`.
const RECEIVE_OFFLOAD: u32 = 0x2b;
const TIMESTAMPS: u32 = 0x41;

/// The features of a device that matter to trains of datagrams; `None` where the driver does not
/// say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Received packets are put together (GRO).
    pub receive_offload: Option<bool>,
    /// Datagrams are given a timestamp when the driver takes them.
    pub transmit_timestamps: Option<bool>,
}

/// Asks for the features of the device of this name, in this thread's network namespace.
pub fn features(device: &str) -> io::Result<Features> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)
        .map_err(|error| explain(&error.into(), format_args!("cannot open a socket")))?;
    let ask = |command: u32| {
        // Both structures begin with the command; the longer one has 11 words.
        let mut words = [0u32; 11];
        words[0] = command;
        exchange(socket.as_raw_fd(), device, &mut words).map(|()| words[1])
    };
    let switch = |command| match ask(command) {
        Ok(value) => Ok(Some(value != 0)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(explain(&error, format_args!("cannot ask for the features of {device}"))),
    };
    Ok(Features {
        receive_offload: switch(RECEIVE_OFFLOAD)?,
        transmit_timestamps: ask(TIMESTAMPS).ok().map(|kinds| kinds & libc::SOF_TIMESTAMPING_TX_SOFTWARE != 0),
    })
}

fn exchange(socket: libc::c_int, device: &str, words: &mut [u32; 11]) -> io::Result<()> {
    let mut name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    if device.len() >= name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    let data = libc::__c_anonymous_ifr_ifru { ifru_data: words.as_mut_ptr().cast() };
    let mut request = libc::ifreq { ifr_name: name, ifr_ifru: data };
    // SAFETY: SIOCETHTOOL reads one ifreq, and reads and writes at its data pointer the structure of the command: at
    // most 11 words, which live through the call.
    let result = unsafe { libc::ioctl(socket, REQUEST, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::namespace::NetworkNamespace;
    use std::process::Command;

    #[test]
    fn features_follow_what_is_switched() {
        let run = |words: &str| {
            let mut words = words.split(' ');
            let program = words.next().unwrap();
            let status = Command::new(program).args(words).status();
            let status = status.unwrap_or_else(|error| panic!("{program}: {error}: apt-get install iproute2 ethtool"));
            assert!(status.success());
        };
        let inside = || {
            run("ip link add owt0 type veth peer name owt1");
            for on in [true, false] {
                let word = if on { "on" } else { "off" };
                run(&format!("ethtool -K owt0 gro {word}"));
                let found = features("owt0").unwrap();
                assert_eq!(found.receive_offload, Some(on));
                assert_eq!(found.transmit_timestamps, Some(true));
            }
            assert!(features("none").unwrap_err().to_string().contains("none"));
        };
        NetworkNamespace::anonymous().unwrap().run(inside).unwrap();
    }
}
