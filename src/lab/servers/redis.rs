//! Redis in a lab: a primary, its replica, and a session in their protocol (RESP 2).
//!
//! Nothing is written to disk: the scenario compares what the two servers have in memory.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixStream,
    path::Path,
};

use super::{data_dir::DataDir, server::Server};
use crate::lab::{error::LabError, network::Network, program::path_text};

/// Its port.
pub const PORT: u16 = 6379;
/// The longest value that is accepted.
const LONGEST: usize = 64 << 20;

/// The reply to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A simple string or a bulk string.
    Text(String),
    /// A number.
    Number(i64),
    /// An array.
    List(Vec<Answer>),
    /// A null.
    Nothing,
}

/// A session over the unix socket.
#[derive(Debug)]
pub struct Session {
    stream: BufReader<UnixStream>,
}

/// Starts a server that follows `primary`, if there is one; does not wait until it is ready.
pub fn launch(
    network: &Network<'_>,
    place: &DataDir,
    (node, address): (&str, IpAddr),
    primary: Option<SocketAddr>,
    socket: &Path,
) -> Result<Server, LabError> {
    let directory = path_text(&place.directory(node)?)?;
    let (address, port, socket) = (address.to_string(), PORT.to_string(), path_text(socket)?);
    let mut words = vec!["redis-server", "--bind", &address, "--port", &port, "--unixsocket", &socket];
    words.extend(["--unixsocketperm", "777", "--save", "", "--appendonly", "no", "--dir", &directory]);
    words.extend(["--protected-mode", "no", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]);
    let follow = primary.map(|it| [it.ip().to_string(), it.port().to_string()]);
    if let Some([host, port]) = &follow {
        words.extend(["--replicaof", host, port]);
    }
    Server::start(network, place, node, node, &words)
}

impl Session {
    /// Connects to the socket file.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let mut session = Self { stream: BufReader::new(UnixStream::connect(socket)?) };
        session.command(&["PING"])?;
        Ok(session)
    }

    /// Runs a command.
    pub fn command(&mut self, words: &[&str]) -> io::Result<Answer> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.stream.get_mut().write_all(request.as_bytes())?;
        answer(&mut self.stream)
    }

    /// Sets a key and, with `waits`, waits until one replica has acknowledged it.
    pub fn set(&mut self, id: u64, words: &str, waits: bool) -> io::Result<()> {
        self.command(&["SET", &id.to_string(), words])?;
        if waits && self.command(&["WAIT", "1", "0"])? != Answer::Number(1) {
            return Err(io::Error::other("WAIT returned without a replica"));
        }
        Ok(())
    }

    /// Every key that is a number.
    pub fn ids(&mut self) -> io::Result<Vec<u64>> {
        let Answer::List(keys) = self.command(&["KEYS", "*"])? else { return Ok(Vec::new()) };
        let number = |key| if let Answer::Text(text) = key { text.parse().ok() } else { None };
        Ok(keys.into_iter().filter_map(number).collect())
    }

    /// Whether a replica follows and has loaded the snapshot.
    pub fn is_followed(&mut self) -> io::Result<bool> {
        let info = self.command(&["INFO", "replication"])?;
        Ok(matches!(info, Answer::Text(text) if text.contains("state=online")))
    }
}

fn answer(stream: &mut impl BufRead) -> io::Result<Answer> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "Redis answered with what is not understood");
    let mut line = String::new();
    stream.read_line(&mut line)?;
    // A line without its end comes from a server that died; it is no answer.
    if !line.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).ok_or_else(broken)?;
    let number = || rest.parse::<i64>().map_err(|_| broken());
    match kind {
        "+" => Ok(Answer::Text(rest.to_owned())),
        "-" => Err(io::Error::other(rest.to_owned())),
        ":" => number().map(Answer::Number),
        "$" => match usize::try_from(number()?) {
            Ok(length) if length < LONGEST => {
                let mut value = vec![0; length + 2];
                stream.read_exact(&mut value)?;
                value.truncate(length);
                Ok(Answer::Text(String::from_utf8_lossy(&value).into_owned()))
            }
            Ok(_) => Err(broken()),
            Err(_) => Ok(Answer::Nothing),
        },
        "*" => (0..number()?).map(|_| answer(stream)).collect::<io::Result<_>>().map(Answer::List),
        _ => Err(broken()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_reply_is_parsed() {
        let text = "*5\r\n+OK\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n*0\r\n";
        let text_of = |text: &str| Answer::Text(text.to_owned());
        let wanted = vec![text_of("OK"), Answer::Number(-7), text_of("a\r\n"), Answer::Nothing, Answer::List(vec![])];
        assert_eq!(answer(&mut text.as_bytes()).unwrap(), Answer::List(wanted));
        for length in 0..text.len() {
            assert!(answer(&mut &text.as_bytes()[..length]).is_err(), "{length}");
        }
        assert_eq!(answer(&mut "-ERR no\r\n".as_bytes()).unwrap_err().to_string(), "ERR no");
        assert!(answer(&mut "$99999999999\r\n".as_bytes()).is_err());
    }
}
