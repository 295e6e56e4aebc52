//! Lanes run before ordinary programs.
//!
//! A lane that waits for a processor loses what its full socket drops meanwhile, and makes all else that passes through
//! it late. So lanes start with a lower nice value, unless whoever started this process has chosen one.

use std::io;

use crate::io::cpu;

/// That of the units in `config/`.
const NICE: i32 = -10;

/// What a start does about the nice value that it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// Nobody has chosen one: lanes get this.
    Raise(i32),
    /// It was chosen, or cannot be read.
    Keep,
}

fn choose(found: Option<i32>) -> Choice {
    if found == Some(0) { Choice::Raise(NICE) } else { Choice::Keep }
}

/// The nice value of the starting thread, to restore once it has started the lanes.
#[must_use]
pub struct LanePriority {
    before: Option<i32>,
}

impl LanePriority {
    /// Lowers the nice value of this thread, which lanes inherit; logs what became of it.
    pub fn raise() -> Self {
        let found = cpu::nice().ok();
        let Choice::Raise(nice) = choose(found) else {
            if let Some(found) = found {
                tracing::info!("lanes run at nice {found}, as this process does");
            }
            return Self { before: None };
        };
        match cpu::set_nice(nice) {
            Ok(()) => {
                tracing::info!("lanes run at nice {nice}, before ordinary programs");
                Self { before: found }
            }
            Err(error) => {
                tracing::info!("{}", refused(&error));
                Self { before: None }
            }
        }
    }

    /// Gives this thread its own nice value back; later threads inherit that.
    pub fn restore(self) {
        if let Some(Err(error)) = self.before.map(cpu::set_nice) {
            tracing::warn!("all threads run at nice {NICE}, not only lanes: {error}");
        }
    }
}

fn refused(error: &io::Error) -> String {
    format!(
        "lanes run at nice 0, as ordinary programs do: {error}. Where others need all processors, packets may be lost \
         or late. To let lanes run first: CAP_SYS_NICE, or `Nice={NICE}` in the unit"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nice_value_that_somebody_chose_is_kept() {
        assert_eq!(choose(Some(0)), Choice::Raise(NICE));
        for found in [Some(-20), Some(-1), Some(1), Some(19), None] {
            assert_eq!(choose(found), Choice::Keep, "{found:?}");
        }
    }
}
