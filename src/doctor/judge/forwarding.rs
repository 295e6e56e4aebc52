//! Whether this host forwards packets, and whether its filter of reverse paths lets them pass.

use super::join;
use crate::appliance::host::route_trouble::forwarding_key;
use crate::doctor::facts::{DeviceFacts, FamilyFacts, ForwardingFacts};
use crate::doctor::finding::Finding;

/// What follows for both.
pub fn judge(facts: &ForwardingFacts) -> Vec<Finding> {
    let mut findings = forwarding(facts);
    findings.extend(rp_filter(facts));
    findings
}

fn forwarding(facts: &ForwardingFacts) -> Vec<Finding> {
    const CHECK: &str = "forwarding";
    let named = facts.families.iter().zip([("IPv4", false), ("IPv6", true)]);
    let mut findings: Vec<Finding> =
        named.filter_map(|(family, (name, is_v6))| family_finding(family, name, is_v6)).collect();
    let [v4, _] = &facts.families;
    // The switch of the host sets that of each device; somebody has taken this one back.
    let is_off = |device: &&DeviceFacts| device.forwards == Some(false);
    let off: Vec<&DeviceFacts> = facts.devices.iter().filter(is_off).collect();
    if v4.is_used && v4.has_others && v4.forwards == Some(true) && !off.is_empty() {
        let names = join(off.iter().map(|device| &device.name));
        let finding = Finding::fault(CHECK, format!("this host forwards IPv4, but not what comes in by {names}"));
        let sysctl =
            |device: &&DeviceFacts| format!("`sysctl -w net.ipv4.conf.{}.forwarding=1`", device.name.replace('.', "/"));
        findings.push(off.iter().map(sysctl).fold(finding, Finding::remedy));
    }
    if findings.is_empty() {
        let on = |family: &FamilyFacts| match family.forwards {
            Some(true) => "on",
            Some(false) => "off",
            None => "unknown",
        };
        let [v4, v6] = facts.families.each_ref().map(on);
        findings.push(Finding::ok(CHECK, format!("as it is needed: IPv4 {v4}, IPv6 {v6}")));
    }
    findings
}

/// What is wrong with one family.
fn family_finding(family: &FamilyFacts, name: &str, is_v6: bool) -> Option<Finding> {
    const CHECK: &str = "forwarding";
    let key = forwarding_key(is_v6);
    if !family.is_used {
        return None;
    }
    let words = match (family.forwards, family.has_own, family.has_others) {
        (None, ..) => return Some(Finding::unseen(CHECK, format!("{key} cannot be read here"))),
        (Some(true), ..) | (Some(false), true, false) => return None,
        (Some(false), true, true) => {
            format!("this host does not forward {name}: of local_prefixes only its own programs reach the peers")
        }
        (Some(false), false, _) => {
            format!("this host does not forward {name} and has no address in local_prefixes: nothing reaches the peers")
        }
    };
    let keep = format!("`echo '{key} = 1' > /etc/sysctl.d/60-onwire.conf` keeps it over a restart of the host");
    let keep = if is_v6 { keep.replace("> ", ">> ") } else { keep };
    let finding = Finding::fault(CHECK, words).remedy(format!("`sysctl -w {key}=1`")).remedy(keep);
    Some(match family.has_own {
        true => {
            finding.remedy("or write this host's address alone in `node.local_prefixes`, if no other uses the tunnel")
        }
        false => finding,
    })
}

fn rp_filter(facts: &ForwardingFacts) -> Vec<Finding> {
    const CHECK: &str = "rp_filter";
    const STRICT: u8 = 1;
    let strict: Vec<&DeviceFacts> = facts.devices.iter().filter(|device| device.rp_filter == Some(STRICT)).collect();
    let dropped = facts.filtered.unwrap_or(0);
    if facts.devices.iter().all(|device| device.rp_filter.is_none()) {
        return match facts.devices.is_empty() {
            true => Vec::new(),
            false => vec![Finding::unseen(CHECK, "net.ipv4.conf.*.rp_filter cannot be read here")],
        };
    }
    let names = join(strict.iter().map(|device| &device.name));
    let words = match (strict.is_empty(), facts.withdraws_routes, dropped) {
        (true, ..) => return vec![Finding::ok(CHECK, "no device of the tunnel's path filters strictly")],
        (false, false, 0) => {
            return vec![Finding::ok(
                CHECK,
                format!("strict on {names}, and it has dropped nothing since the host's start"),
            )];
        }
        (false, true, 0) => format!(
            "strict on {names}: while one direction takes the plain route and the other the tunnel, packets are dropped"
        ),
        (false, _, dropped) => {
            format!(
                "strict on {names}, and {dropped} packets were dropped since the host's start: they came by another \
                     device \
                     than answers to them would take"
            )
        }
    };
    let loose =
        |device: &&DeviceFacts| format!("`sysctl -w net.ipv4.conf.{}.rp_filter=2`", device.name.replace('.', "/"));
    vec![strict.iter().map(loose).fold(Finding::warning(CHECK, words), Finding::remedy)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    fn worst(findings: &[Finding]) -> Level {
        findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    fn well() -> ForwardingFacts {
        let family = FamilyFacts { is_used: true, forwards: Some(true), has_others: true, has_own: true };
        let device = |name: &str| DeviceFacts { name: name.to_owned(), rp_filter: Some(2), forwards: Some(true) };
        ForwardingFacts {
            families: [family; 2],
            devices: vec![device("ow0"), device("wan0")],
            withdraws_routes: false,
            filtered: Some(0),
        }
    }

    #[test]
    fn a_host_that_forwards_is_well_and_so_is_one_that_need_not() {
        assert_eq!(worst(&judge(&well())), Level::Ok);
        let mut alone = well();
        alone.families[0] = FamilyFacts { is_used: true, forwards: Some(false), has_others: false, has_own: true };
        alone.families[1] = FamilyFacts { is_used: false, forwards: Some(false), ..FamilyFacts::default() };
        assert_eq!(worst(&judge(&alone)), Level::Ok, "{:?}", judge(&alone));
    }

    #[test]
    fn a_host_that_does_not_forward_is_a_fault_with_the_sysctl_of_its_family() {
        for (at, key) in [(0, "net.ipv4.ip_forward=1"), (1, "net.ipv6.conf.all.forwarding=1")] {
            for has_own in [true, false] {
                let mut facts = well();
                facts.families[at].forwards = Some(false);
                facts.families[at].has_own = has_own;
                let findings = judge(&facts);
                let fault = findings.iter().find(|finding| finding.level == Level::Fault).unwrap();
                assert!(fault.check == "forwarding" && fault.remedies[0].contains(key), "{fault:?}");
                assert_eq!(fault.remedies.len(), if has_own { 3 } else { 2 }, "{fault:?}");
            }
            let mut facts = well();
            facts.families[at].forwards = None;
            assert_eq!(worst(&judge(&facts)), Level::Unseen);
        }
        let mut facts = well();
        facts.devices[1].forwards = Some(false);
        let findings = judge(&facts);
        assert!(
            findings[0].level == Level::Fault && findings[0].remedies[0].contains("conf.wan0.forwarding=1"),
            "{findings:?}"
        );
    }

    #[test]
    fn a_strict_filter_is_a_warning_where_it_drops_or_will() {
        let strict = |withdraws_routes, filtered| {
            let mut facts = ForwardingFacts { withdraws_routes, filtered: Some(filtered), ..well() };
            facts.devices[1].rp_filter = Some(1);
            judge(&facts).pop().unwrap()
        };
        assert_eq!(strict(false, 0).level, Level::Ok, "both directions take the same way");
        for (withdraws, dropped) in [(true, 0), (false, 7), (true, 7)] {
            let found = strict(withdraws, dropped);
            assert_eq!((found.check, found.level), ("rp_filter", Level::Warning));
            assert_eq!(found.remedies, ["`sysctl -w net.ipv4.conf.wan0.rp_filter=2`"]);
        }
        let loose = ForwardingFacts { withdraws_routes: true, filtered: Some(9), ..well() };
        assert_eq!(judge(&loose).pop().unwrap().level, Level::Ok, "what was dropped was for another device");
    }
}
