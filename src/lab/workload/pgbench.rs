//! Parses the output of pgbench, the load generator of PostgreSQL, during a run and at its end.
//!
//! [`crate::lab::servers::postgres_pair`] starts pgbench. Replication is not known here.

/// The result of a pgbench run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Benchmark {
    /// Transactions that were acknowledged as committed.
    pub transactions: u64,
    /// Transactions that failed.
    pub failed: u64,
    /// The mean time of a transaction, in milliseconds.
    pub latency_ms: f64,
    /// Transactions per second.
    pub speed: f64,
    /// The lines with errors and warnings.
    pub errors: Vec<String>,
}

/// Words that mark a line with an error or a warning, of pgbench or of the server.
const ERROR_WORDS: [&str; 4] = ["error", "fatal", "aborted", "warning"];

impl Benchmark {
    /// Parses the output of a run.
    pub fn parse(output: &str) -> Self {
        let number = |name: &str| output.lines().find_map(|line| number_after(line, name)).unwrap_or_default();
        let complains = |line: &&str| {
            let line = line.to_lowercase();
            ERROR_WORDS.iter().any(|word| line.contains(word))
        };
        Self {
            transactions: number("number of transactions actually processed: ") as u64,
            failed: number("number of failed transactions: ") as u64,
            latency_ms: number("latency average = "),
            speed: number("tps = "),
            errors: output.lines().filter(complains).map(str::to_owned).collect(),
        }
    }
}

/// Transactions per second in the last progress line (`--progress`).
pub fn speed_now(output: &str) -> Option<f64> {
    let line = output.lines().rev().find(|line| line.starts_with("progress: "))?;
    number_after(line.split(" s, ").nth(1)?, "")
}

/// The number after `name` at the beginning of a line.
fn number_after(line: &str, name: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_a_run_is_parsed() {
        let output = "pgbench (15.14 (Debian 15.14-0+deb12u1))\nprogress: 1.0 s, 345.9 tps, lat 88.0 ms stddev 40.1, 0 failed\n\
             progress: 2.0 s, 401.0 tps, lat 80.0 ms stddev 39.9, 0 failed\ntransaction type: <builtin: TPC-B (sort of)>\n\
             scaling factor: 4\nnumber of clients: 32\nmaximum number of tries: 1\nduration: 2 s\n\
             number of transactions actually processed: 747\nnumber of failed transactions: 2 (0.267%)\n\
             latency average = 84.250 ms\nlatency stddev = 40.000 ms\ninitial connection time = 30.1 ms\n\
             tps = 373.500000 (without initial connection time)\n";
        let found = Benchmark::parse(output);
        let wanted = Benchmark { transactions: 747, failed: 2, latency_ms: 84.25, speed: 373.5, errors: Vec::new() };
        assert_eq!(found, wanted);
        assert_eq!(speed_now(output), Some(401.0));
        assert_eq!(speed_now("progress: "), None);
    }

    #[test]
    fn lines_with_errors_and_warnings_are_kept() {
        for line in [
            "pgbench: error: client 3 script 0 aborted in command 9 query 0: ERROR:  deadlock detected",
            "WARNING:  canceling wait for synchronous replication due to user request",
            "pgbench:client 7 aborted while establishing connection",
        ] {
            let found = Benchmark::parse(&format!(
                "pgbench (15.14)\n{line}\nRun was aborted; the above results are incomplete.\n"
            ));
            assert_eq!((found.errors.len(), found.transactions), (2, 0), "{line}");
        }
    }
}
