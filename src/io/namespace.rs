//! Network namespaces: enter one, run something in one, own some without being root.
//!
//! Only a socket, a TUN or a netlink socket belongs to the namespace of the thread that made it. Names of namespaces
//! are not handled here; `ip netns` does that well.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::explain;

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// A network namespace, kept alive by this value.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
    name: String,
}

impl NetworkNamespace {
    /// The namespace that `ip netns add NAME` made.
    pub fn named(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{name:?} cannot be the name of a network namespace: it may not be empty, begin with '.' or hold '/'"
                ),
            ));
        }
        let file = File::open(Path::new(NAMES).join(name)).map_err(|error| {
            explain(
                &error,
                format_args!("cannot open network namespace {name} (`ip netns list` shows those there are)"),
            )
        })?;
        Ok(Self { file, name: name.to_owned() })
    }

    /// The namespace this thread is in.
    pub fn current() -> io::Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")
            .map_err(|error| explain(&error, format_args!("cannot open this thread's network namespace")))?;
        Ok(Self { file, name: "of this thread".to_owned() })
    }

    /// A new namespace without a name. It vanishes with the last thread, socket or descriptor that uses it.
    pub fn anonymous() -> io::Result<Self> {
        let make = || {
            unshare(UnshareFlags::NEWNET)?;
            Self::current()
        };
        thread::scope(|scope| scope.spawn(make).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .map(|made| Self { name: "without name".to_owned(), ..made })
            .map_err(|error| explain(&error, format_args!("cannot make a network namespace (needs CAP_SYS_ADMIN)")))
    }

    /// Moves this thread into the namespace for good.
    pub fn enter(&self) -> io::Result<()> {
        rustix::thread::move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
            |errno| {
                explain(
                    &errno.into(),
                    format_args!("cannot enter network namespace {} (needs CAP_SYS_ADMIN)", self.name),
                )
            },
        )
    }

    /// Runs `work` inside, on its own thread, and waits for it. A panic inside continues outside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = || self.enter().map(|()| work());
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Gives the calling process its own user, network and mount namespaces, in which it is root, with an empty
/// `/run/netns`: `ip netns`, TUN devices and routes work, and nothing outside changes.
///
/// For a process without privileges, at the start of `main` or between fork and exec: the kernel refuses when there is
/// a second thread. The loopback device of the new network namespace is down.
pub fn enter_private() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWNS).map_err(|error| {
        let advice = match error.raw_os_error() {
            Some(libc::EPERM) => {
                "this system forbids it to ordinary users; run as root, or allow it: `sysctl -w \
                 kernel.unprivileged_userns_clone=1` (Debian), `sysctl -w \
                 kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu)"
            }
            Some(libc::ENOSPC | libc::EUSERS) => {
                "none may be made; run as root, or raise `sysctl user.max_user_namespaces`"
            }
            Some(libc::EINVAL) => "the process has several threads or the kernel no user namespaces",
            _ => "the kernel refused; run as root",
        };
        explain(&error, format_args!("cannot make user, network and mount namespaces: {advice}"))
    })?;
    // An ordinary user may map only itself, and only after giving up setgroups.
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))?;

    let propagation = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", propagation)
        .map_err(|errno| explain(&errno.into(), format_args!("cannot make the mounts private")))?;
    // If the directory does not exist, we may not create it either: then a private /run holds it.
    if !Path::new(NAMES).is_dir() && fs::create_dir(NAMES).is_err() {
        mount_tmpfs("/run")?;
        fs::create_dir(NAMES).map_err(|error| explain(&error, format_args!("cannot create {NAMES}")))?;
    }
    mount_tmpfs(NAMES)
}

fn write(path: &str, text: &str) -> io::Result<()> {
    fs::write(path, text).map_err(|error| explain(&error, format_args!("cannot write {text:?} to {path}")))
}

fn mount_tmpfs(target: &str) -> io::Result<()> {
    rustix::mount::mount("tmpfs", target, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))
        .map_err(|errno| explain(&errno.into(), format_args!("cannot mount a tmpfs on {target}")))
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the flags never contain FILES, the one that would change what descriptors other threads see.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    const NOBODY: u32 = 65_534;

    /// Runs a shell as the user `nobody` in private namespaces.
    fn shell(script: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).uid(NOBODY).gid(NOBODY).current_dir("/");
        let prepare = || {
            // After a change of user, a process may not use its own /proc entries until the next exec.
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?;
            enter_private()
        };
        // SAFETY: the closure runs in the forked child, whose only thread it is; it calls no code that expects others.
        unsafe { command.pre_exec(prepare) };
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    #[test]
    fn an_ordinary_user_gets_namespaces_of_its_own() {
        assert_eq!(shell("id -u; ip netns list").trim(), "0");
        let made = shell(
            "ip netns add owio-inner; ip -n owio-inner link set lo up; ip netns exec owio-inner ip -br address show lo",
        );
        assert!(made.contains("127.0.0.1"), "{made}");
        assert!(!Path::new("/run/netns/owio-inner").exists());
    }
}
