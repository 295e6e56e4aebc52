//! `tun`: the device on which packets enter and leave. Does not create it.

use schemars::JsonSchema;

use super::schema;
use super::table::{Reading, Table};

/// The TUN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tun {
    /// Interface name, 1 to 15 characters.
    pub name: String,
    /// Inner MTU in bytes; independent of the path's MTU, because packets are cut into symbols.
    pub mtu: u16,
    /// The back-end that reads it.
    pub offload: Offload,
    /// Lanes: TUN queues, UDP sockets and threads; 1 to 16.
    pub queues: u16,
    /// The device's transmit queue in packets or super-packets; `None` leaves the kernel's default.
    pub txqueuelen: Option<u32>,
}

/// The TUN back-end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Offload {
    /// Super-packets if the kernel supports them.
    Auto,
    /// The simple back-end: one packet per read, on any kernel.
    Off,
}

impl Tun {
    pub(super) fn read(root: &Table<'_>, reading: &mut Reading<'_>) -> Self {
        let table = root.field("tun").table(&schema::TUN, reading);
        let name = table.field("name").read(NAME, parse_name, reading);
        let mtu = table.field("mtu").number(576..=9216, reading);
        let offload = [("auto", Offload::Auto), ("off", Offload::Off)];
        let offload = table.field("offload").choose(&offload, reading);
        let queues = table.field("queues").number(1..=16, reading);
        let txqueuelen = table.field("txqueuelen").number(1..=1_000_000, reading);
        Self {
            name: name.unwrap_or_else(|| "ow0".to_owned()),
            mtu: mtu.map_or(1500, |mtu| mtu as u16),
            offload: offload.unwrap_or(Offload::Auto),
            queues: queues.map_or(1, |queues| queues as u16),
            txqueuelen,
        }
    }
}

const NAME: &str = "an interface name: 1 to 15 letters, digits, dots, dashes and underscores";

fn parse_name(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match text.len() {
        _ if !plain || matches!(text, "" | "." | "..") => Err(String::new()),
        1..=15 => Ok(text.to_owned()),
        length => Err(format!("it has {length} characters")),
    }
}
