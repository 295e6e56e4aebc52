//! Opens the notification port at the start. What protection means is decided in [`crate::protect`].

use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use mio::Waker;
use rand::Rng;
use rand::rngs::StdRng;

use super::reload::ProtectionSource;
use crate::appliance::lane::Lane;
use crate::appliance::lane::channel::Command;
use crate::appliance::notify::port::NotifyPort;
use crate::appliance::notify::protection_driver::ProtectionDriver;
use crate::appliance::notify::publish_path::PublishPath;
use crate::appliance::setup::{self, ProtectionSettings};
use crate::config::{Config, Notify};
use crate::flow::InstanceCounter;
use crate::io::udp::StampState;
use crate::notify::message::Level;

/// Opens the notification port and gives each lane a driver.
pub(super) fn set_protection(
    config: &Config,
    notify: &Notify,
    lanes: &mut [(Lane, SyncSender<Command>, Arc<Waker>)],
    mut random: StdRng,
    now: Instant,
) -> io::Result<ProtectionSource> {
    let port = NotifyPort::open(setup::notify_port_settings(config, notify, random.random(), random.random()), now)?;
    tracing::info!(listen = %port.listen(), level = notify.level.name(), "notifications");
    let wakers: Vec<Arc<Waker>> = lanes.iter().map(|(_, _, waker)| Arc::clone(waker)).collect();
    let instances = InstanceCounter::default();
    let mut of_lanes = Vec::new();
    for (number, ((lane, _, _), publish_path)) in (0..).zip(lanes.iter_mut().zip(PublishPath::of_lanes(port, &wakers)))
    {
        let stamps = lane.stamps();
        if let (StampState::Off(_), true) = (stamps, notify.level != Level::Queued) {
            tracing::warn!(
                "no transmit timestamps: {stamps}. Nothing will be called protected; `notify.level: queued` tells what \
                 the kernel has taken, which may still be lost with this host"
            );
        }
        of_lanes.push(stamps);
        let settings = ProtectionSettings::new(config, notify.level, stamps, &instances, random.random());
        let lane_protection = setup::lane_protection(&settings, config);
        lane.set_protection(ProtectionDriver::new(
            number,
            lane_protection,
            publish_path,
            setup::bound_address(config),
        ))?;
    }
    Ok(ProtectionSource { stamps: of_lanes, instances, random })
}
