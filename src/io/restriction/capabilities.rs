//! The privileges of a thread: drops all but a few, from every set that the kernel has.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// Drops all privileges of this thread but `keep`. It keeps one more where it could not read `files` otherwise: root that
/// reads the keys of another user.
///
/// # Errors
/// It still has others.
pub fn reduce(keep: CapabilitySet, files: &[PathBuf]) -> io::Result<()> {
    let before = capabilities(None)?;
    // Without SETPCAP this set stays as it is. It matters to programs that a process starts, and grants those nothing
    // once new privileges are ruled out.
    let is_bounded = |one: &CapabilitySet| capability_is_in_bounding_set(*one).unwrap_or(false);
    for one in CapabilitySet::all().iter().filter(is_bounded) {
        let _ = remove_capability_from_bounding_set(one);
    }
    // A kernel without this set has nothing in it.
    let _ = clear_ambient_capability_set();
    let mut kept = before.permitted & keep;
    let reads_all = before.permitted & CapabilitySet::DAC_READ_SEARCH;
    if !reads_all.is_empty() {
        set_capabilities(None, CapabilitySets { effective: kept, ..before })?;
        if files.iter().any(|file| is_denied(file)) {
            kept |= reads_all;
        }
    }
    let after = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    match set_capabilities(None, after) {
        // A service manager may refuse the call after it has dropped everything itself. What is inheritable then waits
        // for a program to be started, which is refused as well.
        Err(error) if before.permitted != kept => Err(error.into()),
        _ => Ok(()),
    }
}

fn is_denied(file: &Path) -> bool {
    File::open(file).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// The privileges of this thread, as the kernel's documentation names them.
pub fn names() -> Vec<String> {
    let permitted = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    permitted.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}
