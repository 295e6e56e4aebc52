//! Whether packets to each prefix of the peers go into the TUN device.

use super::join;
use crate::doctor::facts::{PrefixFacts, RouteFact, RouteFacts};
use crate::doctor::finding::Finding;

const CHECK: &str = "routes";

/// What follows for the device and for each prefix.
pub fn judge(facts: &RouteFacts) -> Vec<Finding> {
    let device = &facts.device;
    let prefixes = match &facts.prefixes {
        Ok(prefixes) => prefixes,
        Err(cause) => return vec![Finding::unseen(CHECK, cause.clone())],
    };
    let Some((mtu, is_up)) = facts.tun else {
        // The appliance is not there, and its routes cannot be; what would be in their way is.
        let clashes: Vec<Finding> = prefixes.iter().flat_map(|prefix| in_the_way(prefix, device)).collect();
        return match clashes.is_empty() {
            true => vec![Finding::unseen(CHECK, format!("there is no {device}; nothing is in the way of its routes"))],
            false => clashes,
        };
    };
    if !is_up {
        let words =
            format!("{device} is down: nothing comes in, and packets to the peers take other routes, unprotected");
        return vec![
            Finding::fault(CHECK, words)
                .remedy(format!("`ip link set {device} up`: the routes come back by themselves")),
        ];
    }
    let mut findings: Vec<Finding> = prefixes.iter().flat_map(|prefix| of_prefix(prefix, device)).collect();
    if findings.is_empty() {
        let withdrawn = prefixes.iter().filter(|prefix| prefix.is_withdrawn).count();
        let led = join(prefixes.iter().filter(|prefix| !prefix.is_withdrawn).map(|prefix| prefix.prefix));
        findings.push(match withdrawn {
            0 => Finding::ok(CHECK, format!("{led} by {device}")),
            _ => Finding::ok(CHECK, format!("by {device}: {led}; {withdrawn} withdrawn, which take the plain route")),
        });
    }
    if mtu != facts.mtu_wanted {
        let wanted = facts.mtu_wanted;
        findings.push(
            Finding::warning("mtu", format!("{device} has MTU {mtu}, and `tun.mtu` is {wanted}"))
                .remedy(format!("`ip link set {device} mtu {wanted}`")),
        );
    }
    findings
}

/// What is wrong with the route to one prefix.
fn of_prefix(facts: &PrefixFacts, device: &str) -> Vec<Finding> {
    let PrefixFacts { prefix, address, peer, .. } = facts;
    if facts.is_withdrawn {
        return match &facts.taken {
            Some(_) => Vec::new(),
            None => vec![
                Finding::fault(
                    CHECK,
                    format!(
                        "the route to {prefix} is withdrawn, as {peer} is not reached, and there is no plain route"
                    ),
                )
                .remedy(format!("`ip route add {prefix} via GATEWAY metric 1000`")),
            ],
        };
    }
    match &facts.taken {
        Some(taken) if taken.device.as_deref() == Some(device) => parts(facts, device),
        Some(taken) => {
            let words = format!("packets to {prefix} take another route than {device}: {}", show(taken));
            let finding = Finding::fault(CHECK, words);
            vec![match facts.others.iter().any(|other| other == taken) {
                true => finding.remedy(format!("`{}`, or give it a larger metric", delete(taken))),
                // A rule leads to another table, or the route is shorter: ours is missing.
                false if facts.has_ours => {
                    finding.remedy(format!("a rule prefers it: `ip rule`, `ip route get {address}`"))
                }
                false => finding.remedy("our own route is missing: the log of the appliance says why it cannot add it"),
            }]
        }
        None => {
            let finding = Finding::fault(CHECK, format!("packets to {prefix} go nowhere"));
            vec![match (facts.has_ours, facts.others.first()) {
                (true, _) => finding.remedy(format!(
                    "a rule refuses them although {device} has the route: `ip rule`, `ip route get {address}`"
                )),
                (false, Some(other)) => finding.remedy(format!("`{}`: it is in the way", delete(other))),
                (false, None) => {
                    finding.remedy("our own route is missing: the log of the appliance says why it cannot add it")
                }
            }]
        }
    }
}

/// Routes to parts of a prefix, which are preferred whatever their metric.
fn parts(facts: &PrefixFacts, device: &str) -> Vec<Finding> {
    let is_part = |other: &&RouteFact| other.prefix != facts.prefix;
    let part = |other: &RouteFact| {
        let words = format!(
            "packets to {}, a part of {}, do not come to {device}: {}",
            other.prefix,
            facts.prefix,
            show(other)
        );
        Finding::warning(CHECK, words).remedy(format!("`{}`, unless that is meant", delete(other)))
    };
    facts.others.iter().filter(is_part).map(part).collect()
}

/// Routes that the appliance would meet when it starts.
fn in_the_way(facts: &PrefixFacts, device: &str) -> Vec<Finding> {
    let PrefixFacts { prefix, .. } = facts;
    // The metrics of our own routes: the best there are.
    let ours = u32::from(prefix.is_ipv6());
    let clashes = facts.others.iter().filter(|other| other.prefix == *prefix && other.metric <= ours);
    let clash = |other: &RouteFact| {
        let words = format!("{} has the metric of our own route to {prefix}: the appliance cannot add it", show(other));
        Finding::fault(CHECK, words).remedy(format!("`{}`, or give it a larger metric", delete(other)))
    };
    clashes.map(clash).chain(parts(facts, device)).collect()
}

/// A route as `ip route` shows it.
fn show(route: &RouteFact) -> String {
    let RouteFact { prefix, device, metric } = route;
    let by = device.as_ref().map_or("by no device, or by several".to_owned(), |device| format!("dev {device}"));
    match metric {
        0 => format!("{prefix} {by}"),
        metric => format!("{prefix} {by} metric {metric}"),
    }
}

/// The command that removes it.
fn delete(route: &RouteFact) -> String {
    let family = if route.prefix.is_ipv6() { "ip -6" } else { "ip" };
    let RouteFact { prefix, device, metric } = route;
    let by = device.as_ref().map_or(String::new(), |device| format!(" dev {device}"));
    let metric = if *metric == 0 { String::new() } else { format!(" metric {metric}") };
    format!("{family} route del {prefix}{by}{metric}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    fn route(prefix: &str, device: &str, metric: u32) -> RouteFact {
        let device = (!device.is_empty()).then(|| device.to_owned());
        RouteFact { prefix: prefix.parse().unwrap(), device, metric }
    }

    fn facts(taken: Option<RouteFact>, others: Vec<RouteFact>, has_ours: bool) -> RouteFacts {
        let prefix = PrefixFacts {
            prefix: "10.2.0.0/24".parse().unwrap(),
            peer: "syracuse".to_owned(),
            address: "10.2.0.1".parse().unwrap(),
            is_withdrawn: false,
            taken,
            others,
            has_ours,
        };
        RouteFacts { device: "ow0".to_owned(), mtu_wanted: 1500, tun: Some((1500, true)), prefixes: Ok(vec![prefix]) }
    }

    fn ours() -> Option<RouteFact> {
        Some(route("10.2.0.0/24", "ow0", 0))
    }

    #[test]
    fn a_prefix_that_leads_into_the_device_is_well_whatever_worse_routes_there_are() {
        for others in [vec![], vec![route("10.2.0.0/24", "wan0", 1000), route("10.2.0.0/24", "", u32::MAX)]] {
            let findings = judge(&facts(ours(), others, true));
            assert!(findings.len() == 1 && findings[0].level == Level::Ok, "{findings:?}");
        }
        let mut withdrawn = facts(Some(route("10.2.0.0/24", "wan0", 1000)), vec![], false);
        withdrawn.prefixes.as_mut().unwrap()[0].is_withdrawn = true;
        assert_eq!(judge(&withdrawn)[0].level, Level::Ok);
        withdrawn.prefixes.as_mut().unwrap()[0].taken = None;
        assert!(judge(&withdrawn)[0].remedies[0].contains("metric 1000"));
    }

    #[test]
    fn a_route_that_leads_elsewhere_is_a_fault_with_its_command() {
        let part = route("10.2.0.0/25", "wan0", 5);
        let same = route("10.2.0.0/24", "wan0", 0);
        let default = route("0.0.0.0/0", "wan0", 0);
        for (taken, others, has_ours, remedy) in [
            (Some(part.clone()), vec![part], true, "ip route del 10.2.0.0/25 dev wan0 metric 5"),
            (Some(same.clone()), vec![same], false, "ip route del 10.2.0.0/24 dev wan0`"),
            (Some(default.clone()), vec![], true, "ip rule"),
            (Some(default), vec![], false, "our own route is missing"),
            (None, vec![], true, "ip rule"),
            (None, vec![route("10.2.0.0/24", "", 0)], false, "ip route del 10.2.0.0/24`"),
            (None, vec![], false, "our own route is missing"),
        ] {
            let findings = judge(&facts(taken, others, has_ours));
            assert!(findings.len() == 1 && findings[0].level == Level::Fault, "{findings:?}");
            assert!(findings[0].remedies[0].contains(remedy), "{remedy}: {findings:?}");
        }
    }

    #[test]
    fn a_route_to_a_part_of_a_prefix_is_a_warning() {
        let findings = judge(&facts(ours(), vec![route("10.2.0.128/25", "eth1", 9)], true));
        assert!(findings.len() == 1 && findings[0].level == Level::Warning, "{findings:?}");
        assert!(findings[0].remedies[0].contains("ip route del 10.2.0.128/25 dev eth1 metric 9"), "{findings:?}");
    }

    #[test]
    fn a_device_that_is_down_or_has_another_mtu_is_named_with_its_command() {
        let down = RouteFacts { tun: Some((1500, false)), ..facts(None, vec![], false) };
        assert!(judge(&down)[0].level == Level::Fault && judge(&down)[0].remedies[0].contains("ip link set ow0 up"));
        let narrow = RouteFacts { tun: Some((1300, true)), ..facts(ours(), vec![], true) };
        let found = judge(&narrow).pop().unwrap();
        assert!(found.level == Level::Warning && found.remedies[0].contains("ip link set ow0 mtu 1500"), "{found:?}");
    }

    #[test]
    fn before_the_start_what_would_be_in_the_way_is_a_fault() {
        let none = |others| RouteFacts { tun: None, ..facts(Some(route("0.0.0.0/0", "wan0", 0)), others, false) };
        assert_eq!(judge(&none(vec![]))[0].level, Level::Unseen);
        assert_eq!(judge(&none(vec![route("10.2.0.0/24", "wan0", 1000)]))[0].level, Level::Unseen, "the plain route");
        let clash = judge(&none(vec![route("10.2.0.0/24", "wan0", 0)]));
        assert!(clash[0].level == Level::Fault && clash[0].remedies[0].contains("larger metric"), "{clash:?}");
        assert_eq!(judge(&none(vec![route("10.2.0.7/32", "wan0", 50)]))[0].level, Level::Warning);
    }
}
