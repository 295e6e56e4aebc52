//! What the rounds show: medians over the rounds, ratios of the same round, a table and the numbers for programs.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{BARE, Cell, FLOWS, Packets, SIMPLE, WAYS};
use crate::lab::{median::median, report::Report};

/// Adds the tables, the numbers and the claim.
pub fn report(report: &mut Report, packets: &Packets) {
    let all = || packets.rounds.iter().flatten().flatten();
    let sum = |of: fn(&Cell) -> u64| all().map(of).sum::<u64>();
    let (twice, wrong, sent) = (sum(|cell| cell.twice), sum(|cell| cell.wrong), sum(|cell| cell.sent));
    report.claim(
        "no packet arrives twice, and none that was not sent",
        format!("{twice} twice, {wrong} not sent; {sent} packets in {} trials", sum(|cell| cell.trials)),
        // Without a packet, nothing is shown.
        twice == 0 && wrong == 0 && sent > 0,
    );
    let cells = |of: fn(&Packets, usize, usize) -> Vec<String>| {
        let flows = move |at| (0..WAYS.len()).map(move |way| (way, at));
        (0..FLOWS.len()).flat_map(flows).map(move |(way, at)| of(packets, way, at))
    };
    report.table(
        &[
            "packets of 64 bytes",
            "flows",
            "thousand a second, at most 0.1 % lost",
            "of simple",
            "of bare",
            "CPU us a packet: near, far",
            "memory in MB: near, far",
        ],
        cells(Packets::carried),
    );
    report.table(
        &[
            "as many as the sender can",
            "flows",
            "thousand a second offered",
            "delivered",
            "lost in the near TUN",
            "datagrams lost in the far socket",
            "dropped by appliances",
            "in backlogs",
            "at the receiver",
        ],
        cells(Packets::at_most),
    );
    let ways = WAYS.iter().enumerate().map(|(way, variant)| {
        let flows = FLOWS.iter().enumerate().map(|(at, flows)| (format!("flows_{flows}"), packets.numbers(way, at)));
        (variant.label.to_owned(), Value::Object(flows.collect()))
    });
    report.metric("packets", Value::Object(ways.collect::<Map<_, _>>()));
}

impl Packets {
    fn cells(&self, way: usize, at: usize) -> impl Iterator<Item = &Cell> {
        self.rounds.iter().map(move |round| &round[way][at])
    }

    fn median(&self, way: usize, at: usize, of: impl Fn(&Cell) -> f64) -> f64 {
        median(self.cells(way, at).map(of).collect())
    }

    /// The rate relative to another way in the same round.
    fn ratio(&self, way: usize, other: usize, at: usize) -> f64 {
        let rounds = self.rounds.iter();
        median(rounds.map(|round| round[way][at].carried / round[other][at].carried.max(1e-9)).collect())
    }

    fn carried(&self, way: usize, at: usize) -> Vec<String> {
        let pair = |of: &dyn Fn(&Cell, usize) -> f64, digits: usize| {
            let ends = [0, 1].map(|end| format!("{:.digits$}", self.median(way, at, |cell| of(cell, end))));
            if WAYS[way].has_processes() { ends.join(", ") } else { String::new() }
        };
        vec![
            WAYS[way].name.to_owned(),
            FLOWS[at].to_string(),
            format!("{:.0}", self.median(way, at, |cell| cell.carried) / 1e3),
            format!("{:.2}", self.ratio(way, SIMPLE, at)),
            format!("{:.2}", self.ratio(way, BARE, at)),
            pair(&|cell, end| cell.cpu_us()[end], 2),
            pair(&|cell, end| cell.memory[end] as f64 / 1e6, 0),
        ]
    }

    fn at_most(&self, way: usize, at: usize) -> Vec<String> {
        let count = |of: fn(&Cell) -> u64| format!("{:.0}", self.median(way, at, |cell| of(cell) as f64));
        let own = |of: fn(&Cell) -> u64| if WAYS[way].has_processes() { count(of) } else { String::new() };
        vec![
            WAYS[way].name.to_owned(),
            FLOWS[at].to_string(),
            format!("{:.0}", self.median(way, at, |cell| cell.most.offered()) / 1e3),
            format!("{:.0}", self.median(way, at, |cell| cell.most.delivered()) / 1e3),
            own(|cell| cell.spent.lost_in_tun),
            own(|cell| cell.spent.lost_in_socket),
            own(|cell| cell.spent.drops.values().sum()),
            count(|cell| cell.lost_in_backlog),
            count(|cell| cell.lost_at_receiver),
        ]
    }

    /// Medians, and below them each round.
    fn numbers(&self, way: usize, at: usize) -> Value {
        let rounds: Vec<Value> = self.cells(way, at).map(Cell::to_json).collect();
        let median = |key: &str| median(rounds.iter().filter_map(|round| round[key].as_f64()).collect());
        let mut drops = BTreeMap::<&str, u64>::new();
        for (reason, count) in self.cells(way, at).flat_map(|cell| &cell.spent.drops) {
            *drops.entry(reason).or_default() += count;
        }
        let middle = [
            "per_second",
            "offered_most",
            "delivered_most",
            "cpu_us_near",
            "cpu_us_far",
            "lost_most",
            "lost_in_tun",
            "lost_in_socket",
            "lost_in_backlog",
            "lost_at_receiver",
            "silent_flows",
            "flows_followed",
            "messages",
            "memory_near",
            "memory_far",
        ];
        let mut numbers: Map<_, _> = middle.map(|key| (key.to_owned(), median(key).into())).into_iter().collect();
        numbers.insert("of_simple".to_owned(), self.ratio(way, SIMPLE, at).into());
        numbers.insert("of_bare".to_owned(), self.ratio(way, BARE, at).into());
        numbers.insert("drops".to_owned(), json!(drops));
        numbers.insert("twice".to_owned(), self.cells(way, at).map(|cell| cell.twice).sum::<u64>().into());
        numbers.insert("rounds".to_owned(), rounds.into());
        Value::Object(numbers)
    }
}

impl Cell {
    /// Processor time of each end for a packet that arrived, in microseconds.
    fn cpu_us(&self) -> [f64; 2] {
        let ends = self.spent.cpu_for_each(self.most.received as f64 / 1e6);
        if self.most.received == 0 { [0.0; 2] } else { ends.map(|places| places.iter().sum()) }
    }

    fn to_json(&self) -> Value {
        let [cpu_near, cpu_far] = self.cpu_us();
        let [memory_near, memory_far] = self.memory;
        json!({
            "per_second": self.carried,
            "offered_most": self.most.offered(),
            "delivered_most": self.most.delivered(),
            "cpu_us_near": cpu_near,
            "cpu_us_far": cpu_far,
            "lost_most": self.most.lost(),
            "refused_most": self.most.refused,
            "lost_in_tun": self.spent.lost_in_tun,
            "lost_in_socket": self.spent.lost_in_socket,
            "lost_in_backlog": self.lost_in_backlog,
            "lost_at_receiver": self.lost_at_receiver,
            "silent_flows": self.most.silent_flows,
            "flows_followed": self.flows_followed,
            "messages": self.messages,
            "memory_near": memory_near,
            "memory_far": memory_far,
            "trials": self.trials,
            "packets": self.sent,
            "drops": self.spent.drops,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::workload::busy_flows::Trial;

    fn packets(twice: u64) -> Packets {
        let round = |rate: f64| {
            let most = Trial { sent: 3000, received: 2000, seconds: 1.0, ..Trial::default() };
            let mut cells: [[Cell; FLOWS.len()]; WAYS.len()] = Default::default();
            cells
                .iter_mut()
                .flatten()
                .for_each(|cell| *cell = Cell { carried: rate, most, sent: 3000, ..Cell::default() });
            cells[BARE][1].carried = 4.0 * rate;
            cells[0][0].twice = twice;
            cells[2][1].spent.drops = [("replay".to_owned(), 2)].into();
            cells
        };
        Packets { rounds: vec![round(10.0), round(30.0), round(20.0)] }
    }

    #[test]
    fn medians_and_ratios_of_the_same_round_are_reported() {
        let mut found = Report::default();
        report(&mut found, &packets(0));
        let value = found.to_json("throughput", 1);
        let cell = &value["metrics"]["packets"]["repair_4_32"]["flows_1000"];
        assert_eq!([&cell["per_second"], &cell["of_bare"], &cell["of_simple"]], [20.0, 0.25, 1.0]);
        assert_eq!([&cell["lost_most"], &cell["delivered_most"]], [1000.0, 2000.0]);
        assert_eq!((&cell["drops"]["replay"], &cell["rounds"][1]["per_second"]), (&json!(6), &json!(30.0)));
        assert!(found.passes());
    }

    #[test]
    fn a_packet_that_arrives_twice_fails_and_no_packet_at_all_too() {
        for measured in [packets(1), Packets::default()] {
            let mut found = Report::default();
            report(&mut found, &measured);
            assert!(!found.passes());
        }
    }

    #[test]
    fn the_cost_of_a_packet_is_that_of_those_that_arrived() {
        let mut cell = Cell { most: Trial { received: 1_000_000, ..Trial::default() }, ..Cell::default() };
        cell.spent.cpu = [[0.5, 1.0].map(std::time::Duration::from_secs_f64), Default::default()];
        assert_eq!(cell.cpu_us(), [1.5, 0.0]);
        assert_eq!(Cell::default().cpu_us(), [0.0, 0.0]);
    }
}
