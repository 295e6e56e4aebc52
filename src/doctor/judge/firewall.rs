//! Whether chains of the firewall drop what is forwarded between the site and the TUN device.
//!
//! A rule set is a program; this does not run it. It finds chains at the forward hook that drop what no rule of their
//! table admits, and looks for rules that admit our device or our prefixes. What it cannot tell is a warning and no
//! fault.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::doctor::facts::FirewallFacts;
use crate::doctor::finding::Finding;

const CHECK: &str = "firewall";

/// What follows of the rules.
pub fn judge(facts: &FirewallFacts) -> Vec<Finding> {
    if !facts.matters {
        return vec![Finding::ok(CHECK, "this host forwards for no other: its forward chain does not matter")];
    }
    let rules = match &facts.rules {
        Ok(rules) => rules,
        Err(cause) => {
            return vec![
                Finding::unseen(CHECK, format!("{cause}: whether a forward chain drops packets is not known")).remedy(
                    "run this as root, with nft (`apt-get install nftables`); or look at `iptables -S FORWARD`",
                ),
            ];
        }
    };
    let objects = rules.get("nftables").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let chains = objects.iter().filter_map(|object| Chain::of(object.get("chain")?));
    let mut findings: Vec<Finding> = chains.filter_map(|chain| chain.finding(objects, facts)).collect();
    if facts.legacy_tables.iter().any(|table| table == "filter") {
        findings.push(
            Finding::unseen(CHECK, "this host has a table of the older iptables, which nft does not show").remedy(
                format!(
                    "`iptables-legacy -S FORWARD`: -P FORWARD DROP needs -A FORWARD -i {0} and -o {0} -j ACCEPT",
                    facts.device
                ),
            ),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("no forward chain drops what {} brings or takes", facts.device)));
    }
    findings
}

/// A chain at the forward hook.
struct Chain<'a> {
    family: &'a str,
    table: &'a str,
    name: &'a str,
    /// Its policy is to drop.
    is_closed: bool,
}

impl<'a> Chain<'a> {
    fn of(chain: &'a Value) -> Option<Self> {
        let text = |key: &str| chain.get(key).and_then(Value::as_str);
        let is_forward = text("hook") == Some("forward") && text("type") == Some("filter");
        let family = text("family").filter(|family| matches!(*family, "ip" | "ip6" | "inet"))?;
        is_forward.then_some(Self {
            family,
            table: text("table")?,
            name: text("name")?,
            is_closed: text("policy") == Some("drop"),
        })
    }

    fn finding(&self, objects: &[Value], facts: &FirewallFacts) -> Option<Finding> {
        let (theirs, locals) = &facts.prefixes;
        let is_of_family = |prefix: &&IpNetwork| match self.family {
            "ip" => prefix.is_ipv4(),
            "ip6" => prefix.is_ipv6(),
            _ => true,
        };
        if !theirs.is_empty() && !theirs.iter().any(|prefix| is_of_family(&prefix)) {
            return None;
        }
        let rules: Vec<Rule<'_>> = objects.iter().filter_map(|object| Rule::of(object.get("rule")?, self)).collect();
        let closes = |rule: &Rule<'_>| rule.chain == self.name && rule.drops() && rule.matches().next().is_none();
        if !self.is_closed && !rules.iter().any(closes) {
            return None;
        }
        let admits = |key: &str, source: &[IpNetwork], destination: &[IpNetwork]| {
            rules.iter().filter(|rule| rule.accepts()).any(|rule| rule.admits(key, &facts.device, source, destination))
        };
        let (comes, goes) = (admits("iif", theirs, locals), admits("oif", locals, theirs));
        if comes && goes {
            return None;
        }
        let which = match (comes, goes) {
            (true, false) => "goes to",
            (false, true) => "comes from",
            _ => "passes",
        };
        let Self { family, table, name, .. } = self;
        let device = &facts.device;
        let words = format!(
            "chain {name} of table {family} {table} drops what is forwarded, and no rule of that table admits what \
                 {which} {device}"
        );
        let insert = |key: &str| {
            format!(
                "`nft insert rule {family} {table} {name} {key} \"{device}\" accept`, and in the firewall's own file"
            )
        };
        let mut finding = Finding::warning(CHECK, words);
        if !comes {
            finding = finding.remedy(insert("iifname"));
        }
        if !goes {
            finding = finding.remedy(insert("oifname"));
        }
        Some(finding)
    }
}

/// A rule of the table of such a chain; others of its chains are reached by jumps.
struct Rule<'a> {
    chain: &'a str,
    parts: &'a [Value],
}

impl<'a> Rule<'a> {
    fn of(rule: &'a Value, chain: &Chain<'_>) -> Option<Self> {
        let text = |key: &str| rule.get(key).and_then(Value::as_str);
        let is_in = text("family") == Some(chain.family) && text("table") == Some(chain.table);
        let parts = rule.get("expr")?.as_array()?;
        is_in.then_some(Self { chain: text("chain")?, parts })
    }

    fn accepts(&self) -> bool {
        self.parts.iter().any(|part| part.get("accept").is_some())
    }

    fn drops(&self) -> bool {
        self.parts.iter().any(|part| part.get("drop").is_some() || part.get("reject").is_some())
    }

    /// What must hold for the rule: the left side, and the right side if it is asked for equality.
    fn matches(&self) -> impl Iterator<Item = (&'a Value, Option<&'a Value>)> {
        self.parts.iter().filter_map(|part| {
            let of = part.get("match")?;
            let is_equal = of.get("op").and_then(Value::as_str).is_none_or(|op| op == "==" || op == "in");
            Some((of.get("left")?, of.get("right").filter(|_| is_equal)))
        })
    }

    /// It admits what passes the device in this direction (`iif`, `oif`), or between these networks; other conditions
    /// it may have are taken to hold, but for the state of a connection: that admits answers alone.
    fn admits(&self, key: &str, device: &str, source: &[IpNetwork], destination: &[IpNetwork]) -> bool {
        let mut is_ours = false;
        for (left, right) in self.matches() {
            let field =
                |of: &str, name: &str| left.get(of).and_then(|of| of.get(name)).and_then(Value::as_str).unwrap_or("");
            let meta = field("meta", "key");
            let address = field("payload", "field");
            if field("ct", "key") == "state" && !says(right, &|value| value.as_str() == Some("new")) {
                return false;
            }
            if meta.starts_with("iif") || meta.starts_with("oif") {
                if meta.starts_with(key) {
                    if !says(right, &|value| value.as_str().is_some_and(|name| is_name(name, device))) {
                        return false;
                    }
                    is_ours = true;
                }
            } else if address == "saddr" || address == "daddr" {
                let networks = if address == "saddr" { source } else { destination };
                if !says(right, &|value| networks.iter().any(|network| covers(value, *network))) {
                    return false;
                }
                is_ours = true;
            }
        }
        // Without any condition it admits everything.
        is_ours || self.matches().next().is_none()
    }
}

/// A value, or one of a set of them, is such.
fn says(value: Option<&Value>, is: &dyn Fn(&Value) -> bool) -> bool {
    let Some(value) = value else { return false };
    let several = value.get("set").and_then(Value::as_array).or(value.as_array());
    is(value) || several.is_some_and(|values| values.iter().any(is))
}

/// The name of a device, or the beginning of names before a star.
fn is_name(pattern: &str, device: &str) -> bool {
    pattern == device || pattern.strip_suffix('*').is_some_and(|start| device.starts_with(start))
}

/// The value is an address or a prefix that holds part of this network.
fn covers(value: &Value, network: IpNetwork) -> bool {
    let prefix = value.get("prefix");
    let address = prefix.and_then(|prefix| prefix.get("addr")).or(Some(value)).and_then(Value::as_str);
    let Some(address) = address.and_then(|text| text.parse::<IpAddr>().ok()) else { return false };
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let length = prefix
        .and_then(|prefix| prefix.get("len"))
        .and_then(Value::as_u64)
        .and_then(|length| u8::try_from(length).ok());
    IpNetwork::new(address, length.unwrap_or(whole))
        .is_ok_and(|rule| rule.contains(network.network()) || network.contains(rule.network()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::finding::Level;

    fn facts(objects: Vec<Value>) -> FirewallFacts {
        let prefixes = |text: &str| vec![text.parse().unwrap()];
        FirewallFacts {
            device: "ow0".to_owned(),
            matters: true,
            prefixes: (prefixes("10.2.0.0/24"), prefixes("10.1.0.0/24")),
            rules: Ok(json!({ "nftables": objects })),
            legacy_tables: Vec::new(),
        }
    }

    fn chain(policy: &str) -> Value {
        json!({ "chain": { "family": "inet", "table": "filter", "name": "forward", "type": "filter", "hook": "forward",
            "prio": 0, "policy": policy } })
    }

    fn rule(expr: Value) -> Value {
        json!({ "rule": { "family": "inet", "table": "filter", "chain": "forward", "expr": expr } })
    }

    fn of_device(key: &str, right: Value) -> Value {
        json!({ "match": { "op": "==", "left": { "meta": { "key": key } }, "right": right } })
    }

    fn of_address(field: &str, address: &str) -> Value {
        let right = json!({ "prefix": { "addr": address, "len": 24 } });
        json!({ "match": { "op": "==", "left": { "payload": { "protocol": "ip", "field": field } }, "right": right } })
    }

    #[test]
    fn an_open_chain_is_well_and_so_is_one_that_admits_the_device() {
        let accept = json!({ "accept": null });
        let established = json!({ "match": { "op": "in", "left": { "ct": { "key": "state" } },
            "right": ["established", "related"] } });
        let both =
            |one: Value, other: Value| vec![chain("drop"), rule(json!([one, accept])), rule(json!([other, accept]))];
        for objects in [
            vec![],
            vec![chain("accept")],
            both(of_device("iifname", json!("ow0")), of_device("oifname", json!({ "set": ["ow0", "eth1"] }))),
            both(of_device("iif", json!("ow0")), of_device("oifname", json!("ow*"))),
            both(of_address("saddr", "10.2.0.0"), of_address("daddr", "10.2.0.0")),
            vec![chain("drop"), rule(json!([accept]))],
            both(established.clone(), of_device("iifname", json!("x")))
                .into_iter()
                .chain(both(of_device("iifname", json!("ow0")), of_device("oifname", json!("ow0"))))
                .collect(),
        ] {
            let findings = judge(&facts(objects.clone()));
            assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{objects:?}: {findings:?}");
        }
        let alone = FirewallFacts { matters: false, ..facts(vec![chain("drop")]) };
        assert_eq!(judge(&alone)[0].level, Level::Ok);
    }

    #[test]
    fn a_chain_that_drops_is_a_warning_with_the_rules_that_are_missing() {
        let accept = json!({ "accept": null });
        let comes = rule(json!([of_device("iifname", json!("ow0")), accept]));
        let established = rule(json!([{ "match": { "op": "in", "left": { "ct": { "key": "state" } },
            "right": ["established", "related"] } }, accept]));
        let other = rule(json!([of_device("iifname", json!("eth0")), accept]));
        let unequal = rule(
            json!([{ "match": { "op": "!=", "left": { "meta": { "key": "iifname" } }, "right": "ow0" } }, accept]),
        );
        for (objects, missing) in [
            (vec![chain("drop")], vec!["iifname", "oifname"]),
            (vec![chain("drop"), established], vec!["iifname", "oifname"]),
            (vec![chain("drop"), other], vec!["iifname", "oifname"]),
            (vec![chain("drop"), unequal], vec!["iifname", "oifname"]),
            (vec![chain("drop"), comes], vec!["oifname"]),
            (vec![chain("accept"), rule(json!([{ "reject": { "type": "icmpx" } }]))], vec!["iifname", "oifname"]),
        ] {
            let findings = judge(&facts(objects.clone()));
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].level, Level::Warning, "{objects:?}");
            let wanted = |key: &str| format!("nft insert rule inet filter forward {key} \"ow0\" accept");
            let remedies = &findings[0].remedies;
            assert!(missing.iter().zip(remedies).all(|(key, remedy)| remedy.contains(&wanted(key))), "{remedies:?}");
            assert_eq!(remedies.len(), missing.len(), "{remedies:?}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_said() {
        let hidden = FirewallFacts { rules: Err("nft is not installed".to_owned()), ..facts(vec![]) };
        assert_eq!(judge(&hidden)[0].level, Level::Unseen);
        let legacy = FirewallFacts { legacy_tables: vec!["filter".to_owned()], ..facts(vec![]) };
        assert_eq!(judge(&legacy)[0].level, Level::Unseen);
        // Another shape than this version knows is no panic, and no fault.
        for rules in [json!(null), json!({ "nftables": [{ "chain": 7 }, { "rule": [] }] })] {
            assert_eq!(judge(&FirewallFacts { rules: Ok(rules), ..facts(vec![]) })[0].level, Level::Ok);
        }
    }
}
