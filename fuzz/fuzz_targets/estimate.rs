//! Any reports about any datagrams: what is known of a link is always sound, and a lie is at most total loss.
//!
//! The input is a sequence of records: one byte of kind, one byte of time, two bytes of length, the bytes. They are a report, or
//! say which datagrams leave.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use onwire::tunnel::estimate::Estimator;
use onwire::wire::report::Report;

fuzz_target!(|input: &[u8]| {
    let start = Instant::now();
    let mut estimator = Estimator::new(start);
    let (mut now, mut sent) = (start, 0.0);
    let mut rest = input;
    while let Some((&[kind, wait, high, low], behind)) = rest.split_first_chunk::<4>() {
        let len = usize::from(u16::from_be_bytes([high, low]) & 0x03ff).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        rest = behind;
        now += Duration::from_micros(u64::from(wait).pow(u32::from(kind >> 6) + 1));
        match kind & 7 {
            0 => estimator.on_new_epoch(now),
            1..4 => {
                let number = |from: usize| bytes.iter().skip(from).take(8).fold(0, |all, &byte| all << 8 | u64::from(byte));
                let (counter, datagrams) = (number(0), u64::from(wait));
                estimator.on_sent(counter, datagrams, number(8), now);
                sent += datagrams as f64;
            }
            _ => {
                if let Some(report) = Report::parse(bytes) {
                    let [rtt, least] = [report.echo, report.sent_at].map(|it| Duration::from_micros(it % 10_000_000));
                    estimator.on_report(&report, Some(rtt), (kind & 8 == 0).then_some(least), now);
                }
            }
        }
        let found = estimator.estimate(now);
        assert!((0.0..=1.0).contains(&found.loss) && (found.loss..=1.0).contains(&found.loss_upper), "{found:?}");
        assert!(found.datagrams <= sent && found.lost <= found.datagrams, "{found:?}");
        assert!(found.run_classes.iter().all(|runs| (0.0..=sent).contains(runs)), "{found:?}");
        assert!(found.fit.is_none_or(|fit| (0.0..=1.0).contains(&fit.error)), "{found:?}");
        let mut both = found.clone();
        both.merge(&found);
        assert!((0.0..=1.0).contains(&both.loss_upper), "{both:?}");
    }
});
