//! `onwire doctor`: looks at what around an appliance keeps it from working, and says what to do about each. Changes
//! nothing.
//!
//! Facts and what follows from them are apart: [`read`] asks the kernel, the firewall, the path and the running
//! appliance, and [`judge`] makes [`Finding`]s of that, without a system call. What could not be seen is a finding too.
//!
//! Start with [`examine`].

pub mod facts;
pub mod finding;
pub mod judge;
pub mod read;

use std::time::{Duration, Instant};

use crate::appliance::status::Status;
use crate::io::clock;

pub use facts::Subject;
pub use finding::{Finding, Level, Report};

/// Counters that rise are looked at twice, this long apart.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1200);
/// The wall clock may be slewed by this much meanwhile.
const SLEW_MAX_NS: i128 = 50_000_000;

/// Examines the host and the peers of `subject`. Calls `on_step` with what is done next, for a display of progress.
///
/// Every step is bounded in time: an appliance that stands still by two seconds, the firewall's program by three, echo
/// requests by two and a half for all peers together, names by three.
pub fn examine(subject: &Subject, on_step: &dyn Fn(&str)) -> Report {
    let clock_before = clock::wall_offset();
    let mut findings = Vec::new();
    on_step("the configuration and its keys");
    findings.extend(judge::process::configuration(&subject.configuration));
    on_step("the running appliance");
    let appliance = read::appliance::read(subject);
    let asked_at = Instant::now();
    findings.extend(judge::appliance::judge(&appliance));
    on_step("this process and this user");
    findings.extend(judge::process::judge(&read::process::read(subject, &appliance)));
    on_step("forwarding and filters of this host");
    findings.extend(judge::forwarding::judge(&read::forwarding::read(subject)));
    on_step("the firewall");
    findings.extend(judge::firewall::judge(&read::firewall::read(subject)));
    if let Some(config) = subject.config() {
        on_step("routes");
        findings.extend(judge::routes::judge(&read::routes::read(config, appliance.status.as_ref().ok())));
        on_step("the devices that lead to the peers");
        let uplinks = read::uplink::read(config, appliance.status.as_ref().ok());
        findings.extend(judge::uplink::judge(&uplinks));
        on_step("which packets pass on the way to the peers");
        let paths = read::path::read(config, &uplinks, appliance.status.as_ref().ok());
        findings.extend(judge::path::judge(&paths));
        if let Ok(status) = &appliance.status {
            let later = look_again(status, asked_at, subject, on_step);
            findings.extend(judge::peer::judge(config, status, later.as_ref(), &paths));
        }
    }
    on_step("the clock");
    let moved = clock::wall_offset() - clock_before;
    let jumped = (moved.abs() > SLEW_MAX_NS).then(|| moved as f64 / 1e9);
    findings.extend(judge::process::clock(clock::state().map_err(|error| error.to_string()), jumped));
    Report::new(subject, findings)
}

/// The status a moment later, if a counter of it may be of long ago.
fn look_again(status: &Status, asked_at: Instant, subject: &Subject, on_step: &dyn Fn(&str)) -> Option<Status> {
    if !judge::peer::is_to_be_seen_twice(status) {
        return None;
    }
    on_step("whether counters of the appliance still rise");
    std::thread::sleep(BETWEEN_LOOKS.saturating_sub(asked_at.elapsed()));
    read::appliance::read(subject).status.ok()
}
