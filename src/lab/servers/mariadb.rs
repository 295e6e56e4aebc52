//! MariaDB in a lab: a primary, its semi-synchronous replica, and a session in the classic MySQL protocol.
//!
//! The session runs queries and reads text values; it supports only the empty password of the lab's root, and no TLS.

use std::{
    io::{self, BufReader, Read, Write},
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixStream,
    path::Path,
};

use super::{data_dir::DataDir, server::Server};
use crate::lab::{error::LabError, network::Network, program::path_text};

/// Its port.
pub const PORT: u16 = 3306;
/// The replica's password at the primary.
const PASSWORD: &str = "onwire";
/// CLIENT_LONG_PASSWORD, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH.
const CAPABILITIES: u32 = 1 | 0x200 | 0x8000 | 0x8_0000;
const UTF8: u8 = 33;

/// Creates an empty data directory of this name.
pub fn init(network: &Network<'_>, place: &DataDir, node: &str, data: &str) -> Result<(), LabError> {
    let directory = path_text(&place.directory(data)?)?;
    let (owner, data) = (place.as_owner(), format!("--datadir={directory}"));
    let mut words: Vec<&str> = owner.iter().map(String::as_str).collect();
    words.extend(["mariadb-install-db", "--no-defaults", &data, "--auth-root-authentication-method=normal"]);
    words.extend(["--skip-test-db", "--innodb-log-file-size=8M", "--cross-bootstrap"]);
    network.run(node, &words).map(drop)
}

/// Starts a server on the data directory of its node's name; does not wait until it is ready.
pub fn launch(
    network: &Network<'_>,
    place: &DataDir,
    (node, address): (&str, IpAddr),
    socket: &Path,
) -> Result<Server, LabError> {
    let number = if node == "primary" { 1 } else { 2 };
    let data = path_text(&place.path(node))?;
    let settings = [
        format!("--datadir={data}"),
        format!("--socket={}", path_text(socket)?),
        format!("--bind-address={address}"),
        format!("--port={PORT}"),
        format!("--server-id={number}"),
        format!("--tmpdir={data}"),
    ];
    let mut words = vec!["mariadbd", "--no-defaults", "--log-bin=log", "--sync-binlog=1", "--innodb-log-file-size=8M"];
    words.extend(["--innodb-buffer-pool-size=32M", "--skip-name-resolve", "--performance-schema=OFF"]);
    words.extend(["--rpl-semi-sync-master-wait-point=AFTER_SYNC", "--rpl-semi-sync-master-timeout=3600000"]);
    words.extend(["--rpl-semi-sync-slave-enabled=ON", "--slave-net-timeout=10", "--pid-file=server.pid"]);
    words.extend(settings.iter().map(String::as_str));
    Server::start(network, place, node, node, &words)
}

/// Creates the replication user and the table, without writing to the binary log.
pub fn prepare(session: &mut Session) -> io::Result<()> {
    for statement in [
        "SET sql_log_bin = 0",
        &format!("CREATE USER mirror IDENTIFIED BY '{PASSWORD}'"),
        "GRANT REPLICATION SLAVE ON *.* TO mirror",
        "CREATE DATABASE lab",
        "CREATE TABLE lab.items (id BIGINT PRIMARY KEY, words TEXT NOT NULL) ENGINE = InnoDB",
    ] {
        session.query(statement)?;
    }
    Ok(())
}

/// Makes the server of this session replicate from `primary`.
pub fn follow(session: &mut Session, primary: SocketAddr) -> io::Result<()> {
    let (host, port) = (primary.ip(), primary.port());
    session.query(&format!(
        "CHANGE MASTER TO MASTER_HOST = '{host}', MASTER_PORT = {port}, MASTER_USER = 'mirror', \
         MASTER_PASSWORD = '{PASSWORD}', MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1"
    ))?;
    session.query("START SLAVE").map(drop)
}

/// A session over the unix socket.
#[derive(Debug)]
pub struct Session {
    stream: BufReader<UnixStream>,
}

/// One row: its values as text, `None` for null.
pub type Row = Vec<Option<String>>;

impl Session {
    /// Connects to the socket file as root.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let mut session = Self { stream: BufReader::new(UnixStream::connect(socket)?) };
        // The server's greeting is not needed: the empty password is the same with every salt.
        session.packet()?;
        let mut login = CAPABILITIES.to_le_bytes().to_vec();
        login.extend_from_slice(&(1u32 << 24).to_le_bytes());
        login.push(UTF8);
        login.extend_from_slice(&[0; 23]);
        login.extend_from_slice(b"root\0\0mysql_native_password\0");
        session.send(1, &login)?;
        let (number, answer) = session.packet()?;
        match answer.first() {
            Some(0) => Ok(session),
            // The server requests another authentication method for the same empty password.
            Some(0xfe) => {
                session.send(number.wrapping_add(1), &[])?;
                expect_ok(&session.packet()?.1).map(|()| session)
            }
            _ => expect_ok(&answer).map(|()| session),
        }
    }

    /// Runs a statement and returns its rows.
    pub fn query(&mut self, sql: &str) -> io::Result<Vec<Row>> {
        self.send(0, &[b"\x03", sql.as_bytes()].concat())?;
        let (_, first) = self.packet()?;
        if matches!(first.first(), Some(0 | 0xff) | None) {
            return expect_ok(&first).map(|()| Vec::new());
        }
        let mut rows = Vec::new();
        let mut ends = 0;
        // Column descriptions come before the first end packet, rows before the second.
        while ends < 2 {
            let (_, packet) = self.packet()?;
            match packet.first() {
                Some(0xff) => return expect_ok(&packet).map(|()| rows),
                Some(0xfe) if packet.len() < 9 => ends += 1,
                _ if ends == 1 => rows.push(row(&packet).ok_or_else(broken)?),
                _ => {}
            }
        }
        Ok(rows)
    }

    /// A status variable.
    pub fn status(&mut self, name: &str) -> io::Result<String> {
        let rows = self.query(&format!("SHOW GLOBAL STATUS LIKE '{name}'"))?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().nth(1).flatten()).unwrap_or_default())
    }

    /// Every id in the table.
    pub fn ids(&mut self) -> io::Result<Vec<u64>> {
        let rows = self.query("SELECT id FROM lab.items")?;
        Ok(rows.into_iter().filter_map(|row| row.first()?.as_ref()?.parse().ok()).collect())
    }

    fn send(&mut self, number: u8, body: &[u8]) -> io::Result<()> {
        let length = (body.len() as u32).to_le_bytes();
        let head = [length[0], length[1], length[2], number];
        self.stream.get_mut().write_all(&[&head, body].concat())
    }

    fn packet(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head)?;
        let [a, b, c, number] = head;
        let mut body = vec![0; u32::from_le_bytes([a, b, c, 0]) as usize];
        self.stream.read_exact(&mut body)?;
        Ok((number, body))
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "MariaDB answered with what is not understood")
}

/// Accepts an OK packet; turns an error packet into an error with the server's message.
fn expect_ok(packet: &[u8]) -> io::Result<()> {
    match packet {
        [0, ..] => Ok(()),
        // An error number and `#` with a state come before the message.
        [0xff, _, _, rest @ ..] => Err(io::Error::other(String::from_utf8_lossy(rest).into_owned())),
        _ => Err(broken()),
    }
}

fn row(mut packet: &[u8]) -> Option<Row> {
    let mut row = Row::new();
    while let Some((first, rest)) = packet.split_first() {
        if *first == 0xfb {
            row.push(None);
            packet = rest;
            continue;
        }
        // A length of one, two or three bytes; longer values do not occur.
        let bytes = match first {
            0xfc => 2,
            0xfd => 3,
            0xfe | 0xff => return None,
            _ => 0,
        };
        let (length, rest) = rest.split_at_checked(bytes)?;
        let length = match bytes {
            0 => usize::from(*first),
            _ => length.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        };
        let (value, rest) = rest.split_at_checked(length)?;
        row.push(Some(String::from_utf8_lossy(value).into_owned()));
        packet = rest;
    }
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_parsed_and_malformed_ones_refused() {
        let long = [&[0xfc, 0x2c, 0x01], &[b'x'; 300][..]].concat();
        let packet = [b"\x02ab\xfb\x00", &long[..]].concat();
        let wanted = vec![Some("ab".to_owned()), None, Some(String::new()), Some("x".repeat(300))];
        assert_eq!(row(&packet), Some(wanted));
        assert_eq!(row(b"\x03ab"), None);
        assert_eq!(row(b"\xfe1"), None);
    }

    #[test]
    fn an_error_quotes_the_servers_message() {
        let error = expect_ok(b"\xff\x51\x04#42000no such thing").unwrap_err();
        assert_eq!(error.to_string(), "#42000no such thing");
        assert!(expect_ok(b"\0\0\0").is_ok() && expect_ok(b"").is_err());
    }
}
