//! A program that subscribes to an appliance's notifications and looks at each as it comes.
//!
//! Its socket is made inside a node's namespace; its thread stays with the lab, so that its clock is the lab's. It blocks
//! in `recv` between messages, as a program that waits does. What the messages mean is for whoever looks.

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

/// How long a subscription may take to be granted.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks whether it shall end.
const STEP: Duration = Duration::from_millis(50);

/// A subscriber that goes on until it is asked to finish.
#[derive(Debug)]
pub struct Subscriber {
    is_over: Arc<AtomicBool>,
    is_complete: Arc<AtomicBool>,
    following: JoinHandle<io::Result<u64>>,
}

impl Subscriber {
    /// Subscribes from `node` and waits until that is granted. `look` is called with every message and when it came.
    pub fn start(
        network: &Network<'_>,
        node: &str,
        publisher: &Publisher,
        look: impl FnMut(&Message, Instant) + Send + 'static,
    ) -> Result<Self, LabError> {
        Self::follow(network, node, publisher, Wish::following(Filter::default(), false), look)
    }

    /// The same, and is told of each block.
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

    /// Whether it was told all that there was to tell when it came.
    pub fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Relaxed)
    }

    /// Ends the subscription; tells how many messages came faster than they were looked at, and were not.
    pub fn finish(self) -> Result<u64, LabError> {
        self.is_over.store(true, Ordering::Relaxed);
        let followed = self.following.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        followed.map_err(LabError::doing("follow the notifications"))
    }
}

/// A client in `node` with the publisher's key, of the publisher itself or of whoever forwards to it from `address`.
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
