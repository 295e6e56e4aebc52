//! `metrics`: where an appliance or a gate process answers HTTP requests for its metrics. Opens no socket.

use std::net::{Ipv4Addr, SocketAddr};

use super::node::parse_listen;
use super::schema;
use super::table::{Reading, Table};

/// The metrics port. A file without the section has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Its TCP address.
    pub listen: SocketAddr,
}

/// The default port of an appliance.
pub const APPLIANCE_PORT: u16 = 9718;
/// The default port of a gate process, which often runs on the host of an appliance.
pub const GATE_PORT: u16 = 9719;

const LISTEN: &str = "an address and a port, such as 127.0.0.1:9718 or [::1]:9718";

impl Metrics {
    pub(super) fn read(root: &Table<'_>, default_port: u16, reading: &mut Reading<'_>) -> Option<Self> {
        let field = root.field("metrics");
        if !field.is_present() {
            return None;
        }
        let table = field.table(&schema::METRICS, reading);
        let field = table.field("listen");
        let listen = field.read(LISTEN, parse_listen, reading);
        if let Some(address) = listen.filter(|address| !address.ip().is_loopback()) {
            let found = format!("found {address}, which other hosts may reach");
            let hint = "whoever reaches it reads metrics and status, without a key and unencrypted: let a firewall admit Prometheus \
                        alone, or listen on 127.0.0.1";
            reading.warning(&field.key, &found, hint);
        }
        Some(Self { listen: listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, default_port))) })
    }
}
