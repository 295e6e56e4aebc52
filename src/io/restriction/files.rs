//! The files that a thread may open by name, with Landlock: what is open already stays usable.
//!
//! Rules are about the directories behind the paths, found while everything can still be opened. Landlock does not know
//! all: names and attributes of files can be seen everywhere, and sockets that have a path can be connected to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};

use super::{Files, Needs, real_directory};

/// The version whose rights are denied where no rule allows them, as far as the kernel knows them. Later versions also
/// deny connections to sockets by their path, which a resolver needs.
const VERSION: ABI = ABI::V7;

const OPEN: &str = "the files that this process may open are not restricted";

/// What a thread may open.
pub(super) struct Rules {
    readable: BTreeSet<PathBuf>,
    sockets: BTreeSet<PathBuf>,
}

impl Rules {
    pub(super) fn new(needs: &Needs) -> Self {
        // A link may point elsewhere at the next reload, beside itself too.
        let directories = |file: &PathBuf| [own_directory(file), real_directory(file)];
        let readable = needs.files.iter().flat_map(directories).flatten();
        let sockets = needs.sockets.iter().filter_map(|socket| own_directory(socket));
        let others = needs.readable.iter().filter_map(|path| path.canonicalize().ok());
        Self { readable: readable.chain(others).collect(), sockets: sockets.collect() }
    }

    /// Denies this thread everything else.
    ///
    /// # Errors
    /// A sentence: what is not restricted and what it takes.
    pub(super) fn confine(self) -> Result<Files, String> {
        let status = self.apply().map_err(|error| format!("{OPEN}: {error}"))?;
        match (status.ruleset, status.landlock) {
            (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
                Err(format!("{OPEN}: Landlock is off; add `landlock` to `lsm=` of the kernel's command line"))
            }
            (RulesetStatus::NotEnforced, _) => Err(format!(
                "{OPEN}: this kernel has no Landlock, which came with Linux 5.13, or a container refuses its system calls"
            )),
            (_, LandlockStatus::Available { effective_abi, .. }) => Ok(Files {
                landlock: effective_abi as u32,
                readable: self.readable.into_iter().collect(),
                sockets: self.sockets.into_iter().collect(),
            }),
            (_, status) => Err(format!("{OPEN}: {status:?}")),
        }
    }

    fn apply(&self) -> Result<landlock::RestrictionStatus, RulesetError> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let replace = AccessFs::RemoveFile | AccessFs::MakeSock;
        let sockets = self.sockets.iter().filter_map(|directory| PathFd::new(directory).ok());
        Ruleset::default()
            .handle_access(AccessFs::from_all(VERSION))?
            // Programs that give everybody on this host a socket without a path.
            .scope(Scope::AbstractUnixSocket)?
            .create()?
            .add_rules(path_beneath_rules(&self.readable, read))?
            .add_rules(sockets.map(|directory| Ok::<_, RulesetError>(PathBeneath::new(directory, replace))))?
            .restrict_self()
    }
}

/// The directory in which a name stands.
fn own_directory(file: &Path) -> Option<PathBuf> {
    std::path::absolute(file).ok()?.parent()?.canonicalize().ok()
}
