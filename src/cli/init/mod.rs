//! `onwire init`: a configuration file and a key to begin with. Never overwrites one.

mod template;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use rand::rngs::OsRng;
use rand::{RngCore, TryRngCore};
use zeroize::Zeroizing;

use super::{FAILURE, USAGE, print, print_error};
use crate::config::key_file::{self, KeyFileError, Owner};
use crate::config::{self, name};
use crate::notify::secret::{self, Secret};
use crate::tunnel::keys::PrivateKey;

/// Write a configuration file and a key to begin with
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire init --node ithaca              /etc/onwire/ithaca.yaml and ithaca.key, with words in capitals to fill in
  onwire init --node ithaca --local-prefix 10.1.0.0/24 --peer syracuse --peer-endpoint 203.0.113.2:7117 \\
      --peer-prefix 10.2.0.0/24 --peer-key KEY --notify      a file with nothing left to fill in
  public=$(onwire init ./here --node ithaca)        in a script: standard output is the public key, and nothing else

A configuration file that exists is never overwritten; a key that exists is kept and used. By root, keys are given to the
owner of DIR, as whom the service runs.
Exit codes: 0 written, 1 it cannot be written or exists, 2 the options make no good file: then nothing is written.")]
pub struct Init {
    /// Where the files go; it is made if it is missing
    #[arg(value_name = "DIR", default_value = "/etc/onwire")]
    directory: PathBuf,
    #[command(flatten)]
    values: Values,
}

/// What the file says. What is not given is a word in capitals in the file, or its default.
#[derive(Debug, Args)]
pub(super) struct Values {
    /// The name of this appliance and of its files. Default: this host's
    #[arg(long, value_name = "NAME", value_parser = name::parse)]
    node: Option<String>,
    /// The tunnel's UDP address
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:7117")]
    listen: String,
    /// A prefix of our side; repeat it, or separate several by commas
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    local_prefix: Vec<String>,
    /// The name of the peer
    #[arg(long, value_name = "NAME", default_value = "peer", value_parser = name::parse)]
    peer: String,
    /// The public key of the peer
    #[arg(long, value_name = "KEY")]
    peer_key: Option<String>,
    /// Where the peer is
    #[arg(long, value_name = "HOST:PORT")]
    peer_endpoint: Option<String>,
    /// A prefix of the peer's side; repeat it, or separate several by commas
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    peer_prefix: Vec<String>,
    /// Report what is protected to programs and gates on this host; makes a key for them too
    #[arg(long)]
    notify: bool,
}

impl Init {
    /// Writes the files; prints the public key to standard output, and what to do next to standard error.
    pub fn run(self) -> ExitCode {
        let Some(node) = self.values.node.clone().or_else(host_name) else {
            print_error(
                "onwire: the name of this host is no name for an appliance; choose one: onwire init --node NAME\n",
            );
            return ExitCode::from(USAGE);
        };
        match self.write(&node) {
            Ok(made) => {
                print_error(made.next_steps());
                print(format_args!("{}\n", made.public_key))
            }
            Err(Stop::Options(problems)) => {
                print_error(problems);
                print_error("onwire: with these options the file would not be good; nothing was written\n");
                ExitCode::from(USAGE)
            }
            Err(Stop::Failed(error, hint)) => {
                print_error(format_args!("onwire: {error}\n"));
                if !hint.is_empty() {
                    print_error(format_args!("  = {hint}\n"));
                }
                ExitCode::from(FAILURE)
            }
        }
    }

    fn write(&self, node: &str) -> Result<Made, Stop> {
        let path = |extension: &str| self.directory.join(format!("{node}.{extension}"));
        let (file, key, notify) = (path("yaml"), path("key"), self.directory.join(NOTIFY_KEY));
        if file.symlink_metadata().is_ok() {
            let hint = format!("onwire check {0}; or remove it, or choose another name with --node", file.display());
            return Err(Stop::Failed(format!("{} exists, and is left as it is", file.display()), hint));
        }
        let text = template::render(&self.values, node);
        self.check(&text, &file)?;
        let directory = &self.directory;
        let failed = |error| Stop::cannot("made", directory, &error);
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
        let owner = owner_of(directory).map_err(failed)?;

        // The kernel's random numbers do not fail once it has booted.
        let mut random = OsRng.unwrap_err();
        let new = PrivateKey::generate(&mut random);
        let (private, is_new) = match key_file::write_for(&key, &new.to_text(), owner) {
            Ok(()) => (new, true),
            Err(error) if error.is_already_there() => {
                (key_file::read(&key, PrivateKey::parse).map_err(unusable(&key))?, false)
            }
            Err(error) => return Err(unusable(&key)(error)),
        };
        if self.values.notify {
            let mut bytes = Zeroizing::new([0; secret::LEN]);
            random.fill_bytes(bytes.as_mut_slice());
            match key_file::write_for(&notify, &Secret::from_random(&bytes).to_text(), owner) {
                Ok(()) => {}
                Err(error) if error.is_already_there() => {
                    drop(key_file::read(&notify, Secret::parse).map_err(unusable(&notify))?)
                }
                Err(error) => return Err(unusable(&notify)(error)),
            }
        }
        let written = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&file).and_then(|mut opened| {
            opened.write_all(text.as_bytes())?;
            opened.sync_all()
        });
        written.map_err(|error| Stop::cannot("written", &file, &error))?;
        let left = config::load(&file).err().map_or(0, |errors| errors.errors());
        Ok(Made { file, key, is_new, public_key: private.public_key().to_string(), left })
    }

    /// Refuses what `onwire check` would refuse later, but for the words to fill in and the keys that are still to be made.
    fn check(&self, text: &str, file: &Path) -> Result<(), Stop> {
        let Err(mut errors) = config::parse(text, file) else { return Ok(()) };
        let is_open = |key: &str| match key {
            "node.key_file" | "notify.keys[0].file" => true,
            "node.local_prefixes[0]" => self.values.local_prefix.is_empty(),
            "peers[0].public_key" => self.values.peer_key.is_none(),
            "peers[0].prefixes[0]" => self.values.peer_prefix.is_empty(),
            _ => false,
        };
        errors.problems.retain(|problem| !is_open(&problem.key));
        if errors.errors() == 0 { Ok(()) } else { Err(Stop::Options(errors.to_string())) }
    }
}

/// The notification key, for all appliances and gates of the host, where `onwire wait` looks for it.
const NOTIFY_KEY: &str = "notify.key";

/// Why nothing more is written.
enum Stop {
    /// What is wrong with the file that the options make.
    Options(String),
    /// What could not be done, and a hint that may be empty.
    Failed(String, String),
}

impl Stop {
    fn cannot(what: &str, path: &Path, error: &io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => "run as root, or name a directory of your own: onwire init DIR",
            _ => "",
        };
        Self::Failed(format!("{} cannot be {what}: {error}", path.display()), hint.to_owned())
    }
}

fn unusable(path: &Path) -> impl Fn(KeyFileError) -> Stop {
    move |error| {
        let hint = error.hint(path, key_file::KEYGEN);
        Stop::Failed(error.to_string(), hint)
    }
}

/// What was written.
struct Made {
    file: PathBuf,
    key: PathBuf,
    is_new: bool,
    public_key: String,
    /// How many errors `onwire check` still finds.
    left: usize,
}

impl Made {
    fn next_steps(&self) -> String {
        let (file, key) = (self.file.display(), self.key.display());
        let instance = self.file.file_stem().unwrap_or_default().display();
        let made = if self.is_new { "written" } else { "kept, as it was there" };
        let edit = match self.left {
            0 => String::new(),
            1 => "one thing is left to fill in; ".to_owned(),
            left => format!("{left} things are left to fill in; "),
        };
        format!(
            "{file}: written\n{key}: {made}\n\nNext:\n  1. give the public key below to the peer: it is peers[].public_key in its \
             file\n  2. {edit}onwire check {file}\n  3. onwire run --config {file}, or as a service: systemctl enable --now \
             onwire@{instance}\n\npublic key:\n"
        )
    }
}

/// The first label of this host's name, if it is a name.
fn host_name() -> Option<String> {
    let system = rustix::system::uname();
    let label = system.nodename().to_str().ok()?.split('.').next()?.to_owned();
    name::parse(&label).ok()
}

/// To whom keys are given: by root to the owner of the directory. `None`: they stay with who makes them.
fn owner_of(directory: &Path) -> io::Result<Option<Owner>> {
    let metadata = fs::metadata(directory)?;
    let is_given = rustix::process::geteuid().is_root() && metadata.uid() != 0;
    Ok(is_given.then(|| Owner { uid: metadata.uid(), gid: metadata.gid() }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        init: Init,
    }

    fn init(directory: &Path, arguments: &[&str]) -> Result<Made, String> {
        let directory = directory.to_str().unwrap();
        let line = Line::parse_from(["init", directory, "--node", "ithaca"].iter().chain(arguments)).init;
        line.write("ithaca").map_err(|stop| match stop {
            Stop::Options(problems) => problems,
            Stop::Failed(error, hint) => format!("{error} = {hint}"),
        })
    }

    const COMPLETE: [&str; 8] = [
        "--local-prefix",
        "10.1.0.0/24,fd00:1::/64",
        "--peer-prefix",
        "10.2.0.0/24",
        "--peer-endpoint",
        "203.0.113.2:7117",
        "--peer-key",
        "1nuvm6GBB0fIa18x8nswNQBjV92lr08gkyfD8y05Ah8=",
    ];

    #[test]
    fn a_complete_file_is_good_and_says_what_the_options_say() {
        let directory = tempfile::tempdir().unwrap();
        let arguments: Vec<_> =
            COMPLETE.into_iter().chain(["--notify", "--peer", "syracuse", "--listen", "[::]:9000"]).collect();
        let made = init(&directory.path().join("new/onwire"), &arguments).unwrap();
        assert_eq!((made.left, made.is_new), (0, true));
        let config = config::load(&made.file).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        assert_eq!(config.node.private_key().public_key().to_string(), made.public_key);
        assert_eq!((config.node.name.as_str(), config.peers[0].name.as_str()), ("ithaca", "syracuse"));
        assert_eq!((config.node.local_prefixes.len(), config.node.listen.port()), (2, 9000));
        assert_eq!(config.peers[0].endpoint.as_ref().map(ToString::to_string).as_deref(), Some("203.0.113.2:7117"));
        assert_eq!(config.notify.unwrap().keys[0].id, 1);
        for key in ["ithaca.key", "notify.key"] {
            let metadata = fs::metadata(made.file.with_file_name(key)).unwrap();
            assert_eq!(metadata.mode() & 0o7777, 0o600, "{key}");
        }
    }

    #[test]
    fn the_redundancy_that_the_file_shows_is_the_default() {
        let directory = tempfile::tempdir().unwrap();
        let made = init(directory.path(), &COMPLETE).unwrap();
        let text = fs::read_to_string(&made.file).unwrap();
        let (before, rest) = text.split_once("redundancy:\n").unwrap();
        let without = [before, rest.split_once('\n').unwrap().1].concat();
        let profiles =
            |text: &str| config::parse(text, &made.file).unwrap_or_else(|errors| panic!("{errors}")).profiles;
        assert_eq!(profiles(&text), profiles(&without));
    }

    #[test]
    fn what_is_not_given_is_asked_for_by_check_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let made = init(directory.path(), &[]).unwrap();
        let errors = config::load(&made.file).unwrap_err();
        let mut keys: Vec<_> = errors.problems.iter().map(|problem| problem.key.as_str()).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["node.local_prefixes[0]", "peers[0].prefixes[0]", "peers[0].public_key"]);
        assert_eq!(made.left, 3);
        assert!(made.next_steps().contains("3 things are left"), "{}", made.next_steps());
    }

    #[test]
    fn nothing_is_overwritten_and_a_key_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let first = init(directory.path(), &[]).unwrap();
        let text = fs::read_to_string(&first.file).unwrap();
        let error = init(directory.path(), &COMPLETE).err().unwrap();
        assert!(error.contains("exists, and is left as it is"), "{error}");
        assert_eq!(fs::read_to_string(&first.file).unwrap(), text);
        fs::remove_file(&first.file).unwrap();
        let second = init(directory.path(), &COMPLETE).unwrap();
        assert_eq!((second.is_new, second.public_key), (false, first.public_key));
        // What lies there and is no key is neither used nor replaced.
        fs::remove_file(&second.file).unwrap();
        fs::write(&second.key, "precious").unwrap();
        let error = init(directory.path(), &COMPLETE).err().unwrap();
        assert!(error.contains("holds no key"), "{error}");
        assert_eq!(fs::read_to_string(&second.key).unwrap(), "precious");
        assert!(!second.file.exists());
    }

    #[test]
    fn options_that_make_no_good_file_write_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let cases = [
            (["--local-prefix", "10.1.0.1/24"], "node.local_prefixes[0]"),
            (["--peer-key", "abc"], "peers[0].public_key"),
            (["--peer-endpoint", "203.0.113.2"], "peers[0].endpoint"),
            (["--peer-prefix", "10.2.0.0/24]\nlog: {level: debug}"], "peers[0].prefixes[0]"),
            (["--listen", "\"\n"], "node.listen"),
        ];
        for (arguments, key) in cases {
            let error = init(&directory.path().join("new"), &arguments).err().unwrap();
            assert!(error.contains(key) && error.contains("allowed: "), "{arguments:?}: {error}");
        }
        let both = ["--local-prefix", "10.1.0.0/24", "--peer-prefix", "10.1.0.0/16"];
        assert!(init(&directory.path().join("new"), &both).is_err(), "they overlap");
        assert!(!directory.path().join("new").exists());
        assert!(Line::try_parse_from(["init", "--node", "a/b"]).is_err());
    }
}
