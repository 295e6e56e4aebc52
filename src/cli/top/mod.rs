//! `onwire top`: the appliances and gates of this host on one screen, again each second. Changes nothing there.
//!
//! A thread asks the processes, so that one that stands still does not stop the screen; `model` makes rows and curves
//! of what they say, `draw` puts them on the screen, `terminal` takes the terminal and gives it back whatever happens.

mod draw;
mod flows;
mod history;
mod layout;
mod model;
mod terminal;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::crossterm::event::{self, Event as TerminalEvent, KeyCode, KeyEventKind, KeyModifiers};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::processes::Host;
use super::subscription::FileOrSubscription;
use super::{FAILURE, USAGE, print_error};
use crate::config::units::parse_duration;
use crate::io::signal::{self, Signal};
use flows::FlowList;
use model::Model;
use terminal::Screen;

/// Arguments of `onwire top`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire top                    every appliance and gate process of this host
  onwire top --flows            also the flows, and up to where they are protected: needs a notification key
  onwire top --interval 5s

Keys: q quits; up and down, or k and j, choose a peer; f shows the flows instead of the gates; p pauses, and goes on.
Numbers in the table of peers are means of the last ten seconds. Curves have a column for each interval, the newest
at the right, and are as high as their largest value, which is written above them. Loss is that of datagrams on the
way there, as the peer reports it; repair is what it rebuilt of them.
Exit codes: 0 quit, 1 failure, 2 usage, or no terminal.")]
pub struct Top {
    #[command(flatten)]
    subscription: FileOrSubscription,
    /// Follow flows too, as `onwire watch` does
    #[arg(long)]
    flows: bool,
    /// How often the processes are asked: 200ms to 60s
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,
}

/// What `--interval` may say.
const INTERVALS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(60)];
/// How long a process may take to answer before its rows are called old.
const PATIENCE: Duration = Duration::from_secs(2);
/// Answers and signals that wait for the screen.
const EVENTS_MAX: usize = 4;
/// How long a key may wait.
const TICK: Duration = Duration::from_millis(50);
/// After a signal it ends within this time, whatever the terminal does.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

fn parse_interval(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    match (INTERVALS[0]..=INTERVALS[1]).contains(&time) {
        true => Ok(time),
        false => Err("200ms to 60s are possible".to_owned()),
    }
}

/// What ends the loop, or changes what it shows.
enum Event {
    Answer(Host),
    Signal(Signal),
}

impl Top {
    /// Shows the screen until `q` or a signal.
    pub fn run(self) -> ExitCode {
        let failed = |code: u8, text: &str| {
            print_error(format_args!("onwire top: {text}\n"));
            ExitCode::from(code)
        };
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return failed(USAGE, "this is no terminal; `onwire status` prints what it shows, once");
        }
        let flows = match self.flows.then(|| FlowList::start(&self.subscription)).transpose() {
            Ok(flows) => flows,
            Err(text) => return failed(USAGE, &text),
        };
        match self.follow(flows) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(FAILURE, &error.to_string()),
        }
    }

    fn follow(&self, flows: Option<FlowList>) -> io::Result<()> {
        let (sender, events) = sync_channel(EVENTS_MAX);
        let of_signals = sender.clone();
        signal::listen(move |signal| {
            let _ = of_signals.try_send(Event::Signal(signal));
            end_at_last(signal);
        })?;
        let interval = self.interval;
        std::thread::Builder::new().name("status".to_owned()).spawn(move || ask(&sender, interval))?;
        let mut screen = Screen::open()?;
        let mut model = Model::new(flows);
        let mut is_changed = true;
        loop {
            is_changed |= model.take_flows();
            if is_changed {
                screen.draw(|canvas| draw::draw(canvas, &model))?;
            }
            is_changed = match next(&events)? {
                None => return Ok(()),
                Some(Change::None) => false,
                Some(Change::Size) => true,
                Some(Change::Answer(host)) => model.on_answer(&host),
                Some(Change::Key(code)) => model.on_key(code),
            };
        }
    }
}

/// What has happened.
enum Change {
    None,
    Size,
    Answer(Host),
    Key(KeyCode),
}

/// Waits for a moment; `None`: it was asked to end.
fn next(events: &Receiver<Event>) -> io::Result<Option<Change>> {
    match events.recv_timeout(Duration::ZERO) {
        Ok(Event::Answer(host)) => return Ok(Some(Change::Answer(host))),
        Ok(Event::Signal(Signal::User1)) => {}
        Ok(Event::Signal(_)) => return Ok(None),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
    }
    // Crossterm reads a terminal that is gone again and again, without an end.
    if is_gone(TICK) {
        return Ok(None);
    }
    if !event::poll(Duration::ZERO)? {
        return Ok(Some(Change::None));
    }
    Ok(match event::read()? {
        TerminalEvent::Key(key) if key.kind == KeyEventKind::Release => Some(Change::None),
        // The terminal sends it as a key while it is ours.
        TerminalEvent::Key(key) if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) => {
            None
        }
        TerminalEvent::Key(key) if matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc) => None,
        TerminalEvent::Key(key) => Some(Change::Key(key.code)),
        TerminalEvent::Resize(..) => Some(Change::Size),
        _ => Some(Change::None),
    })
}

/// Waits for a key; whether the terminal has hung up.
fn is_gone(time: Duration) -> bool {
    let (stdin, time) = (io::stdin(), Timespec::try_from(time).ok());
    let mut keyboard = [PollFd::new(&stdin, PollFlags::IN)];
    let _ = poll(&mut keyboard, time.as_ref());
    keyboard[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
}

/// Ends the process where it reads a terminal that has gone in just that moment.
fn end_at_last(signal: Signal) {
    if signal != Signal::User1 {
        std::thread::sleep(ENDS_WITHIN);
        std::process::exit(FAILURE.into());
    }
}

/// Asks all processes again and again, until nobody wants to know. While the terminal takes nothing, answers are dropped.
fn ask(answers: &SyncSender<Event>, interval: Duration) {
    loop {
        let begin = Instant::now();
        if let Err(TrySendError::Disconnected(_)) = answers.try_send(Event::Answer(Host::ask(PATIENCE))) {
            return;
        }
        std::thread::sleep(interval.saturating_sub(begin.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_no_screen_takes_are_bounded() {
        let (sender, events) = sync_channel(EVENTS_MAX);
        let thread = std::thread::spawn(move || ask(&sender, Duration::from_millis(1)));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!thread.is_finished(), "it asks on");
        let waiting = events.try_iter().take(2 * EVENTS_MAX).count();
        assert!((1..=2 * EVENTS_MAX - 1).contains(&waiting), "{waiting} answers wait");
        drop(events);
        thread.join().unwrap();
    }
}
