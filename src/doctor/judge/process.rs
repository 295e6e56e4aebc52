//! The configuration, key files, privileges, the TUN device, socket buffers and the clock.

use std::io::ErrorKind;

use crate::doctor::facts::{Configuration, KeyFile, ProcessFacts};
use crate::doctor::finding::Finding;
use crate::io::clock::ClockState;

/// Whether the configuration can be used.
pub fn configuration(configuration: &Configuration) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    vec![match configuration {
        Configuration::Good(config) => {
            let count = config.warnings.len();
            let words = format!("good, with {}", if count == 1 { "a warning" } else { "warnings" });
            match count {
                0 => Finding::ok(CHECK, "good, and its keys can be read"),
                _ => Finding::warning(CHECK, words).remedy("`onwire check FILE` shows them"),
            }
        }
        Configuration::Bad(text) => {
            let first = text.lines().next().unwrap_or_default();
            Finding::fault(CHECK, format!("it cannot be used: {first}"))
                .remedy("`onwire check FILE` shows everything that is wrong")
        }
        Configuration::Denied(cause) => {
            Finding::unseen(CHECK, format!("{cause}: routes, devices and peers are not examined"))
                .remedy("run this as root, or as the user that runs the appliance: `sudo onwire doctor`")
        }
        Configuration::None(cause) => {
            Finding::unseen(CHECK, format!("{cause}: routes, devices and peers are not examined"))
                .remedy("`onwire doctor --config FILE`")
        }
    }]
}

/// The rest, but for the clock.
pub fn judge(facts: &ProcessFacts) -> Vec<Finding> {
    let mut findings = vec![tun(facts), privileges(facts)];
    findings.extend(keys(facts));
    findings.push(buffers(facts));
    findings
}

fn tun(facts: &ProcessFacts) -> Finding {
    const CHECK: &str = "tun";
    match facts.tun {
        Ok(()) => Finding::ok(CHECK, "/dev/net/tun can be opened"),
        // A running appliance has opened it, whatever this user may.
        Err(ErrorKind::PermissionDenied) if facts.appliance_capabilities.is_some() => {
            Finding::ok(CHECK, "the appliance has opened /dev/net/tun, which this user may not")
        }
        Err(ErrorKind::PermissionDenied) => Finding::warning(CHECK, "this user may not open /dev/net/tun")
            .remedy("`chmod 666 /dev/net/tun`, as most systems have it, where the appliance's user is not root"),
        Err(_) => Finding::fault(CHECK, "there is no /dev/net/tun, without which no appliance starts")
            .remedy("`modprobe tun`, and `echo tun > /etc/modules-load.d/tun.conf` for the next start of the host")
            .remedy("in a container: give it the device (`--device /dev/net/tun`)"),
    }
}

fn privileges(facts: &ProcessFacts) -> Finding {
    const CHECK: &str = "privileges";
    const NEEDED: &str = "CAP_NET_ADMIN";
    match (&facts.appliance_capabilities, facts.is_admin) {
        (Some(has), _) if !has.iter().any(|name| name == NEEDED) => Finding::warning(
            CHECK,
            format!("the appliance runs without {NEEDED}: it cannot restore routes that others remove"),
        )
        .remedy(format!("AmbientCapabilities={NEEDED} in its unit, as in config/onwire@.service; then restart it")),
        (Some(_), true) => Finding::ok(CHECK, format!("the appliance has {NEEDED}, and so has this user")),
        (Some(_), false) => {
            Finding::unseen(CHECK, format!("this user is without {NEEDED}: rules of a firewall are not seen"))
                .remedy("`sudo onwire doctor`")
        }
        (None, true) => Finding::ok(CHECK, format!("this user has {NEEDED}, which the appliance needs")),
        (None, false) => Finding::unseen(
            CHECK,
            format!("this user is without {NEEDED}, which the appliance needs; rules of a firewall are not seen"),
        )
        .remedy("`sudo onwire doctor`"),
    }
}

/// Whether the user of the appliance can read its keys. That no other can is a matter of the configuration.
fn keys(facts: &ProcessFacts) -> Option<Finding> {
    const CHECK: &str = "keys";
    let (id, name) = facts.service_user.as_ref()?;
    let is_foreign = |file: &&KeyFile| *id != 0 && file.owner.is_some_and(|owner| owner != *id);
    let foreign: Vec<&KeyFile> = facts.key_files.iter().filter(is_foreign).collect();
    let Some(first) = foreign.first() else {
        let count = facts.key_files.len();
        return (count > 0)
            .then(|| Finding::ok(CHECK, format!("of {count} key files each belongs to {name}, who reads it")));
    };
    let (shown, owner) = (first.path.display(), first.owner.unwrap_or_default());
    let words = format!("{shown} belongs to user {owner}, and {name}, who runs the appliance, cannot read it");
    let finding = match facts.appliance_capabilities {
        Some(_) => Finding::fault(CHECK, format!("{words} when it starts or reloads")),
        None => Finding::warning(CHECK, format!("{words}, if the unit onwire@ runs it")),
    };
    Some(
        foreign
            .iter()
            .fold(finding, |finding, file| finding.remedy(format!("`chown {name}: {}`", file.path.display()))),
    )
}

fn buffers(facts: &ProcessFacts) -> Finding {
    const CHECK: &str = "buffers";
    let wanted = facts.buffer_wanted;
    let known = facts.buffer_max.iter().flatten().min();
    let is_privileged =
        facts.appliance_capabilities.as_ref().is_none_or(|has| has.iter().any(|name| name == "CAP_NET_ADMIN"));
    match known {
        Some(least) if *least >= wanted => {
            Finding::ok(CHECK, format!("sockets may have {wanted} bytes, as the appliance asks for"))
        }
        Some(least) if is_privileged => Finding::ok(
            CHECK,
            format!("with CAP_NET_ADMIN sockets have the {wanted} bytes that the appliance asks for; without, {least}"),
        ),
        None if is_privileged => Finding::ok(CHECK, format!("with CAP_NET_ADMIN sockets have {wanted} bytes")),
        Some(least) => Finding::warning(
            CHECK,
            format!("sockets get {least} bytes of the {wanted} that the appliance asks for: bursts may overflow them"),
        )
        .remedy(format!("`sysctl -w net.core.rmem_max={wanted} net.core.wmem_max={wanted}`, and restart the appliance"))
        .remedy("or run it with CAP_NET_ADMIN, which it needs for routes in any case"),
        None => Finding::unseen(CHECK, "net.core.rmem_max and wmem_max cannot be read here"),
    }
}

/// The wall clock; `jumped`: it was set by so many seconds while it was looked at.
pub fn clock(state: Result<ClockState, String>, jumped: Option<f64>) -> Vec<Finding> {
    const CHECK: &str = "clock";
    const WHY: &str = "a peer refuses new sessions after a clock was set back";
    let keep = "`timedatectl set-ntp true`, or run chrony or ntpd";
    if let Some(seconds) = jumped {
        let words = format!("it was set by {seconds:+.3} s while this looked at it: {WHY}");
        return vec![
            Finding::warning(CHECK, words).remedy("find out what sets it; let one program keep it, and slew it"),
        ];
    }
    vec![match state {
        Ok(ClockState { is_synchronised: true, error_max }) => {
            Finding::ok(CHECK, format!("synchronised, wrong by {} ms at most", error_max.as_millis().max(1)))
        }
        Ok(ClockState { is_synchronised: false, .. }) => {
            Finding::warning(CHECK, format!("nothing keeps it, as far as the kernel knows: {WHY}")).remedy(keep)
        }
        Err(error) => Finding::unseen(CHECK, format!("the kernel does not tell of it: {error}")),
    }]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::doctor::finding::Level;

    fn well() -> ProcessFacts {
        ProcessFacts {
            tun: Ok(()),
            is_admin: true,
            appliance_capabilities: Some(vec!["CAP_NET_ADMIN".to_owned()]),
            service_user: Some((997, "onwire".to_owned())),
            key_files: vec![KeyFile { path: "/etc/onwire/ithaca.key".into(), owner: Some(997) }],
            buffer_max: [Some(212_992); 2],
            buffer_wanted: 8 << 20,
        }
    }

    /// The one finding that is not good.
    fn bad(facts: &ProcessFacts) -> Finding {
        let mut findings = judge(facts);
        findings.retain(|finding| finding.level != Level::Ok);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn a_process_that_is_well_has_no_finding_but_good_ones() {
        assert!(judge(&well()).iter().all(|finding| finding.level == Level::Ok && finding.remedies.is_empty()));
    }

    #[test]
    fn each_fault_of_a_process_is_named_with_its_remedy() {
        let none = ProcessFacts { tun: Err(ErrorKind::NotFound), ..well() };
        let found = bad(&none);
        assert!(found.level == Level::Fault && found.remedies[0].contains("modprobe tun"), "{found:?}");
        let stopped = ProcessFacts { appliance_capabilities: None, ..well() };
        let denied = ProcessFacts { tun: Err(ErrorKind::PermissionDenied), ..stopped.clone() };
        assert_eq!((bad(&denied).check, bad(&denied).level), ("tun", Level::Warning));
        let user = ProcessFacts { is_admin: false, ..well() };
        assert_eq!((bad(&user).check, bad(&user).level), ("privileges", Level::Unseen));
        let poor = ProcessFacts { appliance_capabilities: Some(vec![]), buffer_max: [Some(8 << 20); 2], ..well() };
        assert_eq!((bad(&poor).check, bad(&poor).level), ("privileges", Level::Warning));

        let root_key = vec![KeyFile { path: "/etc/onwire/ithaca.key".into(), owner: Some(0) }];
        for (appliance, level) in [(well().appliance_capabilities, Level::Fault), (None, Level::Warning)] {
            let found = bad(&ProcessFacts { key_files: root_key.clone(), appliance_capabilities: appliance, ..well() });
            assert_eq!((found.check, found.level), ("keys", level));
            assert_eq!(found.remedies, ["`chown onwire: /etc/onwire/ithaca.key`"]);
        }
        let root = ProcessFacts { key_files: root_key, service_user: Some((0, "root".to_owned())), ..well() };
        assert!(judge(&root).iter().all(|finding| finding.level != Level::Fault), "it reads its own");

        let small = ProcessFacts { appliance_capabilities: Some(vec![]), ..well() };
        let found = judge(&small).into_iter().find(|finding| finding.check == "buffers").unwrap();
        assert!(found.level == Level::Warning && found.remedies[0].contains("net.core.rmem_max=8388608"), "{found:?}");
    }

    #[test]
    fn a_clock_that_nothing_keeps_or_that_jumps_is_a_warning() {
        let state = |is_synchronised| Ok(ClockState { is_synchronised, error_max: Duration::ZERO });
        assert_eq!(clock(state(true), None)[0].level, Level::Ok);
        let free = &clock(state(false), None)[0];
        assert!(free.level == Level::Warning && free.remedies[0].contains("timedatectl"), "{free:?}");
        let jumped = &clock(state(true), Some(-1.5))[0];
        assert!(jumped.level == Level::Warning && jumped.found.contains("-1.500 s"), "{jumped:?}");
        assert_eq!(clock(Err("no".to_owned()), None)[0].level, Level::Unseen);
    }

    #[test]
    fn a_configuration_that_cannot_be_used_is_a_fault_and_one_that_is_hidden_is_not() {
        let level = |configuration: Configuration| configuration_level(&configuration);
        assert_eq!(level(Configuration::Bad("a.yaml:1:1: node: missing\n  more".into())), Level::Fault);
        assert_eq!(level(Configuration::Denied("x".into())), Level::Unseen);
        assert_eq!(level(Configuration::None("x".into())), Level::Unseen);
    }

    fn configuration_level(of: &Configuration) -> Level {
        configuration(of)[0].level
    }
}
