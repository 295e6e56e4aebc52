//! What the Debian packages hold beside the programs: manual pages, completions, and files of this repository. The packages
//! themselves are tested by `./run package-test`, which needs the network.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Both programs.
const PROGRAMS: [(&str, &str); 2] =
    [("onwire", env!("CARGO_BIN_EXE_onwire")), ("onwire-lab", env!("CARGO_BIN_EXE_onwire-lab"))];

/// Runs a program that must succeed. `package` is where one finds it, if it is not ours.
fn run(program: &str, arguments: &[&str], package: &str) -> Output {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: apt-get install {package}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The names of the files in a directory.
fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The subcommands that the help shows.
fn shown_commands() -> BTreeSet<String> {
    let help = String::from_utf8(run(PROGRAMS[0].1, &["--help"], "").stdout).unwrap();
    let (_, rest) = help.split_once("Commands:\n").unwrap();
    let commands = rest.lines().take_while(|line| !line.is_empty());
    commands
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty()))
        .map(str::to_owned)
        .collect()
}

#[test]
fn each_command_that_help_shows_has_a_page_and_groff_has_nothing_to_say_about_it() {
    let directory = tempfile::tempdir().unwrap();
    for (_, program) in PROGRAMS {
        run(program, &["man", directory.path().to_str().unwrap()], "");
    }
    let commands = shown_commands();
    assert!(commands.len() > 15 && commands.contains("run") && !commands.contains("watchdog"), "{commands:?}");
    let pages = commands.iter().filter(|name| *name != "help").map(|name| format!("onwire-{name}.1"));
    let others =
        ["onwire.1", "onwire.yaml.5", "onwire-gate.yaml.5", "onwire-lab.1", "onwire-lab-list.1", "onwire-lab-tell.1"];
    let wanted: BTreeSet<String> = pages.chain(others.map(str::to_owned)).collect();
    assert_eq!(names(directory.path()), wanted);
    for page in wanted {
        let path = directory.path().join(&page);
        let output =
            run("groff", &["-man", "-Tutf8", "-P-cbou", "-K", "utf8", "-ww", path.to_str().unwrap()], "groff-base");
        assert!(output.stderr.is_empty(), "{page}: {}", String::from_utf8_lossy(&output.stderr));
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains("NAME") && shown.contains("DESCRIPTION"), "{page}: {shown}");
    }
}

#[test]
fn a_page_says_what_the_help_says_with_its_examples_line_by_line() {
    let directory = tempfile::tempdir().unwrap();
    run(PROGRAMS[0].1, &["man", directory.path().to_str().unwrap()], "");
    let page = fs::read_to_string(directory.path().join("onwire-keygen.1")).unwrap();
    let example = "\nonwire keygen psk.key                           a preshared key is made alike";
    assert!(page.contains(".SH EXAMPLES\n.EX\n") && page.contains(example), "{page}");
    assert!(page.contains("A file that exists is never overwritten."), "{page}");
    let page = fs::read_to_string(directory.path().join("onwire.yaml.5")).unwrap();
    assert!(page.contains("close_when_idle: 50us"), "{page}");
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    for (_, program) in PROGRAMS {
        let output = Command::new(program).args(["man", "/nonexistent"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("/nonexistent/onwire") && error.contains("cannot be written"), "{error}");
    }
}

#[test]
fn completions_are_made_for_each_shell_and_bash_completes_with_them() {
    let directory = tempfile::tempdir().unwrap();
    for (name, program) in PROGRAMS {
        for (shell, words) in [("zsh", "#compdef"), ("fish", "complete -c"), ("bash", "complete -F")] {
            let script = String::from_utf8(run(program, &["completions", shell], "").stdout).unwrap();
            assert!(script.contains(words) && script.contains(name), "{shell}: {script}");
        }
        let script = directory.path().join(name);
        fs::write(&script, run(program, &["completions", "bash"], "").stdout).unwrap();
        run("bash", &["-n", script.to_str().unwrap()], "bash");
    }
    // What bash would offer behind `onwire re`.
    let line =
        "source \"$0\"; COMP_WORDS=(onwire re); COMP_CWORD=1; _onwire onwire re onwire; echo \"${COMPREPLY[@]}\"";
    let script = directory.path().join("onwire");
    let offered = run("bash", &["-c", line, script.to_str().unwrap()], "bash");
    assert_eq!(String::from_utf8_lossy(&offered.stdout).trim(), "reload reference");
}

/// The assets of a package: source and destination.
fn assets(package: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    package["assets"].as_array().unwrap().iter().map(|asset| (text(&asset[0]), text(&asset[1]))).collect()
}

/// The files that a source names, from the root of the repository.
fn files(source: &str) -> Vec<PathBuf> {
    let path = Path::new(ROOT).join(source);
    let Some((before, after)) = source.split_once('*') else {
        return vec![path].into_iter().filter(|it| it.is_file()).collect();
    };
    let directory = Path::new(ROOT).join(before);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{source}: {error}"));
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|it| it.is_file() && it.to_str().unwrap().ends_with(after))
        .collect()
}

#[test]
fn all_that_the_packages_are_to_hold_exists_and_all_examples_are_in_them() {
    let metadata = run(
        env!("CARGO"),
        &["metadata", "--no-deps", "--offline", "--format-version=1", "--manifest-path", &format!("{ROOT}/Cargo.toml")],
        "cargo",
    );
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "onwire").unwrap();
    let package = &package["metadata"]["deb"];

    // What the programs make.
    let staged = tempfile::tempdir().unwrap();
    let programs = Path::new(PROGRAMS[0].1).parent().unwrap();
    let stage = format!("{ROOT}/packaging/deb/stage");
    run(&stage, &[programs.to_str().unwrap(), staged.path().join("package").to_str().unwrap()], "dash");

    let mut packed = BTreeSet::new();
    for (source, target) in assets(package).into_iter().chain(assets(&package["variants"]["lab"])) {
        assert!(target.starts_with("usr/"), "{target}");
        if let Some(program) = source.strip_prefix("target/release/") {
            assert!(PROGRAMS.iter().any(|(name, _)| *name == program), "{source}");
            continue;
        }
        let found = match source.strip_prefix("target/") {
            Some(made) => files(staged.path().join(made).to_str().unwrap()),
            None => files(&source),
        };
        assert!(!found.is_empty(), "Cargo.toml, package.metadata.deb.assets: there is no {source}");
        packed.extend(found);
    }
    for directory in ["config", "netns", "docs"] {
        for file in below(&Path::new(ROOT).join(directory)) {
            let is_test = file.starts_with(Path::new(ROOT).join("config/invalid"));
            assert!(
                is_test || packed.contains(&file),
                "{} is in no package: Cargo.toml, package.metadata.deb.assets",
                file.display()
            );
        }
    }
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
}

#[test]
fn maintainer_scripts_are_good_sh_and_start_nothing() {
    // Under these names, in this directory: others are left out of the package without an error.
    let manifest = fs::read_to_string(format!("{ROOT}/Cargo.toml")).unwrap();
    assert!(manifest.contains("maintainer-scripts = \"packaging/deb/onwire\""));
    for script in ["onwire/postinst", "onwire/prerm", "onwire/postrm", "stage"] {
        let path = format!("{ROOT}/packaging/deb/{script}");
        run("sh", &["-n", &path], "dash");
        let text = fs::read_to_string(&path).unwrap();
        let commands = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        for line in commands {
            assert!(
                !["enable", "start", "restart"].iter().any(|word| line.contains(&format!("systemctl {word}"))),
                "{line}"
            );
        }
    }
    run("bash", &["-n", &format!("{ROOT}/packaging/deb/test")], "bash");
}
