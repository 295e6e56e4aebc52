//! A program that subscribes to an appliance's notifications and passes each message to a callback.
//!
//! Its socket is made inside a node's namespace; its thread runs in the lab's process, so both use one clock. It blocks
//! in `recv` between messages, as a real subscriber does. The callback interprets the messages.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{error::LabError, network::Network, pair::Publisher};
use crate::{
    io::namespace::NetworkNamespace,
    notify::{
        client::{Client, Wish},
        message::{Filter, Message},
    },
};

/// How long the publisher may take to grant a subscription.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the thread checks whether it must end.
const STEP: Duration = Duration::from_millis(50);

/// A subscriber that runs until [`finish`](Self::finish).
#[derive(Debug)]
pub struct Subscriber {
    is_over: Arc<AtomicBool>,
    is_complete: Arc<AtomicBool>,
    following: JoinHandle<io::Result<u64>>,
}

impl Subscriber {
    /// Subscribes from `node` and waits until the subscription is granted. `look` is called with every message and the
    /// time of its arrival.
    pub fn start(
        network: &Network<'_>,
        node: &str,
        publisher: &Publisher,
        look: impl FnMut(&Message, Instant) + Send + 'static,
    ) -> Result<Self, LabError> {
        Self::follow(network, node, publisher, Wish::following(Filter::default(), false), look)
    }

    /// Like [`start`](Self::start), with a message for each block.
    pub fn start_with_blocks(
        network: &Network<'_>,
        node: &str,
        publisher: &Publisher,
        look: impl FnMut(&Message, Instant) + Send + 'static,
    ) -> Result<Self, LabError> {
        Self::follow(network, node, publisher, Wish::following(Filter::default(), true), look)
    }

    fn follow(
        network: &Network<'_>,
        node: &str,
        publisher: &Publisher,
        wish: Wish,
        mut look: impl FnMut(&Message, Instant) + Send + 'static,
    ) -> Result<Self, LabError> {
        let mut client = connect(network, node, publisher.address, publisher, wish)?;
        let first = client.next_message(Instant::now() + PATIENCE).and_then(|first| {
            let refused = || io::Error::new(io::ErrorKind::TimedOut, format!("not granted within {PATIENCE:?}"));
            first.ok_or_else(refused)
        });
        let first = first.map_err(LabError::doing(format!("subscribe to {} from {node}", publisher.address)))?;
        look(&first, Instant::now());
        let is_over = Arc::new(AtomicBool::new(false));
        let is_complete = Arc::new(AtomicBool::new(false));
        let (over, complete) = (is_over.clone(), is_complete.clone());
        let following = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Some(message) = client.next_message(Instant::now() + STEP)? {
                    look(&message, Instant::now());
                }
                complete.store(client.core().is_complete(), Ordering::Relaxed);
            }
            Ok(client.core().messages_dropped())
        });
        Ok(Self { is_over, is_complete, following })
    }

    /// Whether it has received the whole state that existed when it subscribed.
    pub fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Relaxed)
    }

    /// Ends the subscription; returns how many messages were dropped because `look` was too slow.
    pub fn finish(self) -> Result<u64, LabError> {
        self.is_over.store(true, Ordering::Relaxed);
        let followed = self.following.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        followed.map_err(LabError::doing("follow the notifications"))
    }
}

/// A client in `node` with the publisher's key; `address` is that of the publisher or of a relay in front of it.
pub fn connect(
    network: &Network<'_>,
    node: &str,
    address: SocketAddr,
    publisher: &Publisher,
    wish: Wish,
) -> Result<Client, LabError> {
    let connect = || -> io::Result<Client> {
        let inside = NetworkNamespace::named(&network.namespace(node))?;
        inside.run(|| Client::connect_with(address, publisher.key.clone(), wish))?
    };
    connect().map_err(LabError::doing(format!("reach {address} from {node}")))
}
