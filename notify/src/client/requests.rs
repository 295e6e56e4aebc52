//! Requests that wait for their answer, each sent again until it comes.
//!
//! Requests that may be obeyed twice keep their number when they are sent again. Pages get a new one: the messages of a
//! page are counted, and those of two attempts must not be mixed up. A lookup is one message and keeps its number: the
//! answer to any attempt will do. It is repeated soon, because until it is answered nothing about a new connection counts.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::message::{FlowKey, Level, Refusal, Request};

/// The first repetition; each later one waits twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(20);
/// The first repetition of a lookup.
const FIRST_LOOKUP: Duration = Duration::from_millis(2);
/// No longer than this.
const LAST_RETRY: Duration = Duration::from_millis(320);
/// Requests of the program at once, and outcomes it has not asked for.
const MAX_PROGRAM: usize = 1024;
/// Nor than this while the subscription lasts: a renewal must come through before the lease ends, over a bad path too.
const LAST_RENEWAL: Duration = Duration::from_millis(40);
/// Messages of a page while nothing is lost.
const MOST_PAGE: u32 = 48;
/// Messages of a page when much is lost: what fits one datagram.
const LEAST_PAGE: u32 = 5;

/// How a request of the program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was obeyed.
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
    /// Which instance a flow is.
    Lookup(FlowKey),
    /// The program wants it.
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
    /// When it was sent first.
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

    /// What marks our answers.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Messages to ask for in the next page.
    pub fn page(&self) -> u32 {
        self.page
    }

    /// Adds a request, due at once; gives its number.
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

    /// When the request with this number and purpose was sent first, if it waits.
    pub fn find(&self, seq: u32, port: u32, purpose: Purpose) -> Option<Instant> {
        let same = |waiting: &&Waiting| waiting.seq == seq && waiting.purpose == purpose;
        self.waiting.iter().find(same).filter(|_| port == self.port).and_then(|waiting| waiting.asked)
    }

    /// A request is answered and nobody wants to know how.
    pub fn finish(&mut self, seq: u32) {
        self.waiting.retain(|waiting| waiting.seq != seq);
    }

    /// A request must be sent again at once, changed.
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
        // A subscription or a page that is refused is asked for again in time.
        let known = |waiting: &Waiting| waiting.seq == seq && waiting.purpose == Purpose::Program;
        if let Some(at) = self.waiting.iter().position(known) {
            self.waiting.swap_remove(at);
            self.end(seq, outcome);
        }
    }

    /// How a request of the program ended; told once.
    pub fn poll_outcome(&mut self, seq: u32) -> Option<Outcome> {
        self.outcomes.remove(&seq)
    }

    /// Another run of the publisher: what the earlier one was asked about its own past has no answer.
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

    /// A message of a page came: the publisher is at it.
    pub fn on_part(&mut self, seq: u32, port: u32, now: Instant) {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.seq == seq && port == self.port) {
            waiting.parts += 1;
            waiting.due = waiting.due.max(now + FIRST_RETRY);
        }
    }

    /// The end of a page came; gives what it is for and how many of its messages came.
    pub fn end_page(&self, seq: u32, port: u32) -> Option<(Purpose, u32)> {
        let waiting = self.waiting.iter().find(|waiting| waiting.seq == seq && port == self.port)?;
        Some((waiting.purpose, waiting.parts))
    }

    /// A page came in part, or did not tell what is wanted: it is asked for again, and smaller if it was cut.
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

    /// A page came whole: the next may be longer.
    pub fn on_page_whole(&mut self) {
        self.page = (self.page * 2).min(MOST_PAGE);
    }

    /// The next request that is due, with its number. Without a subscription only that is asked for.
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
            // The first answer may come late and the next attempt early: both count.
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
            // It has no answer: were it lost, the lease ends by itself.
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

/// A barrier that a run of the publisher was asked for; one that waits for the first contact was not.
fn is_barrier(waiting: &Waiting) -> bool {
    waiting.request == Request::Barrier && waiting.asked.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Filter, Token};

    /// While subscribed, in 200 ms: when a request was sent, and with which number.
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
    fn a_lookup_is_repeated_soon_and_any_answer_will_do() {
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

    /// Parts of two tries are not one page: the second may tell other flows.
    #[test]
    fn the_parts_of_a_page_that_is_asked_for_again_are_counted_anew() {
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
    fn an_answer_counts_for_whom_it_is_addressed_to() {
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
    fn a_program_may_ask_for_much_at_once_but_not_for_everything() {
        let now = Instant::now();
        let mut requests = Requests::new(1);
        let asked = (0..2000).filter(|_| requests.push(Request::Flush, Purpose::Program, now).is_some()).count();
        assert_eq!(asked, MAX_PROGRAM);
    }
}
