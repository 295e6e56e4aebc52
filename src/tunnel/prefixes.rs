//! Looks up the longest prefix that contains an address.
//!
//! Two prefixes nest or are disjoint, so prefixes cut the line of all addresses into ranges that each have one answer.
//! The ranges are computed once; a lookup is one binary search, fast with two prefixes and with two thousand. The table
//! cannot be changed: a new configuration makes a new one. Whether overlapping prefixes make sense is not checked here.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// Values by prefix, IPv4 and IPv6; collected from `(IpNetwork, T)`. Of equal prefixes the last one counts.
///
/// An IPv4-mapped IPv6 address is an IPv6 address.
#[derive(Clone, Debug)]
pub struct PrefixTable<T> {
    entries: Vec<(IpNetwork, T)>,
    ipv4: Ranges,
    ipv6: Ranges,
}

impl<T> PrefixTable<T> {
    /// The value of the longest prefix that contains `address`.
    pub fn lookup(&self, address: IpAddr) -> Option<&T> {
        let owner = match address {
            IpAddr::V4(address) => self.ipv4.owner(u128::from(address.to_bits())),
            IpAddr::V6(address) => self.ipv6.owner(address.to_bits()),
        }?;
        Some(&self.entries[owner].1)
    }

    /// The prefixes and their values, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (IpNetwork, &T)> {
        self.entries.iter().map(|(prefix, value)| (*prefix, value))
    }
}

impl<T> Default for PrefixTable<T> {
    fn default() -> Self {
        Self::from_iter([])
    }
}

impl<T> FromIterator<(IpNetwork, T)> for PrefixTable<T> {
    fn from_iter<I: IntoIterator<Item = (IpNetwork, T)>>(entries: I) -> Self {
        let entries: Vec<_> = entries.into_iter().collect();
        let (mut ipv4, mut ipv6) = (vec![], vec![]);
        for (owner, (prefix, _)) in entries.iter().enumerate() {
            match (prefix.network(), prefix.broadcast()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    ipv4.push(Nested { first: u128::from(first.to_bits()), last: u128::from(last.to_bits()), owner })
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    ipv6.push(Nested { first: first.to_bits(), last: last.to_bits(), owner })
                }
                // A prefix has one IP version.
                _ => {}
            }
        }
        Self { entries, ipv4: Ranges::cut(ipv4), ipv6: Ranges::cut(ipv6) }
    }
}

/// A prefix as the addresses that it spans.
struct Nested {
    first: u128,
    last: u128,
    owner: usize,
}

/// Ranges without gaps between them: each begins at its start and ends before the next start.
#[derive(Clone, Debug)]
struct Ranges {
    starts: Vec<u128>,
    owners: Vec<Option<usize>>,
}

impl Ranges {
    fn cut(mut prefixes: Vec<Nested>) -> Self {
        // Outer before inner; the sort is stable, so of equal prefixes the last is innermost.
        prefixes.sort_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)));
        let mut ranges = Self { starts: vec![], owners: vec![] };
        let mut open: Vec<Nested> = vec![];
        for prefix in prefixes {
            while let Some(ended) = open.pop_if(|outer| outer.last < prefix.first) {
                ranges.resume_after(&ended, open.last());
            }
            ranges.begin(prefix.first, Some(prefix.owner));
            open.push(prefix);
        }
        while let Some(ended) = open.pop() {
            ranges.resume_after(&ended, open.last());
        }
        ranges
    }

    fn resume_after(&mut self, ended: &Nested, outer: Option<&Nested>) {
        // Nothing begins after the very last IPv6 address.
        if let Some(start) = ended.last.checked_add(1) {
            self.begin(start, outer.map(|outer| outer.owner));
        }
    }

    fn begin(&mut self, start: u128, owner: Option<usize>) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.owners.pop();
        }
        self.starts.push(start);
        self.owners.push(owner);
    }

    fn owner(&self, address: u128) -> Option<usize> {
        let after = self.starts.partition_point(|start| *start <= address);
        self.owners[after.checked_sub(1)?]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn table(prefixes: &[&str]) -> PrefixTable<usize> {
        prefixes.iter().enumerate().map(|(index, prefix)| (prefix.parse().unwrap(), index)).collect()
    }

    #[test]
    fn the_longest_prefix_wins_wherever_it_lies_in_the_outer_one() {
        let prefixes = [
            "10.2.0.0/16",
            "10.2.0.0/24",
            "10.2.255.0/24",
            "10.2.7.7/32",
            "10.3.0.0/16",
            "fd00:2::/64",
            "fd00:2::1/128",
            "255.255.255.255/32",
            "ffff::/16",
            "10.5.0.0/24",
            "10.5.0.255/32",
        ];
        let table = table(&prefixes);
        let rows = [
            ("10.1.255.255", None),
            ("10.2.0.0", Some(1)),
            ("10.2.0.255", Some(1)),
            ("10.2.1.0", Some(0)),
            ("10.2.7.6", Some(0)),
            ("10.2.7.7", Some(3)),
            ("10.2.7.8", Some(0)),
            ("10.2.255.255", Some(2)),
            ("10.3.0.0", Some(4)),
            ("10.4.0.0", None),
            ("10.5.0.254", Some(9)),
            ("10.5.0.255", Some(10)),
            ("10.5.1.0", None),
            ("255.255.255.255", Some(7)),
            ("fd00:2::1", Some(6)),
            ("fd00:2::2", Some(5)),
            ("fd00:2:0:1::", None),
            ("::ffff:10.2.0.1", None),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(8)),
        ];
        assert!(table.ipv4.starts.is_sorted() && table.ipv6.starts.is_sorted(), "binary search needs sorted starts");
        for (address, expected) in rows {
            assert_eq!(table.lookup(address.parse().unwrap()).copied(), expected, "{address}");
        }
    }

    #[test]
    fn an_empty_table_matches_nothing_and_default_routes_match_all() {
        assert_eq!(table(&[]).lookup(IpAddr::V4(Ipv4Addr::LOCALHOST)), None);
        let both = table(&["0.0.0.0/0", "::/0"]);
        assert_eq!(both.lookup(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), Some(&0));
        assert_eq!(both.lookup(IpAddr::V4(Ipv4Addr::BROADCAST)), Some(&0));
        assert_eq!(both.lookup(IpAddr::V6(Ipv6Addr::from([0xff; 16]))), Some(&1));
    }

    #[test]
    fn host_bits_are_ignored_and_the_last_of_equal_prefixes_counts() {
        let table = table(&["10.2.0.7/24", "10.2.0.0/24"]);
        assert_eq!(table.lookup("10.2.0.200".parse().unwrap()), Some(&1));
        assert_eq!(table.iter().count(), 2);
    }

    /// Few different addresses, so that prefixes nest and touch often.
    fn address() -> impl Strategy<Value = IpAddr> {
        let byte = || prop_oneof![Just(0u8), Just(1), Just(2), Just(127), Just(128), Just(255)];
        prop_oneof![
            [byte(), byte(), byte(), byte()].prop_map(IpAddr::from),
            ([byte(), byte()], [byte(), byte()]).prop_map(|(high, low)| {
                let mut bytes = [0; 16];
                bytes[..2].copy_from_slice(&high);
                bytes[14..].copy_from_slice(&low);
                IpAddr::from(bytes)
            }),
        ]
    }

    fn prefix() -> impl Strategy<Value = IpNetwork> {
        (address(), any::<prop::sample::Index>()).prop_map(|(address, len)| {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            IpNetwork::new(address, len.index(bits + 1) as u8).unwrap()
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_search_of_every_prefix(
            prefixes in prop::collection::vec(prefix(), 0..80),
            addresses in prop::collection::vec(address(), 1..40),
        ) {
            let table: PrefixTable<usize> = prefixes.iter().copied().zip(0..).collect();
            for address in addresses {
                let expected = (0..prefixes.len())
                    .filter(|index| prefixes[*index].contains(address))
                    .max_by_key(|index| (prefixes[*index].prefix(), *index));
                prop_assert_eq!(table.lookup(address).copied(), expected);
            }
        }
    }
}
