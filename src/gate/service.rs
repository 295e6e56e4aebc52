//! A gate process from start to end: opens everything, handles signals, serves. The loop is in [`super::proxy`].
//!
//! A thread of its own reads the file again when a signal asks for it: a slow disk must not delay an acknowledgement.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Instant;

use super::prepared::Prepared;
use super::privileges;
use super::proxy::{Proxy, Stop};
use super::status::Status;
use crate::config::gate::Gates;
use crate::io::restriction::Restrictions;
use crate::io::sd_notify::SdNotify;
use crate::io::signal::{self, Signal};

/// Runs the gates until INT or TERM. Once per process. `on_reloaded` is called with what a reload has taken over.
///
/// # Errors
/// Something cannot be opened, or the kernel refuses to go on; sentences for the user, a line each.
pub fn run(gates: &Gates, on_reloaded: fn(&Gates)) -> io::Result<Status> {
    let notify = SdNotify::open(Instant::now()).unwrap_or_else(|error| {
        tracing::warn!("cannot tell the service manager how this goes: {error}; look at NOTIFY_SOCKET");
        SdNotify::nobody()
    });
    let proxy = Proxy::start(gates)?.on_reloaded(on_reloaded);
    // Everything is open. Threads that start from here on inherit what is left.
    let restrictions = privileges::give_up(gates);
    let proxy = proxy.as_process(notify, restrictions.clone());
    let stop = proxy.stopper();
    let reload = start_reader(gates.file.clone(), restrictions, stop.clone())?;
    signal::listen(move |signal| match signal {
        Signal::Interrupt | Signal::Terminate => stop.stop(),
        Signal::User1 => stop.report(),
        Signal::HangUp => match reload.try_send(()) {
            // If one waits already, it will read what is there now.
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => tracing::error!(
                "cannot reload: the thread that reads the file has ended, which is a fault of onwire; connections go on. Restart the \
                 gates when that is possible"
            ),
        },
    })?;
    proxy.run()
}

/// The thread that reads the file each time it is asked to.
fn start_reader(file: Option<PathBuf>, restrictions: Restrictions, stop: Stop) -> io::Result<SyncSender<()>> {
    let (ask, asked) = sync_channel(1);
    let read = move || match &file {
        Some(file) => Prepared::read(file, &restrictions),
        None => {
            Err("this gate was started with options, which do not change; start it again with others, or with a file \
                     (`onwire gate --config FILE`)"
                .to_owned())
        }
    };
    let body = move || asked.iter().for_each(|()| stop.reload(read()));
    thread::Builder::new().name("reload".to_owned()).spawn(body)?;
    Ok(ask)
}
