//! A way to carry the traffic: the plain route, a bare tunnel, or appliances with settings of their own.

use super::{LONGEST, subscription::Listener};
use crate::lab::{carrier::Carrier, error::LabError, network::Network, pair::PairOptions};

/// A way to carry the traffic.
#[derive(Debug)]
pub struct Variant {
    /// Its name in tables.
    pub name: &'static str,
    /// Its name in the JSON.
    pub label: &'static str,
    kind: Kind,
}

/// What carries it.
#[derive(Debug)]
enum Kind {
    PlainRoute,
    BareTunnel,
    Appliances(Settings),
}

/// Settings of both appliances.
#[derive(Debug)]
struct Settings {
    repair: &'static str,
    offload: &'static str,
    /// They notify at this level, and a subscriber receives the notifications of all flows.
    notify: Option<&'static str>,
    lanes: u16,
}

impl Variant {
    /// The kernel forwards.
    pub const fn plain_route() -> Self {
        Self { name: "plain route", label: "plain_route", kind: Kind::PlainRoute }
    }

    /// Super-packets without code, cipher and handling of loss.
    pub const fn bare_tunnel() -> Self {
        Self { name: "bare tunnel", label: "bare_tunnel", kind: Kind::BareTunnel }
    }

    /// Appliances with this repair, of the fast back-end and one lane, that do not notify.
    pub const fn pair(name: &'static str, label: &'static str, repair: &'static str) -> Self {
        Self { name, label, kind: Kind::Appliances(Settings { repair, offload: "auto", notify: None, lanes: 1 }) }
    }

    /// The same with notifications at this level and a subscriber to everything.
    pub const fn notifying(self, level: &'static str) -> Self {
        let Kind::Appliances(settings) = self.kind else { return self };
        Self { kind: Kind::Appliances(Settings { notify: Some(level), ..settings }), ..self }
    }

    /// The same with the simple back-end.
    pub const fn simple(self) -> Self {
        let Kind::Appliances(settings) = self.kind else { return self };
        Self { kind: Kind::Appliances(Settings { offload: "off", ..settings }), ..self }
    }

    /// The same with this many lanes.
    pub const fn lanes(self, lanes: u16) -> Self {
        let Kind::Appliances(settings) = self.kind else { return self };
        Self { kind: Kind::Appliances(Settings { lanes, ..settings }), ..self }
    }

    /// Whether processes carry the traffic, not the kernel alone.
    pub fn has_processes(&self) -> bool {
        !matches!(self.kind, Kind::PlainRoute)
    }

    /// Starts it; the names of its files begin with the label.
    pub fn start<'n>(&self, network: &'n Network<'n>, label: &str) -> Result<Carrier<'n>, LabError> {
        match &self.kind {
            Kind::PlainRoute => Carrier::plain_route(network),
            Kind::BareTunnel => Carrier::bare_tunnel(network, label),
            Kind::Appliances(Settings { repair, offload, notify, lanes }) => {
                let options = PairOptions {
                    label: label.to_owned(),
                    repair: (*repair).to_owned(),
                    profile: LONGEST.to_owned(),
                    offload,
                    queues: *lanes,
                    notify: *notify,
                    ..PairOptions::default()
                };
                Carrier::appliances(network, &options)
            }
        }
    }

    /// Subscribes to everything that the near appliance notifies, if it does.
    pub fn listen(&self, network: &Network<'_>, carrier: &Carrier<'_>) -> Result<Option<Listener>, LabError> {
        match (&self.kind, carrier.pair()) {
            (Kind::Appliances(Settings { notify: Some(_), .. }), Some(pair)) => {
                Listener::start(network, &pair.appliances[0]).map(Some)
            }
            _ => Ok(None),
        }
    }
}
