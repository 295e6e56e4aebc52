//! Requests that wait for an answer. Each is sent again until its answer arrives.
//!
//! A request that may be carried out twice keeps its number when it is sent again. A page gets a new number: its
//! messages are counted, and those of two attempts must not be mixed. A lookup is one message and keeps its number: the
//! answer to any attempt is good. Lookups are repeated soon, because until the answer nothing about a new connection
//! counts.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::message::{FlowKey, Level, Refusal, Request};

/// The wait before the first repetition; each later wait is twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(20);
/// The wait before the first repetition of a lookup.
const FIRST_LOOKUP: Duration = Duration::from_millis(2);
/// The longest wait.
const LAST_RETRY: Duration = Duration::from_millis(320);
/// The most requests of the program at once, and the most outcomes that it has not polled.
const MAX_PROGRAM: usize = 1024;
/// The longest wait of a renewal: it must arrive before the lease ends, even over a bad path.
const LAST_RENEWAL: Duration = Duration::from_millis(40);
/// Messages per page while nothing is lost.
const MOST_PAGE: u32 = 48;
/// Messages per page when much is lost: they fit one datagram.
const LEAST_PAGE: u32 = 5;

/// How a request of the program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The publisher has accepted it.
    Acknowledged,
    /// The barrier was reached at this level, or failed.
    Barrier(Option<Level>),
    /// It was refused.
    Refused(Refusal),
    /// The appliance restarted before it answered a barrier.
    Restarted,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The subscription.
    Subscribe,
    /// A page of the dump.
    Page,
    /// The lookup of a flow's instance.
    Lookup(FlowKey),
    /// A request of the program.
    Program,
}

impl Purpose {
    fn first_retry(self) -> Duration {
        match self {
            Purpose::Lookup(_) => FIRST_LOOKUP,
            Purpose::Subscribe | Purpose::Page | Purpose::Program => FIRST_RETRY,
        }
    }
}

#[derive(Debug)]
struct Waiting {
    seq: u32,
    request: Request,
    purpose: Purpose,
    /// When it was first sent.
    asked: Option<Instant>,
    due: Instant,
    wait: Duration,
    /// Messages of its page so far.
    parts: u32,
}

/// All requests of a client.
#[derive(Debug)]
pub struct Requests {
    port: u32,
    next: u32,
    waiting: Vec<Waiting>,
    outcomes: BTreeMap<u32, Outcome>,
    forgotten: VecDeque<u32>,
    page: u32,
}

impl Requests {
    /// No requests yet; `port` is not 0.
    pub fn new(port: u32) -> Requests {
        Requests {
            port,
            next: 1,
            waiting: vec![],
            outcomes: BTreeMap::new(),
            forgotten: VecDeque::new(),
            page: MOST_PAGE,
        }
    }

    /// The port that identifies our answers.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Messages to ask for in the next page.
    pub fn page(&self) -> u32 {
        self.page
    }

    /// Adds a request, due at once, and returns its number. `None` when the program has too many.
    pub fn push(&mut self, request: Request, purpose: Purpose, now: Instant) -> Option<u32> {
        let program = self.waiting.iter().filter(|waiting| waiting.purpose == Purpose::Program).count();
        if purpose == Purpose::Program && program >= MAX_PROGRAM {
            return None;
        }
        let seq = self.next_number();
        let wait = purpose.first_retry();
        self.waiting.push(Waiting { seq, request, purpose, asked: None, due: now, wait, parts: 0 });
        Some(seq)
    }

    /// Whether a request with such a purpose waits.
    pub fn has(&self, same: impl Fn(Purpose) -> bool) -> bool {
        self.waiting.iter().any(|waiting| same(waiting.purpose))
    }

    /// Forgets requests with such a purpose.
    pub fn remove(&mut self, same: impl Fn(Purpose) -> bool) {
        self.waiting.retain(|waiting| !same(waiting.purpose));
    }

    /// When the request with this number and purpose was first sent, if it waits.
    pub fn find(&self, seq: u32, port: u32, purpose: Purpose) -> Option<Instant> {
        let same = |waiting: &&Waiting| waiting.seq == seq && waiting.purpose == purpose;
        self.waiting.iter().find(same).filter(|_| port == self.port).and_then(|waiting| waiting.asked)
    }

    /// Removes an answered request without an outcome.
    pub fn finish(&mut self, seq: u32) {
        self.waiting.retain(|waiting| waiting.seq != seq);
    }

    /// Makes a request due at once: it must be sent again with other content.
    pub fn repeat_now(&mut self, seq: u32, now: Instant) {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.seq == seq) {
            waiting.due = now;
        }
    }

    /// A request of the program is answered.
    pub fn on_answer(&mut self, seq: u32, port: u32, outcome: Outcome) {
        if port != self.port {
            return;
        }
        // A refused subscription or page is asked for again when due.
        let known = |waiting: &Waiting| waiting.seq == seq && waiting.purpose == Purpose::Program;
        if let Some(at) = self.waiting.iter().position(known) {
            self.waiting.swap_remove(at);
            self.end(seq, outcome);
        }
    }

    /// How a request of the program ended; returned once.
    pub fn poll_outcome(&mut self, seq: u32) -> Option<Outcome> {
        self.outcomes.remove(&seq)
    }

    /// Another run of the publisher began: it cannot answer barriers of the earlier run.
    pub fn on_restart(&mut self, now: Instant) {
        let barriers: Vec<u32> = self.waiting.iter().filter(|waiting| is_barrier(waiting)).map(|w| w.seq).collect();
        self.waiting.retain(|waiting| !is_barrier(waiting));
        for seq in barriers {
            self.end(seq, Outcome::Restarted);
        }
        self.waiting.retain(|waiting| waiting.purpose != Purpose::Page);
        for waiting in &mut self.waiting {
            waiting.due = now;
            waiting.wait = waiting.purpose.first_retry();
        }
    }

    /// A message of a page arrived: the publisher is sending the page.
    pub fn on_part(&mut self, seq: u32, port: u32, now: Instant) {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.seq == seq && port == self.port) {
            waiting.parts += 1;
            waiting.due = waiting.due.max(now + FIRST_RETRY);
        }
    }

    /// The end of a page arrived; returns its purpose and how many of its messages arrived.
    pub fn end_page(&self, seq: u32, port: u32) -> Option<(Purpose, u32)> {
        let waiting = self.waiting.iter().find(|waiting| waiting.seq == seq && port == self.port)?;
        Some((waiting.purpose, waiting.parts))
    }

    /// A page arrived in part, or without the wanted flow: it is asked for again, with fewer messages if some were
    /// lost.
    pub fn retry_page(&mut self, seq: u32, now: Instant) {
        let next = self.next_number();
        let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.seq == seq) else {
            return;
        };
        waiting.seq = next;
        waiting.parts = 0;
        waiting.asked = None;
        if let (Request::GetFlows { count, .. }, Purpose::Page) = (&mut waiting.request, waiting.purpose) {
            self.page = (*count / 2).max(LEAST_PAGE);
            *count = self.page;
            waiting.due = now;
        } else {
            waiting.due = now + waiting.wait;
            waiting.wait = (waiting.wait * 2).min(LAST_RETRY);
        }
    }

    /// A page arrived whole: the next may be longer.
    pub fn on_page_whole(&mut self) {
        self.page = (self.page * 2).min(MOST_PAGE);
    }

    /// The next due request, with its number. Without a subscription only the subscription itself is requested.
    pub fn poll_due(&mut self, subscribed: bool, now: Instant) -> Option<(Request, u32)> {
        let due = |waiting: &Waiting| waiting.due <= now && (subscribed || waiting.purpose == Purpose::Subscribe);
        let at = self.waiting.iter().position(due)?;
        let again = self.waiting[at].asked.is_some();
        if again && self.waiting[at].purpose == Purpose::Page {
            let wait = self.waiting[at].wait;
            let seq = self.waiting[at].seq;
            self.retry_page(seq, now);
            self.waiting[at].wait = (wait * 2).min(LAST_RETRY);
        }
        let waiting = &mut self.waiting[at];
        if !again {
            // A request that starts again never waits less than the first interval.
            waiting.wait = waiting.wait.max(waiting.purpose.first_retry());
        }
        waiting.asked = waiting.asked.or(Some(now));
        waiting.due = now + waiting.wait;
        if again && waiting.purpose != Purpose::Page {
            let renews = subscribed && waiting.purpose == Purpose::Subscribe;
            waiting.wait = (waiting.wait * 2).min(if renews { LAST_RENEWAL } else { LAST_RETRY });
        }
        let due = (waiting.request, waiting.seq);
        if due.0 == Request::Unsubscribe {
            // It has no answer. If it is lost, the lease ends by itself.
            self.waiting.swap_remove(at);
        }
        Some(due)
    }

    /// When the next request is due.
    pub fn poll_timeout(&self, subscribed: bool) -> Option<Instant> {
        let may = |waiting: &&Waiting| subscribed || waiting.purpose == Purpose::Subscribe;
        self.waiting.iter().filter(may).map(|waiting| waiting.due).min()
    }

    fn end(&mut self, seq: u32, outcome: Outcome) {
        self.outcomes.insert(seq, outcome);
        self.forgotten.push_back(seq);
        if self.forgotten.len() > MAX_PROGRAM
            && let Some(oldest) = self.forgotten.pop_front()
        {
            self.outcomes.remove(&oldest);
        }
    }

    fn next_number(&mut self) -> u32 {
        let seq = self.next;
        self.next = self.next.wrapping_add(1);
        seq
    }
}

/// A barrier that was sent; one that still waits for the first contact does not count.
fn is_barrier(waiting: &Waiting) -> bool {
    waiting.request == Request::Barrier && waiting.asked.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Filter, Token};

    /// When a request is sent during 200 ms of a subscription, in ms, and its number each time.
    fn attempts(request: Request, purpose: Purpose) -> Vec<(u128, u32)> {
        let start = Instant::now();
        let mut requests = Requests::new(1);
        requests.push(request, purpose, start);
        let times = (0..200).map(|ms| start + Duration::from_millis(ms));
        let sent =
            times.filter_map(|now| requests.poll_due(true, now).map(|(_, seq)| ((now - start).as_millis(), seq)));
        sent.collect()
    }

    #[test]
    fn a_lookup_is_repeated_soon_under_the_same_number() {
        let key = FlowKey::tcp("10.1.0.1:1".parse().unwrap(), "10.2.0.1:2".parse().unwrap());
        let lookup = Request::GetFlows { since: 0, begun: None, count: 1, filter: Filter::exactly(&key) };
        let page = Request::GetFlows { since: 0, begun: None, count: 48, filter: Filter::default() };
        let times = |list: &[(u128, u32)]| list.iter().map(|(ms, _)| *ms).collect::<Vec<_>>();
        let lookups = attempts(lookup, Purpose::Lookup(key));
        assert_eq!(times(&lookups), [0, 2, 4, 8, 16, 32, 64, 128]);
        assert!(lookups.iter().all(|(_, seq)| *seq == 1), "{lookups:?}");
        let pages = attempts(page, Purpose::Page);
        assert!(pages.windows(2).all(|pair| pair[0].1 < pair[1].1), "{pages:?}");
        assert!(attempts(Request::Flush, Purpose::Program).iter().all(|(_, seq)| *seq == 1));
        let filter = Filter::default();
        let renewal = Request::Subscribe { lease: Duration::from_secs(1), groups: 1, filter, token: Token::default() };
        assert_eq!(times(&attempts(renewal, Purpose::Subscribe)), [0, 20, 40, 80, 120, 160]);
    }

    /// Parts of two attempts are not one page: the second may hold other flows.
    #[test]
    fn a_repeated_page_counts_its_parts_from_zero() {
        let now = Instant::now();
        let mut requests = Requests::new(1);
        let page = Request::GetFlows { since: 0, begun: None, count: 48, filter: Filter::default() };
        let seq = requests.push(page, Purpose::Page, now).unwrap();
        [0; 3].into_iter().for_each(|_| requests.on_part(seq, 1, now));
        assert_eq!(requests.end_page(seq, 1), Some((Purpose::Page, 3)));
        requests.retry_page(seq, now);
        assert_eq!((requests.end_page(seq, 1), requests.end_page(seq + 1, 1)), (None, Some((Purpose::Page, 0))));
    }

    #[test]
    fn an_answer_to_another_port_does_not_count() {
        let now = Instant::now();
        let mut requests = Requests::new(5);
        let seq = requests.push(Request::Barrier, Purpose::Program, now).unwrap();
        requests.poll_due(true, now);
        for port in [0, 6] {
            requests.on_answer(seq, port, Outcome::Barrier(Some(Level::OnWire)));
            assert_eq!(requests.poll_outcome(seq), None);
            assert_eq!(requests.find(seq, port, Purpose::Program), None);
        }
        assert!(requests.find(seq, 5, Purpose::Program).is_some());
    }

    #[test]
    fn the_requests_of_a_program_are_bounded() {
        let now = Instant::now();
        let mut requests = Requests::new(1);
        let asked = (0..2000).filter(|_| requests.push(Request::Flush, Purpose::Program, now).is_some()).count();
        assert_eq!(asked, MAX_PROGRAM);
    }
}
