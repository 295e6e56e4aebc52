//! What befalls an appliance, and its end.

use rustix::process::Signal;

use crate::{
    io::hold::HeldThread,
    lab::{error::LabError, network::Network, pair::RunningAppliance},
};

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is killed.
    Kill,
    /// It aborts.
    Abort,
    /// All of it stands still.
    Halt,
    /// Lane 0 hangs.
    Hang,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Kill, Self::Halt, Self::Abort, Self::Hang];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Abort => "abort",
            Self::Halt => "SIGSTOP",
            Self::Hang => "a lane hangs",
        }
    }

    /// The process is gone.
    pub fn is_crash(self) -> bool {
        matches!(self, Self::Kill | Self::Abort)
    }

    /// Begins.
    pub fn begin(self, appliance: &mut RunningAppliance) -> Result<Option<HeldThread>, LabError> {
        match self {
            Self::Kill => appliance.process.kill(),
            Self::Abort => appliance.process.signal(Signal::ABORT),
            Self::Halt => appliance.process.signal(Signal::STOP),
            Self::Hang => {
                let held = HeldThread::hold(appliance.process.id(), "lane-0");
                return held.map(Some).map_err(LabError::doing("hold a lane"));
            }
        }
        Ok(None)
    }

    /// Ends: the process goes on, or is started again.
    pub fn end(
        self,
        appliance: &mut RunningAppliance,
        held: Option<HeldThread>,
        network: &Network<'_>,
    ) -> Result<(), LabError> {
        drop(held);
        match self {
            Self::Kill | Self::Abort => appliance.restart(network)?,
            Self::Halt => appliance.process.signal(Signal::CONT),
            Self::Hang => {}
        }
        Ok(())
    }
}
