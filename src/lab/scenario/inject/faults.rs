//! The system calls that fail, and the errors that the kernel can really return for each of them.
//!
//! Only lists: the errors are those of the manual pages and of the kernel's source. Left out are errors that only a fault of
//! the program could bring about (`EFAULT`, `EINVAL` of a poll), and memory that the C library asks for: without it any
//! program ends.

use std::io;

use crate::lab::{error::LabError, injection::Sockets, pair::RunningAppliance};

/// Which descriptors a call must use to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// The TUN device.
    Tun,
    /// The socket to the peer.
    Peer,
    /// The notification port.
    Notify,
    /// Netlink sockets.
    Netlink,
    /// Timers.
    Timer,
    /// The log, which is standard error.
    Log,
    /// Any.
    Any,
}

/// What the scenario does so that the call is made at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Nothing: traffic is enough.
    Traffic,
    /// Asks for the status.
    Status,
    /// Lets it read its configuration again.
    Reload,
}

/// What a program may do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on. It may say these words, at most once a trial, and the second ones when it is over.
    GoesOn(Option<[&'static str; 2]>),
    /// It ends with exit code 1 and these words: no later call can succeed.
    Ends(&'static str),
}

/// A system call, and the errors it gets one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its name in the report and for `--arm`.
    pub name: &'static str,
    /// Which appliance it hits: 0 at the primary, 1 at the mirror.
    pub side: usize,
    /// The names of the calls.
    pub calls: &'static str,
    /// The descriptors.
    pub object: Object,
    /// The errors, by name.
    pub errors: &'static [&'static str],
    /// What brings the call about.
    pub trigger: Trigger,
    /// What must follow.
    pub outcome: Outcome,
}

const QUIETLY: Outcome = Outcome::GoesOn(None);
const NOT_READ: Outcome = Outcome::GoesOn(Some(["packets cannot be read from the TUN", "read from the TUN again"]));
const NOT_WRITTEN: Outcome = Outcome::GoesOn(Some(["the TUN refuses packets", "the TUN takes packets again"]));
const NOT_RECEIVED: Outcome = Outcome::GoesOn(Some(["datagrams cannot be read", "datagrams are read again"]));
const SEND: &str = "sendmsg,sendmmsg";
const ACCEPT_ERRORS: &[&str] = &["EMFILE", "ENFILE", "ENOMEM", "ECONNABORTED", "EINTR", "EAGAIN"];

/// A fault that hits traffic.
const fn of_traffic(name: &'static str, side: usize, calls: &'static str, object: Object) -> Fault {
    Fault { name, side, calls, object, errors: &[], trigger: Trigger::Traffic, outcome: QUIETLY }
}

/// All of them; those that end a program are the last ones.
pub const FAULTS: [Fault; 25] = [
    Fault { errors: &["EAGAIN", "EINTR"], ..of_traffic("tun-read", 0, "readv", Object::Tun) },
    Fault {
        errors: &["EIO", "EINVAL", "ENOMEM"],
        outcome: NOT_READ,
        ..of_traffic("tun-read-fails", 0, "readv", Object::Tun)
    },
    Fault {
        errors: &["EIO", "EINVAL", "ENOMEM", "ENOBUFS", "EAGAIN"],
        outcome: NOT_WRITTEN,
        ..of_traffic("tun-write", 0, "writev", Object::Tun)
    },
    Fault {
        errors: &["EIO", "ENOMEM"],
        outcome: NOT_WRITTEN,
        ..of_traffic("mirror-tun-write", 1, "writev", Object::Tun)
    },
    Fault { errors: &["EAGAIN", "EINTR"], ..of_traffic("send", 0, SEND, Object::Peer) },
    Fault {
        errors: &["ENOBUFS"],
        outcome: Outcome::GoesOn(Some(["a queue of this host is full", "as queue_full for a minute"])),
        ..of_traffic("send-queue", 0, SEND, Object::Peer)
    },
    Fault {
        errors: &["ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED", "ENETDOWN", "EADDRNOTAVAIL"],
        outcome: Outcome::GoesOn(Some(["datagrams do not reach the peer", "as unreachable for a minute"])),
        ..of_traffic("send-route", 0, SEND, Object::Peer)
    },
    Fault {
        errors: &["EMSGSIZE"],
        outcome: Outcome::GoesOn(Some(["datagrams are too big", "as too_big for a minute"])),
        ..of_traffic("send-size", 0, SEND, Object::Peer)
    },
    Fault {
        errors: &["EPERM", "EACCES"],
        outcome: Outcome::GoesOn(Some(["a firewall of this host", "as forbidden for a minute"])),
        ..of_traffic("send-firewall", 0, SEND, Object::Peer)
    },
    Fault {
        errors: &["ENOMEM", "EINVAL", "EIO", "ENODEV"],
        outcome: Outcome::GoesOn(Some(["datagrams could not be sent", "as other for a minute"])),
        ..of_traffic("send-other", 0, SEND, Object::Peer)
    },
    Fault { errors: &["ENOBUFS", "EAGAIN"], ..of_traffic("mirror-send", 1, SEND, Object::Peer) },
    Fault {
        errors: &["EAGAIN", "EINTR", "ECONNREFUSED", "EHOSTUNREACH"],
        ..of_traffic("receive", 0, "recvmsg", Object::Peer)
    },
    Fault {
        errors: &["ENOMEM", "ENOBUFS"],
        outcome: NOT_RECEIVED,
        ..of_traffic("receive-fails", 0, "recvmsg", Object::Peer)
    },
    Fault { errors: &["EAGAIN", "EINTR"], ..of_traffic("mirror-receive", 1, "recvmsg", Object::Peer) },
    Fault {
        errors: &["ENOMEM"],
        outcome: NOT_RECEIVED,
        ..of_traffic("mirror-receive-fails", 1, "recvmsg", Object::Peer)
    },
    Fault { errors: &["EAGAIN", "EINTR", "ENOMEM"], ..of_traffic("timestamps", 0, "recvmmsg", Object::Peer) },
    Fault { errors: &["EINTR"], ..of_traffic("poll", 0, "epoll_wait", Object::Any) },
    Fault { errors: &["EAGAIN", "EINTR"], ..of_traffic("timer", 0, "read", Object::Timer) },
    Fault {
        errors: &["ENOBUFS", "ENOMEM", "EINTR", "EPERM"],
        ..of_traffic("netlink-ask", 0, "sendto", Object::Netlink)
    },
    Fault {
        errors: &["ENOBUFS", "ENOMEM", "EINTR", "EAGAIN"],
        ..of_traffic("netlink-hear", 0, "recvfrom", Object::Netlink)
    },
    Fault {
        errors: &["ENOBUFS", "EAGAIN", "EPERM", "ENETUNREACH", "ECONNREFUSED"],
        ..of_traffic("notify-send", 0, "sendto", Object::Notify)
    },
    Fault {
        errors: &["ECONNREFUSED", "EINTR", "ENOMEM"],
        ..of_traffic("notify-receive", 0, "recvfrom", Object::Notify)
    },
    Fault { errors: ACCEPT_ERRORS, trigger: Trigger::Status, ..of_traffic("accept", 0, "accept4", Object::Any) },
    Fault {
        errors: &["EMFILE", "ENFILE", "ENOMEM", "EIO", "EACCES", "EINTR"],
        trigger: Trigger::Reload,
        ..of_traffic("reload", 0, "openat", Object::Any)
    },
    Fault {
        errors: &["EBADFD"],
        outcome: Outcome::Ends("the TUN device ow0 is gone"),
        ..of_traffic("tun-gone", 0, "readv", Object::Tun)
    },
];

/// The log fails only with the rest of the scenario: nothing can be read in it meanwhile.
pub const LOG: Fault = Fault {
    errors: &["ENOSPC", "EIO", "EAGAIN", "EINTR"],
    trigger: Trigger::Reload,
    ..of_traffic("log", 0, "write", Object::Log)
};

impl Fault {
    /// Those with these names; all where there are none.
    pub fn chosen(names: &[String]) -> Result<Vec<Self>, LabError> {
        let all = || FAULTS.iter().chain([&LOG]);
        let find = |name: &String| {
            all().find(|fault| fault.name == name).copied().ok_or_else(|| {
                let names = all().map(|fault| fault.name).chain([super::START]).collect::<Vec<_>>().join(", ");
                LabError::Sentence(format!("--arm: found \"{name}\"; allowed: {names}"))
            })
        };
        let names: Vec<_> = names.iter().filter(|name| *name != super::START).collect();
        let mut chosen = names.into_iter().map(find).collect::<Result<Vec<_>, _>>()?;
        // Those that end a program are the last ones: a new process begins a new log.
        chosen.sort_by_key(|fault| matches!(fault.outcome, Outcome::Ends(_)));
        Ok(chosen)
    }

    /// All of them, in order.
    pub fn all() -> Vec<Self> {
        let (lasting, ending): (Vec<_>, Vec<_>) =
            FAULTS.into_iter().partition(|fault| matches!(fault.outcome, Outcome::GoesOn(_)));
        lasting.into_iter().chain([LOG]).chain(ending).collect()
    }
}

impl Object {
    /// The descriptors of an appliance that are meant, as links in `/proc/PID/fd` show them; empty: any.
    pub fn paths(self, appliance: &RunningAppliance, listen: u16) -> Result<Vec<String>, LabError> {
        let process = &appliance.process;
        let doing = || LabError::doing(format!("look at the descriptors of {}", process.name()));
        let sockets = Sockets::of(process.id()).map_err(doing())?;
        let paths = match self {
            Self::Tun => Ok(vec!["/dev/net/tun".to_owned()]),
            Self::Peer => sockets.udp(listen),
            Self::Notify => sockets.udp(appliance.publisher()?.address.port()),
            Self::Netlink => sockets.netlink(),
            Self::Timer => Ok(vec!["anon_inode:[timerfd]".to_owned()]),
            Self::Log => Ok(vec![process.log().display().to_string()]),
            Self::Any => return Ok(Vec::new()),
        };
        let none = || io::Error::other(format!("it has no {self:?}"));
        paths.and_then(|paths| if paths.is_empty() { Err(none()) } else { Ok(paths) }).map_err(doing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_those_that_end_a_program_come_last() {
        let all = Fault::all();
        assert_eq!(all.len(), FAULTS.len() + 1);
        for (at, fault) in all.iter().enumerate() {
            assert!(!fault.errors.is_empty(), "{}", fault.name);
            assert_eq!(all.iter().position(|other| other.name == fault.name), Some(at));
        }
        let chosen = Fault::chosen(&["tun-gone".to_owned(), "start".to_owned(), "send".to_owned()]).unwrap();
        assert_eq!(chosen.iter().map(|fault| fault.name).collect::<Vec<_>>(), ["send", "tun-gone"]);
        let error = Fault::chosen(&["tun".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("tun-read, tun-read-fails, tun-write, ") && error.ends_with("start"), "{error}");
    }
}
