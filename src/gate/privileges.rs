//! What a process of gates needs after it is set up, and gives up all else. How that is done is in
//! [`crate::io::restriction`].

use std::path::PathBuf;

use crate::config::gate::Gates;
use crate::io::restriction::{CapabilitySet, Needs, Restrictions, restrict};

/// Gives up what gates do not need any more. Logs what could not be given up.
pub(super) fn give_up(gates: &Gates) -> Restrictions {
    let restrictions = restrict(&needs(gates));
    for missing in &restrictions.missing {
        tracing::warn!("{missing}");
    }
    tracing::info!("privileges reduced: {}", restrictions.summary());
    restrictions
}

fn needs(gates: &Gates) -> Needs {
    Needs {
        // A port below 1024, if it may have one: a reload may bring another gate.
        capabilities: CapabilitySet::NET_BIND_SERVICE,
        files: gates.files.clone(),
        // How many processors there are, for the allocator. Addresses are no names here.
        readable: vec![PathBuf::from("/sys/devices/system/cpu")],
        sockets: gates.status.iter().cloned().collect(),
    }
}
