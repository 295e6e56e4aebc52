//! A gate between two real MariaDB servers: a semi-synchronous commit returns when its bytes are protected, and not
//! otherwise, and the primary never falls back to asynchronous replication.

use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use crate::servers::{Gateway, Server, directory, free_port, unprivileged};
use crate::testbed::until;
use onwire::config::gate::Kind;

/// A server, its port and its files.
struct Site {
    server: Server,
    port: u16,
    directory: tempfile::TempDir,
}

impl Site {
    /// Starts a server with a file of `config/mariadb`, and with further options, which override those of the file.
    fn start(file: &str, options: &[&str]) -> Site {
        let (directory, port) = (directory(), free_port());
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/mariadb").join(file);
        std::fs::copy(&config, directory.path().join(file)).unwrap();
        let path = directory.path().display();
        let install = unprivileged("mariadb-install-db", directory.path())
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            // At its start a server removes the temporary tables of other servers in its temporary directory.
            .args([format!("--datadir={path}/data"), format!("--tmpdir={path}")])
            .output()
            .unwrap_or_else(|error| panic!("mariadb-install-db: {error}; install it: apt-get install mariadb-server"));
        assert!(install.status.success(), "{}", String::from_utf8_lossy(&install.stderr));
        let own = [
            format!("--defaults-file={path}/{file}"),
            format!("--datadir={path}/data"),
            format!("--tmpdir={path}"),
            format!("--socket={path}/socket"),
            format!("--pid-file={path}/pid"),
            format!("--port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--innodb-buffer-pool-size=16M".to_owned(),
        ];
        let arguments: Vec<String> = own.into_iter().chain(options.iter().map(|&word| word.to_owned())).collect();
        let server = Server::start("/usr/sbin/mariadbd", "mariadb-server", &arguments, directory.path());
        let site = Site { server, port, directory };
        until("mariadbd answers", || site.client("SELECT 1").wait().unwrap().success());
        site
    }

    /// A client that executes statements and exits.
    fn client(&self, sql: &str) -> Child {
        unprivileged("mariadb", self.directory.path())
            .args(["--no-defaults", "--socket=socket", "--user=root", "--batch", "--skip-column-names", "-e", sql])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("mariadb: {error}; install it: apt-get install mariadb-client"))
    }

    fn ask(&self, sql: &str) -> String {
        let output = self.client(sql).wait_with_output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn status(&self, name: &str) -> String {
        let row = self.ask(&format!("SHOW GLOBAL STATUS LIKE '{name}'"));
        row.rsplit('\t').next().unwrap_or_default().to_owned()
    }
}

fn has_ended(client: &mut Child) -> bool {
    client.try_wait().unwrap().is_some()
}

fn only_what_is_protected_is_acknowledged(primary: &Site, mirror: &Site, gate: &Gateway) {
    gate.protect(false);
    let before = gate.injected();
    primary.ask("INSERT INTO d.t (word) VALUES ('real')");
    assert_eq!(gate.injected(), before, "nothing is protected");
    mirror.server.freeze();
    let mut insert = primary.client("INSERT INTO d.t (word) VALUES ('held')");
    thread::sleep(Duration::from_millis(1500));
    assert!(!has_ended(&mut insert), "the mirror is frozen and nothing is protected");
    gate.protect(true);
    until("the protected commit returns", || has_ended(&mut insert));
    assert!(gate.injected() > before);
    primary.ask("INSERT INTO d.t (word) VALUES ('protected')");
    primary.ask("FLUSH BINARY LOGS; INSERT INTO d.t (word) VALUES ('another file')");
    gate.protect(false);
    let mut insert = primary.client("INSERT INTO d.t (word) VALUES ('held again')");
    thread::sleep(Duration::from_millis(1500));
    assert!(!has_ended(&mut insert), "one release is not a release of what follows");
    mirror.server.thaw();
    until("the mirror's own acknowledgement ends the commit", || has_ended(&mut insert));
    // A row larger than a packet can be; a frozen mirror would not read so much.
    gate.protect(true);
    primary.ask("INSERT INTO d.t (word) VALUES (REPEAT('x', 17000000))");
    primary.ask("INSERT INTO d.t (word) VALUES ('behind it')");
    gate.protect(false);
    let rows = "SELECT COUNT(*), SUM(LENGTH(word)) FROM d.t";
    until("the mirror has every row", || mirror.ask(rows) == primary.ask(rows));
    assert_eq!(primary.status("Rpl_semi_sync_master_status"), "ON");
    assert_eq!(primary.status("Rpl_semi_sync_master_no_tx"), "0");
}

/// A primary with a mirror that replicates by GTID, through a gate.
fn replicating(checksum: &str) -> (Site, Site, Gateway) {
    let primary = Site::start("primary.cnf", &[checksum, "--binlog-format=ROW"]);
    let mirror = Site::start("mirror.cnf", &[]);
    // Before any commit waits.
    primary.ask(
        "SET GLOBAL rpl_semi_sync_master_enabled=OFF; CREATE USER r@localhost IDENTIFIED BY 'secret'; \
         CREATE USER r@'127.0.0.1' IDENTIFIED BY 'secret'; GRANT REPLICATION SLAVE ON *.* TO r@localhost; \
         GRANT REPLICATION SLAVE ON *.* TO r@'127.0.0.1'; CREATE DATABASE d; \
         CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, word LONGTEXT); \
         SET GLOBAL rpl_semi_sync_master_enabled=ON",
    );
    let gate = Gateway::start(Kind::MariaDb, primary.port);
    mirror.ask(&format!(
        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='r', MASTER_PASSWORD='secret', \
         MASTER_USE_GTID=slave_pos, MASTER_SSL=0, MASTER_CONNECT_RETRY=1; START SLAVE",
        gate.port()
    ));
    until("the mirror replicates", || gate.has_phase("semi-synchronous replication"));
    (primary, mirror, gate)
}

#[test]
fn a_commit_is_acknowledged_when_it_is_protected_and_not_before() {
    for checksum in ["CRC32", "NONE"] {
        let checksum = format!("--binlog-checksum={checksum}");
        let (primary, mirror, gate) = replicating(&checksum);
        only_what_is_protected_is_acknowledged(&primary, &mirror, &gate);
        gate.outlives_start();

        // Again on another connection, which begins inside a file and asks by file and position.
        mirror.ask("STOP SLAVE; CHANGE MASTER TO MASTER_USE_GTID=no; START SLAVE");
        until("the mirror replicates again", || primary.status("Rpl_semi_sync_master_clients") == "1");
        only_what_is_protected_is_acknowledged(&primary, &mirror, &gate);
    }
}

#[test]
fn a_mirror_that_comes_back_without_acknowledged_commits_is_reported() {
    let (primary, mirror, gate) = replicating("--binlog-checksum=CRC32");
    let acknowledge_early = |word: &str| {
        gate.protect(false);
        primary.ask("INSERT INTO d.t (word) VALUES ('the mirror has spoken')");
        mirror.server.freeze();
        gate.protect(true);
        primary.ask(&format!("INSERT INTO d.t (word) VALUES ('{word}')"));
        gate.protect(false);
        mirror.server.thaw();
    };
    let rows = "SELECT COUNT(*), SUM(LENGTH(word)) FROM d.t";
    let in_step = || until("the mirror has every row", || mirror.ask(rows) == primary.ask(rows));
    // The mirror has applied everything, and asks for what follows.
    acknowledge_early("applied");
    in_step();
    mirror.ask("STOP SLAVE; START SLAVE");
    primary.ask("FLUSH BINARY LOGS; INSERT INTO d.t (word) VALUES ('behind it')");
    // By file and position, it keeps what it has not applied.
    mirror.ask("STOP SLAVE; CHANGE MASTER TO MASTER_USE_GTID=no; START SLAVE; STOP SLAVE SQL_THREAD");
    acknowledge_early("kept");
    primary.ask("INSERT INTO d.t (word) VALUES ('it has read what comes before')");
    mirror.ask("STOP SLAVE; START SLAVE");
    in_step();
    primary.ask("INSERT INTO d.t (word) VALUES ('it goes on')");
    assert_eq!(gate.shortfalls(), (0, 0), "it had everything");

    // By GTID, it discards what it has not applied.
    mirror.ask("STOP SLAVE; CHANGE MASTER TO MASTER_USE_GTID=slave_pos; START SLAVE; STOP SLAVE SQL_THREAD");
    acknowledge_early("thrown away");
    mirror.ask("STOP SLAVE; START SLAVE");
    in_step();
    until("the gate has noticed", || gate.shortfalls().0 > 0);
    let (times, bytes) = gate.shortfalls();
    assert!(times == 1 && bytes > 50, "{times} times, {bytes} bytes");
}
