//! The devices that lead to the peers: their queues, timestamps, offloads, and their MTU.

use std::collections::BTreeSet;

use crate::doctor::facts::UplinkFacts;
use crate::doctor::finding::Finding;

/// What follows for each device, and for each peer where it has none.
pub fn judge(facts: &[UplinkFacts]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for uplink in facts {
        let egress = match (&uplink.egress, &uplink.to) {
            (Ok(egress), _) => egress,
            (Err(cause), Err(_)) => {
                findings.push(Finding::unseen("uplink", format!("{}: {cause}", uplink.peer)));
                continue;
            }
            (Err(cause), Ok(to)) => {
                let words = format!("{} is not reached: {cause}", uplink.peer);
                findings.push(
                    Finding::fault("uplink", words).remedy(format!("`ip route get {}`, and a route to it", to.ip())),
                );
                continue;
            }
        };
        if egress.device == uplink.tun {
            let words = format!("datagrams to {} would go into {}, and so come in again", uplink.peer, uplink.tun);
            findings.push(Finding::fault("uplink", words).remedy(format!(
                "its address must be outside of `peers[].prefixes`, or have a route of its own beside {}",
                uplink.tun
            )));
            continue;
        }
        findings.extend(mtu(uplink));
        if seen.insert(egress.device.clone()) {
            findings.push(queue(uplink, &egress.device, &egress.qdisc, egress.may_drop_silently()));
            findings.extend(timestamps(uplink, &egress.device));
            findings.extend(offload(uplink, &egress.device));
        }
    }
    findings
}

fn mtu(uplink: &UplinkFacts) -> Option<Finding> {
    let (mtu, egress) = (uplink.mtu?, uplink.egress.as_ref().ok()?);
    let (device, peer, datagram) = (&egress.device, &uplink.peer, uplink.datagram);
    (mtu < u32::from(datagram)).then(|| {
        Finding::fault(
            "mtu",
            format!("{device}, by which {peer} is reached, has MTU {mtu}, and datagrams have up to {datagram} bytes"),
        )
        .remedy(format!("`path: {{ mtu: {mtu} }}` for {peer} here and for this node there, and restart both"))
        .remedy(format!("or, if the network carries it, `ip link set {device} mtu {datagram}`"))
    })
}

fn queue(uplink: &UplinkFacts, device: &str, qdisc: &str, drops: bool) -> Finding {
    const CHECK: &str = "qdisc";
    match (drops, uplink.needs_timestamps) {
        (true, Some(_)) => Finding::warning(
            CHECK,
            format!(
                "{device} has the queue {qdisc}, which may drop datagrams that it has taken: nothing is protected \
                 for a while then"
            ),
        )
        .remedy(format!(
            "`tc qdisc replace dev {device} root fq`, and where the network is configured, so that it \
             stays"
        )),
        (true, None) => Finding::ok(
            CHECK,
            format!(
                "{device}: {qdisc} (it may drop what it has taken; without `notify` \
             nobody relies on that)"
            ),
        ),
        (false, _) => Finding::ok(CHECK, format!("{device}: {qdisc}")),
    }
}

fn timestamps(uplink: &UplinkFacts, device: &str) -> Option<Finding> {
    const CHECK: &str = "timestamps";
    if uplink.needs_timestamps != Some(true) {
        return None;
    }
    let words = "nothing is called protected by having left this host";
    let queued = "`notify: { level: queued }` says honestly what is known then, and gates with `level: queued` go on";
    Some(match (&uplink.timestamps, uplink.features.and_then(|features| features.transmit_timestamps)) {
        (Err(cause), _) => Finding::fault(CHECK, format!("this system gives no timestamps ({cause}): {words}"))
            .remedy("a kernel that has them (SOF_TIMESTAMPING_TX_SOFTWARE)")
            .remedy(queued),
        // A few drivers give them and do not say so.
        (Ok(()), Some(false)) => {
            Finding::warning(CHECK, format!("by its driver {device} gives no timestamps: {words}"))
                .remedy("another driver or device: `ethtool -T` shows software-transmit where it works")
                .remedy(queued)
        }
        (Ok(()), Some(true)) => Finding::ok(CHECK, format!("{device} gives them")),
        (Ok(()), None) => Finding::unseen(CHECK, format!("the driver of {device} does not say whether it gives them")),
    })
}

fn offload(uplink: &UplinkFacts, device: &str) -> Option<Finding> {
    let features = uplink.features?;
    let is_slow = uplink.is_hardware && features.receive_offload == Some(false);
    is_slow.then(|| {
        Finding::warning(
            "offload",
            format!("{device} does not put received datagrams together (GRO): each costs a call"),
        )
        .remedy(format!("`ethtool -K {device} gro on`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use crate::io::ethtool::Features;
    use crate::io::qdisc::Egress;

    fn uplink(qdisc: &str) -> UplinkFacts {
        UplinkFacts {
            peer: "syracuse".to_owned(),
            to: Ok("192.0.2.2:7117".parse().unwrap()),
            from: None,
            egress: Ok(Egress::made("wan0", qdisc)),
            mtu: Some(1500),
            datagram: 1480,
            features: Some(Features { receive_offload: Some(true), transmit_timestamps: Some(true) }),
            is_hardware: true,
            tun: "ow0".to_owned(),
            needs_timestamps: Some(true),
            timestamps: Ok(()),
        }
    }

    fn bad(facts: UplinkFacts) -> Finding {
        let mut findings = judge(&[facts]);
        findings.retain(|finding| finding.level != Level::Ok);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn a_device_that_is_well_is_named_once_for_all_its_peers() {
        let findings = judge(&[uplink("fq"), UplinkFacts { peer: "utica".to_owned(), ..uplink("fq") }]);
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
        assert_eq!(findings.iter().filter(|finding| finding.check == "qdisc").count(), 1);
        let silent = UplinkFacts { needs_timestamps: None, timestamps: Err("no".into()), ..uplink("fq_codel") };
        assert!(judge(&[silent]).iter().all(|finding| finding.level == Level::Ok), "nobody relies on what has left");
    }

    #[test]
    fn each_fault_of_a_device_is_named_with_its_remedy() {
        let off = Features { receive_offload: Some(false), transmit_timestamps: Some(true) };
        let blind = Features { transmit_timestamps: Some(false), ..uplink("fq").features.unwrap() };
        let unknown = Features { transmit_timestamps: None, ..blind };
        let base = || uplink("fq");
        for (facts, check, level, remedy) in [
            (uplink("fq_codel"), "qdisc", Level::Warning, "tc qdisc replace dev wan0 root fq"),
            (UplinkFacts { mtu: Some(1400), ..base() }, "mtu", Level::Fault, "mtu: 1400"),
            (UplinkFacts { timestamps: Err("off".into()), ..base() }, "timestamps", Level::Fault, "kernel"),
            (UplinkFacts { features: Some(blind), ..base() }, "timestamps", Level::Warning, "ethtool -T"),
            (UplinkFacts { features: Some(off), ..base() }, "offload", Level::Warning, "ethtool -K wan0 gro on"),
            (UplinkFacts { tun: "wan0".into(), ..base() }, "uplink", Level::Fault, "outside of `peers[].prefixes`"),
            (
                UplinkFacts { egress: Err("no route".into()), ..base() },
                "uplink",
                Level::Fault,
                "ip route get 192.0.2.2",
            ),
        ] {
            let found = bad(facts);
            assert_eq!((found.check, found.level), (check, level), "{found:?}");
            assert!(found.remedies[0].contains(remedy), "{found:?}");
        }
        let unsaid = bad(UplinkFacts { features: Some(unknown), ..base() });
        assert_eq!((unsaid.check, unsaid.level), ("timestamps", Level::Unseen));
        let unnamed = UplinkFacts { to: Err("no endpoint".into()), egress: Err("no endpoint".into()), ..base() };
        assert_eq!(bad(unnamed).level, Level::Unseen);
        let virtual_device = UplinkFacts { is_hardware: false, features: Some(off), ..base() };
        assert!(judge(&[virtual_device]).iter().all(|finding| finding.level == Level::Ok));
    }
}
