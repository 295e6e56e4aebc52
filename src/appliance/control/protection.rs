//! How the lanes get what makes their protection: at start, and when peers come while the appliance runs.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use mio::Waker;
use rand::Rng;
use rand::rngs::StdRng;

use crate::appliance::lane::Lane;
use crate::appliance::lane::channel::Command;
use crate::appliance::notify::port::{NotifyPort, NotifyPortChanges};
use crate::appliance::notify::protection_driver::{ProtectionChanges, ProtectionDriver};
use crate::appliance::notify::publish_path::PublishPath;
use crate::appliance::setup::{self, ProtectionSettings};
use crate::config::{Config, Notify};
use crate::flow::InstanceCounter;
use crate::io::udp::StampState;
use crate::notify::message::Level;

/// What the protection of further peers is made from.
pub(super) struct ProtectionSource {
    /// By lane.
    pub stamps: Vec<StampState>,
    pub instances: InstanceCounter,
    pub random: StdRng,
}

/// Opens the notification port and gives each lane a driver.
pub(super) fn set_protection(
    config: &Config,
    notify: &Notify,
    lanes: &mut [(Lane, SyncSender<Command>, Arc<Waker>)],
    mut random: StdRng,
    now: Instant,
) -> io::Result<ProtectionSource> {
    let settings = setup::notify_port_settings(config, notify, random.random(), random.random());
    let mut port = NotifyPort::open(settings, now)?;
    if !config.hooks.is_empty() {
        port.keep_news();
    }
    tracing::info!(listen = %port.listen(), protected_at = notify.level.name(), "notifications");
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

/// What changes of a lane's protection.
pub(super) fn protection_changes(
    source: Option<&mut ProtectionSource>,
    next: &Config,
    lane: u8,
) -> Option<ProtectionChanges> {
    let (source, notify) = (source?, next.notify.as_ref()?);
    let stamps = *source.stamps.get(usize::from(lane))?;
    let seed = source.random.random();
    Some(ProtectionChanges {
        settings: ProtectionSettings::new(next, notify.level, stamps, &source.instances, seed),
        port: NotifyPortChanges {
            keys: setup::key_ring(notify),
            peers: next.peers.iter().map(|peer| (peer.name.clone(), peer.is_removed)).collect(),
        },
    })
}
