//! A file of gates, read and checked together with the certificates and keys that it names. Opens no sockets.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use super::tls::Tls;
use crate::config::gate::Gates;
use crate::config::gate_file;
use crate::io::restriction::Restrictions;

/// Gates of which everything can be used that was read.
pub struct Prepared {
    /// The gates.
    pub gates: Gates,
    /// Of each gate, in the same order.
    pub tls: Vec<Tls>,
}

impl Prepared {
    /// Reads a file again, in a process with these restrictions.
    ///
    /// # Errors
    /// Everything that is wrong with it, in lines for people; also that this process may not read everywhere any more.
    pub fn read(file: &Path, restrictions: &Restrictions) -> Result<Prepared, String> {
        let gates = gate_file::load(file).map_err(|errors| {
            let mut denied = [file].into_iter().chain(errors.denied());
            let advice = denied.find_map(|denied| restrictions.advice(denied));
            format!("{errors}{}", advice.unwrap_or_default())
        })?;
        let certificates: Vec<_> = gates.gates.iter().flat_map(|gate| gate.files()).map(Path::to_owned).collect();
        Prepared::new(gates).map_err(|mut faults| {
            let is_denied = |file: &&Path| File::open(file).is_err_and(|it| it.kind() == ErrorKind::PermissionDenied);
            let mut denied = certificates.iter().map(AsRef::as_ref).filter(is_denied);
            faults.extend(denied.find_map(|denied| restrictions.advice(denied)));
            faults.join("\n")
        })
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
