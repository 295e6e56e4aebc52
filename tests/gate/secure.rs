//! TLS that ends at the gate: plain text inside, and exact offsets of the ciphertext outside.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use onwire::config::gate::{Certificate, Gate, Policy, UpstreamTls};
use onwire::notify::message::FlowKey;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::testbed::*;

/// A socket that counts the bytes read from it.
pub struct Counted(pub TcpStream, pub u64);

impl Read for Counted {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(bytes)?;
        self.1 += count as u64;
        Ok(count)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A self-signed certificate for `localhost`, in files.
pub fn certificate(directory: &Path, name: &str) -> Certificate {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let path = |what: &str| -> PathBuf { directory.join(format!("{name}.{what}")) };
    std::fs::write(path("pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
    Certificate { chain: path("pem"), key: path("key") }
}

pub fn client(trusted: &Certificate) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&trusted.chain).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

fn server_session(own: &Certificate) -> ServerConnection {
    let chain = vec![CertificateDer::from_pem_file(&own.chain).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    ServerConnection::new(Arc::new(config)).unwrap()
}

/// A connection with TLS on both legs, before both handshakes.
struct Private {
    gate: Running,
    appliance: Appliance,
    key: FlowKey,
    primary: StreamOwned<ServerConnection, TcpStream>,
    mirror: StreamOwned<ClientConnection, Counted>,
    _directory: tempfile::TempDir,
}

impl Private {
    fn open() -> Private {
        let directory = tempfile::tempdir().unwrap();
        let (of_gate, of_primary) = (certificate(directory.path(), "gate"), certificate(directory.path(), "primary"));
        let Scene { appliance, gate, session, .. } = Scene::with(|upstream| Gate {
            tls: Some(of_gate.clone()),
            upstream_tls: Some(UpstreamTls {
                authority: of_primary.chain.clone(),
                name: "localhost".to_owned(),
                certificate: None,
            }),
            ..gate(upstream, Policy::Auto)
        });
        let Session { primary, mirror, key } = session;
        let mirror = StreamOwned::new(client(&of_gate), Counted(mirror, 0));
        let primary = StreamOwned::new(server_session(&of_primary), primary);
        Private { gate, appliance, key, primary, mirror, _directory: directory }
    }
}

#[test]
fn a_line_from_before_the_handshake_with_the_mirror_is_released_with_its_record() {
    let Private { gate, appliance, key, mut primary, mut mirror, _directory } = Private::open();
    primary.write_all(b"one\ntwo\n").unwrap();
    gate.connection("both lines at the gate", |it| it.buffered.0 == 8);
    let mut got = [0; 8];
    mirror.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"one\ntwo\n");
    let seen = gate.connection("a mark for both", |it| it.waiting == 1);
    assert_eq!(seen.sent, mirror.sock.1);
    appliance.protect(key, seen.sent - 1);
    gate.connection("all but one byte protected", |it| it.protected == seen.sent - 1 && it.waiting == 1);
    appliance.protect(key, seen.sent);
    let mut answer = [0; 3];
    primary.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"P2\n");
}

#[test]
fn with_tls_on_both_legs_a_line_is_released_at_the_last_byte_of_its_record() {
    let Private { gate, appliance, key, mut primary, mut mirror, _directory } = Private::open();
    // First the handshake with the mirror: lines sent before it share one mark. The mirror's side ends before that of the gate, so
    // the second line waits until the first has its mark.
    while mirror.conn.is_handshaking() || mirror.conn.wants_write() {
        mirror.conn.complete_io(&mut mirror.sock).unwrap();
    }
    for (line, waiting) in [(b"one\n", 1), (b"two\n", 2)] {
        primary.write_all(line).unwrap();
        let mut got = [0; 4];
        mirror.read_exact(&mut got).unwrap();
        assert_eq!(&got, line);
        gate.connection("the line sent", |it| it.waiting == waiting);
    }

    let seen = gate.connection("both lines sent", |it| it.waiting == 2);
    assert_eq!(seen.tls, (true, true));
    assert_eq!(seen.sent, mirror.sock.1, "the gate counts what the socket carries");
    // The second line is the last record of the stream.
    appliance.protect(key, seen.sent - 1);
    let mut answer = [0; 3];
    primary.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"P1\n");
    primary.sock.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(primary.read(&mut answer).is_err(), "one byte of its record is not protected");
    primary.sock.set_read_timeout(Some(SOON)).unwrap();
    appliance.protect(key, seen.sent);
    primary.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"P2\n");

    // A large amount in both directions, and a TLS end that arrives.
    let long = vec![b'q'; 3_000_000];
    let sent = long.clone();
    let writer = std::thread::spawn(move || {
        primary.write_all(&sent).unwrap();
        primary.conn.send_close_notify();
        primary.flush().unwrap();
        primary.sock.shutdown(std::net::Shutdown::Write).unwrap();
        primary
    });
    let mut got = Vec::new();
    mirror.read_to_end(&mut got).unwrap();
    assert!(got == long);
    drop(writer.join().unwrap());
}

#[test]
fn a_caller_that_does_not_use_tls_gets_an_alert_and_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let own = certificate(directory.path(), "gate");
    let Scene { appliance: _appliance, gate, mut session, .. } =
        Scene::with(|upstream| Gate { tls: Some(own), ..gate(upstream, Policy::Auto) });
    session.mirror.write_all(b"this is no TLS at all, and never will be\n").unwrap();
    session.mirror.shutdown(std::net::Shutdown::Write).unwrap();
    let mut alert = Vec::new();
    let _ = session.mirror.read_to_end(&mut alert);
    assert_eq!(session.primary.read(&mut [0; 8]).unwrap(), 0, "nothing of it reaches the primary");
    drop(session);
    until("over", || gate.status().gates[0].connections.is_empty().then_some(()));
}

#[test]
fn silent_callers_keep_a_real_client_out_for_the_bound_at_most() {
    const PLACES: usize = 2;
    let directory = tempfile::tempdir().unwrap();
    let own = certificate(directory.path(), "gate");
    let (primary, upstream) = server();
    let appliance = Appliance::start();
    let bound = Duration::from_secs(2);
    let settings =
        Gate { tls: Some(own.clone()), connections: PLACES, start_timeout: bound, ..gate(upstream, Policy::Auto) };
    let gate = Running::lines(settings, appliance.address);
    gate.hears();
    let begun = Instant::now();
    let silent: Vec<_> = (0..PLACES).map(|_| Session::open(&gate, &primary)).collect();
    let mut early = TcpStream::connect(gate.address).unwrap();
    early.set_read_timeout(Some(SOON)).unwrap();
    assert!(!matches!(early.read(&mut [0]), Ok(1..)), "there is no free slot");
    until("the silent callers are dropped", || (gate.status().gates[0].totals.overdue == PLACES as u64).then_some(()));
    assert!(begun.elapsed() >= bound, "{:?}", begun.elapsed());
    for mut caller in silent {
        assert!(!matches!(caller.mirror.read(&mut [0]), Ok(1..)));
        assert!(!matches!(caller.primary.read(&mut [0]), Ok(1..)));
    }

    let Session { mut primary, mirror, key } = Session::open(&gate, &primary);
    let mut mirror = StreamOwned::new(client(&own), mirror);
    mirror.write_all(b"hello\n").unwrap();
    primary.read_exact(&mut [0; 6]).unwrap();
    // A client that has begun may be silent.
    std::thread::sleep(bound * 2);
    primary.write_all(b"one\n").unwrap();
    mirror.read_exact(&mut [0; 4]).unwrap();
    appliance.protect(key, gate.connection("a mark", |it| it.waiting == 1).sent);
    let mut answer = [0; 3];
    primary.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"P1\n");
    let totals = gate.stop().gates[0].totals.clone();
    assert_eq!((totals.refused, totals.overdue, totals.connect_failures), (1, PLACES as u64, 0));
}

#[test]
fn a_server_with_another_certificate_gets_no_data() {
    let directory = tempfile::tempdir().unwrap();
    let (expected, actual) = (certificate(directory.path(), "expected"), certificate(directory.path(), "actual"));
    let upstream_tls = Some(UpstreamTls { authority: expected.chain, name: "localhost".to_owned(), certificate: None });
    let Scene { appliance: _appliance, gate: _gate, session, .. } =
        Scene::with(|upstream| Gate { upstream_tls, ..gate(upstream, Policy::Auto) });
    let (mut mirror, primary) = (session.mirror, session.primary);
    mirror.write_all(b"secret\n").unwrap();
    let mut server = StreamOwned::new(server_session(&actual), primary);
    assert!(server.read(&mut [0; 16]).is_err(), "the gate must refuse the certificate");
    drop(server);
    assert!(!matches!(mirror.read(&mut [0; 8]), Ok(1..)));
}
