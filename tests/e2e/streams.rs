//! TCP between two nodes: both sides hash every byte.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use onwire::io::namespace::NetworkNamespace;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use ring::digest::{Context, SHA256};

/// How long one step of a transfer may stall.
const PATIENCE: Duration = Duration::from_secs(30);
const PIECE: usize = 64 << 10;

/// Sends `bytes` on each of `flows` simultaneous connections from one node to `at` in another; each receiver answers
/// with the checksum of what it received. Panics unless all are equal. Returns the duration.
pub fn copy(from: &NetworkNamespace, to: &NetworkNamespace, at: &str, flows: usize, bytes: usize) -> Duration {
    copy_paced(from, to, at, flows, bytes, Duration::ZERO)
}

/// Like [`copy`], with a rest after each 64 KiB of a flow.
pub fn copy_paced(
    from: &NetworkNamespace,
    to: &NetworkNamespace,
    at: &str,
    flows: usize,
    bytes: usize,
    rest: Duration,
) -> Duration {
    let at: IpAddr = at.parse().unwrap();
    let listener = to.run(|| TcpListener::bind((at, 0)).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..flows {
                let Some(stream) = accept(&listener) else { return };
                scope.spawn(move || receive(stream));
            }
        });
        let streams = from.run(|| (0..flows).map(|_| connect(address)).collect::<Vec<_>>()).unwrap();
        let start = Instant::now();
        let senders: Vec<_> = streams
            .into_iter()
            .enumerate()
            .map(|(flow, stream)| scope.spawn(move || send(stream, flow as u64, bytes, rest)))
            .collect();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        start.elapsed()
    })
}

/// Opens a connection with the time limits of a test.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap_or_else(|error| panic!("{address}: {error}"));
    bound(&stream);
    stream
}

fn bound(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
}

fn accept(listener: &TcpListener) -> Option<TcpStream> {
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                bound(&stream);
                return Some(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(2)),
            Err(error) => panic!("{error}"),
        }
    }
    None
}

fn receive(mut stream: TcpStream) {
    let (mut sum, mut buffer) = (Context::new(&SHA256), vec![0; PIECE]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => sum.update(&buffer[..length]),
            // The sender waits for the checksum and reports the error.
            Err(_) => return,
        }
    }
    let _ = stream.write_all(sum.finish().as_ref());
}

fn send(mut stream: TcpStream, seed: u64, bytes: usize, rest: Duration) {
    let (mut rng, mut sum, mut buffer) = (SmallRng::seed_from_u64(seed), Context::new(&SHA256), vec![0; PIECE]);
    let mut left = bytes;
    while left > 0 {
        let piece = &mut buffer[..left.min(PIECE)];
        rng.fill_bytes(piece);
        sum.update(piece);
        stream.write_all(piece).unwrap_or_else(|error| panic!("flow {seed}, {left} of {bytes} left: {error}"));
        left -= piece.len();
        if !rest.is_zero() {
            thread::sleep(rest);
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut arrived = [0; 32];
    stream.read_exact(&mut arrived).unwrap_or_else(|error| panic!("no checksum of flow {seed}: {error}"));
    assert_eq!(sum.finish().as_ref(), arrived, "flow {seed}: other bytes arrived than were sent");
}
