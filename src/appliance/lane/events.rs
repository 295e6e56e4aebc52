//! What a lane tells the control thread. It never waits: what finds no room is dropped and counted.

use std::time::Instant;

use super::Lane;
use crate::appliance::lane::channel::LaneEvent;

impl Lane {
    /// False if the event is lost, and counted.
    pub(super) fn send_event(&mut self, event: LaneEvent) -> bool {
        let is_sent = self.channel.events.try_send(event).is_ok();
        self.on_sent_to_control(is_sent);
        is_sent
    }

    /// Tells the control thread how peers are reached. What is lost is told again in the next turn.
    pub(super) fn tell_reach(&mut self, now: Instant) {
        while let Some((peer, reach)) = self.reach_news.poll(self.forwarder.peers(), now) {
            if !self.send_event(LaneEvent::Reach { lane: self.number, peer, reach }) {
                break;
            }
            self.reach_news.on_told(peer, reach);
        }
    }

    /// Tells the control thread what the notification port has for it. What finds no room waits there.
    pub(super) fn tell_port_news(&mut self) {
        loop {
            let port = self.driver.as_mut().and_then(|driver| driver.publish_path().port_mut());
            let Some((peer, news)) = port.and_then(|port| port.news_mut()?.first()) else { return };
            if !self.send_event(LaneEvent::Port { peer, news: Box::new(news) }) {
                return;
            }
            let port = self.driver.as_mut().and_then(|driver| driver.publish_path().port_mut());
            if let Some(news) = port.and_then(|port| port.news_mut()) {
                news.on_told();
            }
        }
    }

    pub(super) fn on_sent_to_control(&mut self, is_sent: bool) {
        match is_sent {
            // Waking fails only if the control thread's poll is gone, and with it the thread.
            true => drop(self.channel.control.wake()),
            false => self.notices_lost += 1,
        }
    }
}
