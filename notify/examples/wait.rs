//! Sends a line to a mirror and prints whether it is protected:
//! `cargo run --no-default-features --example wait -- MIRROR:PORT KEY_FILE`.

use std::error::Error;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use onwire_notify::client::{Client, Waited};
use onwire_notify::secret::Secret;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, mirror, key_file] = &arguments[..] else {
        return Err("usage: wait MIRROR:PORT KEY_FILE".into());
    };
    let key = Secret::parse(&std::fs::read_to_string(key_file)?)?.to_key(1);
    let mut client = Client::connect("127.0.0.1:7118", key)?;

    let mut mirror = TcpStream::connect(mirror)?;
    client.watch(Client::flow_of(&mirror)?.key);
    mirror.write_all(b"a line that must survive this site\n")?;

    match client.wait_all(&mirror, Instant::now() + Duration::from_secs(1))? {
        Waited::Protected { level } => println!("protected: {}", level.name()),
        Waited::NotProtected { reason } => println!("not protected: {reason}"),
    }
    Ok(())
}
