//! A file of gates, read and checked together with the certificates and keys that it names. Opens no sockets.

use std::path::Path;

use super::tls::Tls;
use crate::config::gate::Gates;
use crate::config::gate_file;

/// Gates of which everything can be used that was read.
pub struct Prepared {
    /// The gates.
    pub gates: Gates,
    /// Of each gate, in the same order.
    pub tls: Vec<Tls>,
}

impl Prepared {
    /// Reads a file again.
    ///
    /// # Errors
    /// Everything that is wrong with it, in lines for people.
    pub fn read(file: &Path) -> Result<Prepared, String> {
        let gates = gate_file::load(file).map_err(|errors| errors.to_string())?;
        Prepared::new(gates).map_err(|faults| faults.join("\n"))
    }

    /// Reads the certificates and keys of the gates.
    ///
    /// # Errors
    /// Everything that is wrong with them, a sentence each.
    pub fn new(gates: Gates) -> Result<Prepared, Vec<String>> {
        let (mut tls, mut faults) = (Vec::new(), Vec::new());
        for gate in &gates.gates {
            match Tls::of(gate) {
                Ok(read) => tls.push(read),
                Err(more) => faults.extend(more),
            }
        }
        if faults.is_empty() { Ok(Prepared { gates, tls }) } else { Err(faults) }
    }
}
