//! TLS that ends at the gate: a gate's TLS configuration, and the TLS session of one leg.
//!
//! A session turns plain text into the bytes that the socket carries and back, record by record, so that the offset
//! where a record ends in the socket's stream is known. A session has no socket, and does not decide when TLS begins.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use ::ring::digest::{Context, SHA256};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, Error, RootCertStore, ServerConfig, ServerConnection};

use super::dialect::TlsChoice;
use super::pem::{certificates, private_key};
use crate::config::gate::{Certificate, Gate, UpstreamTls};

/// The TLS configuration of a gate; empty if no TLS ends at the gate.
#[derive(Clone, Default)]
pub struct Tls {
    server: Option<(Arc<ServerConfig>, Contents)>,
    client: Option<(Arc<ClientConfig>, ServerName<'static>, Contents)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Tls({:?})", self.choice())
    }
}

impl Tls {
    /// Reads the configured files.
    ///
    /// # Errors
    /// A file cannot be read or does not hold what it should; the message names it.
    pub fn load(certificate: Option<&Certificate>, upstream: Option<&UpstreamTls>) -> Result<Tls, String> {
        let provider = Arc::new(ring::default_provider());
        let server = certificate.map(|files| server(files, &provider)).transpose()?;
        let client = upstream.map(|wish| client(wish, &provider)).transpose()?;
        Ok(Tls { server, client })
    }

    /// Reads the files of a gate.
    ///
    /// # Errors
    /// Everything that is wrong with them; each message names the gate and the file.
    pub fn of(gate: &Gate) -> Result<Tls, Vec<String>> {
        let named = |fault| format!("gate {}: {fault}", gate.name);
        match (Tls::load(gate.tls.as_ref(), None), Tls::load(None, gate.upstream_tls.as_ref())) {
            (Ok(Tls { server, .. }), Ok(Tls { client, .. })) => Ok(Tls { server, client }),
            (one, other) => Err([one, other].into_iter().filter_map(Result::err).map(named).collect()),
        }
    }

    /// Whether a session is the same as with `other`: certificates, keys, authorities and the name of the server.
    pub fn is_like(&self, other: &Tls) -> bool {
        let contents = |tls: &Tls| (tls.server.as_ref().map(|it| it.1), tls.client.as_ref().map(|it| it.2));
        contents(self) == contents(other)
    }

    /// The legs on which TLS is configured.
    pub fn choice(&self) -> TlsChoice {
        TlsChoice { accepts: self.server.is_some(), connects: self.client.is_some() }
    }

    /// A session as the server, toward the caller.
    ///
    /// # Errors
    /// No certificate is configured.
    pub fn accept(&self) -> Result<Session, String> {
        let (config, _) = self.server.as_ref().ok_or("the gate has no certificate for those who connect to it")?;
        let session = ServerConnection::new(Arc::clone(config)).map_err(|error| error.to_string())?;
        Ok(Session::new(session.into()))
    }

    /// A session as the client, toward the server.
    ///
    /// # Errors
    /// TLS is not configured for it.
    pub fn connect(&self) -> Result<Session, String> {
        let (config, name, _) = self.client.as_ref().ok_or("the gate is not configured for TLS to the server")?;
        let session = ClientConnection::new(Arc::clone(config), name.clone()).map_err(|error| error.to_string())?;
        Ok(Session::new(session.into()))
    }
}

/// A hash of what files held, which tells whether they hold it still.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Contents([u8; 32]);

impl Contents {
    fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Contents {
        let mut sum = Context::new(&SHA256);
        for part in parts {
            sum.update(&part.len().to_be_bytes());
            sum.update(part);
        }
        Contents(sum.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    fn of_pair(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>) -> Contents {
        Contents::of(chain.iter().map(AsRef::as_ref).chain([key.secret_der()]))
    }
}

fn server(files: &Certificate, provider: &Arc<CryptoProvider>) -> Result<(Arc<ServerConfig>, Contents), String> {
    let chain = certificates(&files.chain)?;
    let key = private_key(&files.key)?;
    let contents = Contents::of_pair(&chain, &key);
    let config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| no_pair(files, &error))?;
    Ok((Arc::new(config), contents))
}

fn client(
    wish: &UpstreamTls,
    provider: &Arc<CryptoProvider>,
) -> Result<(Arc<ClientConfig>, ServerName<'static>, Contents), String> {
    let mut roots = RootCertStore::empty();
    let authorities = certificates(&wish.authority)?;
    let contents = Contents::of(authorities.iter().map(AsRef::as_ref).chain([wish.name.as_bytes()]));
    for certificate in authorities {
        roots.add(certificate).map_err(|error| {
            let file = wish.authority.display();
            format!(
                "a certificate in {file} is no authority ({error}); `openssl x509 -noout -text -in {file}` shows it"
            )
        })?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let (config, contents) = match &wish.certificate {
        None => (builder.with_no_client_auth(), contents),
        Some(files) => {
            let (chain, key) = (certificates(&files.chain)?, private_key(&files.key)?);
            let contents = Contents::of([&contents.0[..], &Contents::of_pair(&chain, &key).0]);
            (builder.with_client_auth_cert(chain, key).map_err(|error| no_pair(files, &error))?, contents)
        }
    };
    let name = ServerName::try_from(wish.name.clone()).map_err(|_| {
        format!("{:?} is neither a host name nor an address; name what the certificate says", wish.name)
    })?;
    Ok((Arc::new(config), name, contents))
}

fn no_pair(files: &Certificate, error: &Error) -> String {
    let (chain, key) = (files.chain.display(), files.key.display());
    match error {
        Error::InconsistentKeys(_) => format!(
            "the private key in {key} does not belong to the first certificate in {chain}: the chain must begin with the one \
             that the key was made for; `openssl x509 -noout -pubkey -in {chain}` and `openssl pkey -pubout -in {key}` show \
             the same when it does"
        ),
        Error::InvalidCertificate(_) => {
            format!(
                "a certificate in {chain} cannot be read ({error}); `openssl x509 -noout -text -in {chain}` shows it"
            )
        }
        error => format!(
            "{chain} and {key} cannot be used: {error}; keys may be RSA of 2048 bits or more, ECDSA, or Ed25519"
        ),
    }
}

/// TLS on one leg.
pub struct Session {
    connection: Connection,
    /// Plain text given before the handshake was done.
    early: Vec<u8>,
    established: bool,
    ended: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Session {{ established: {} }}", self.established)
    }
}

impl Session {
    fn new(mut connection: Connection) -> Session {
        // The leg bounds what waits; the library's own limit would lose bytes silently.
        connection.set_buffer_limit(None);
        Session { connection, early: Vec::new(), established: false, ended: false }
    }

    /// Whether the handshake is done.
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// Whether the far end has announced that nothing more will come.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Plain text that waits for the handshake.
    pub fn backlog(&self) -> usize {
        self.early.len()
    }

    /// Takes bytes from the socket: appends the plain text to `plain` and the answers to `out`. True when these bytes
    /// completed the handshake.
    ///
    /// # Errors
    /// TLS failed; `out` got the alert for the far end.
    pub fn receive(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool, String> {
        let before = self.established;
        while !bytes.is_empty() {
            let taken = self.connection.read_tls(&mut bytes).map_err(|error| error.to_string())?;
            if taken == 0 {
                // Bytes after the end of the session are ignored.
                self.ended = true;
                break;
            }
            match self.connection.process_new_packets() {
                Ok(state) => self.ended |= state.peer_has_closed(),
                Err(error) => {
                    self.drain(out);
                    return Err(format!("TLS: {error}"));
                }
            }
            let mut reader = self.connection.reader();
            match reader.read_to_end(plain) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        self.drain(out);
        if !self.established && !self.connection.is_handshaking() {
            self.established = true;
            let early = std::mem::take(&mut self.early);
            self.send(&early, out);
        }
        Ok(self.established && !before)
    }

    /// Appends whole records with this plain text to `out`, so that the last record ends where `out` ends. Until the
    /// handshake is done, the plain text waits.
    pub fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        if !self.established {
            self.early.extend_from_slice(plain);
            return;
        }
        self.connection.writer().write_all(plain).expect("the session's buffer has no limit");
        self.drain(out);
    }

    /// Appends the first bytes of the handshake, if there are any.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        self.drain(out);
    }

    /// Appends the close alert, if the session is established. During the handshake the end of the TCP stream is
    /// enough; bytes that an unauthenticated sender sends after it are still answered with an alert, which must not
    /// follow a close alert.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if self.established {
            self.connection.send_close_notify();
        }
        self.drain(out);
    }

    fn drain(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // Writing to memory cannot fail.
            if self.connection.write_tls(out).is_err() {
                return;
            }
        }
    }
}
