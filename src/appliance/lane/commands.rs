//! What a lane does at the command of the control thread.

use std::sync::mpsc::TryRecvError;
use std::time::Instant;

use super::{DRAIN, Lane};
use crate::appliance::lane::channel::{Command, LaneReload};

impl Lane {
    pub(super) fn run_commands(&mut self, now: Instant) {
        loop {
            match self.channel.commands.try_recv() {
                Ok(Command::Install(established)) => {
                    self.forwarder.install(&established, now);
                    if let Some(driver) = &mut self.driver {
                        driver.follow(&self.forwarder);
                    }
                }
                Ok(Command::Handshakes(datagrams)) => {
                    datagrams.iter().for_each(|(to, datagram)| self.send_handshake(*to, datagram));
                }
                Ok(Command::Snapshot(reply)) => {
                    if let Some(reply) = self.listening.on_question(reply, now) {
                        self.answer(&reply, false);
                    }
                }
                Ok(Command::Counts) => self.tell_counts(now),
                Ok(Command::Uplink(uplink)) => self.on_uplink(uplink),
                Ok(Command::Plan { peer, profile, reason }) => {
                    self.forwarder.set_profile(peer, &profile);
                    if let Some(driver) = &mut self.driver {
                        driver.set_plan_reason(peer, reason);
                    }
                }
                Ok(Command::Bypass { peer, begins, done }) => {
                    if let Some(driver) = &mut self.driver {
                        driver.set_bypassed(peer, begins);
                    }
                    self.untold.push(done);
                }
                Ok(Command::Reload(reload)) => self.reload(*reload, now),
                Ok(Command::Stop) => self.stop(now),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.stop(now);
                    break;
                }
            }
        }
        self.ready.commands = false;
    }

    fn reload(&mut self, reload: LaneReload, now: Instant) {
        let LaneReload { settings, changed_profiles, reports_links, protection, done } = reload;
        self.forwarder.remove_peers(&settings, now);
        self.deliver(now);
        self.forwarder.reload(settings, &changed_profiles, now);
        self.listening.set_peers(self.forwarder.peers().len());
        self.link_news.set(reports_links, now);
        self.reach_news.forget();
        if let (Some(driver), Some(changes)) = (&mut self.driver, protection) {
            driver.reload(changes, now);
            driver.follow(&self.forwarder);
        }
        // Nobody may wait for it any more.
        let _ = done.try_send(());
    }

    fn stop(&mut self, now: Instant) {
        self.stopping.get_or_insert(now + DRAIN);
        if let Some(driver) = &mut self.driver {
            driver.on_drain();
        }
    }
}
