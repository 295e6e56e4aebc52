//! A gate process from start to end: opens everything, handles signals, serves. The loop is in [`super::proxy`].

use std::io;
use std::time::Instant;

use super::privileges;
use super::proxy::Proxy;
use super::status::Status;
use crate::config::gate::Gates;
use crate::io::sd_notify::SdNotify;
use crate::io::signal::{self, Signal};

/// Runs the gates until INT or TERM. Once per process.
///
/// # Errors
/// Something cannot be opened, or the kernel refuses to go on; a sentence for the user.
pub fn run(gates: &Gates) -> io::Result<Status> {
    let notify = SdNotify::open(Instant::now()).unwrap_or_else(|error| {
        tracing::warn!("cannot tell the service manager how this goes: {error}; look at NOTIFY_SOCKET");
        SdNotify::nobody()
    });
    let proxy = Proxy::start(gates)?;
    // Everything is open. Threads that start from here on inherit what is left.
    let proxy = proxy.as_process(notify, privileges::give_up(gates));
    let stop = proxy.stopper();
    signal::listen(move |signal| match signal {
        Signal::Interrupt | Signal::Terminate => stop.stop(),
        Signal::User1 => stop.report(),
        Signal::HangUp => tracing::warn!("a gate does not read its configuration again: restart it"),
    })?;
    proxy.run()
}
