//! The Python client of the notification protocol: its own tests, and its types.

use std::{
    io::ErrorKind,
    path::Path,
    process::{Command, Output},
};

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python");

/// Runs a program in the client's directory; leaves no files there. A missing program fails with its package.
fn run(program: &str, package: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(CLIENT)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("MYPY_CACHE_DIR", "/dev/null")
        .output();
    match output {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("`{program}` is not installed; on Debian or Ubuntu: apt-get install {package}")
        }
        output => output.unwrap(),
    }
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

#[test]
fn the_python_client_passes_its_own_tests() {
    let output = run("python3", "python3", &["-m", "unittest"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    // `unittest` is content when it finds nothing.
    let ran = said.lines().find_map(|line| line.strip_prefix("Ran ")?.split(' ').next()?.parse::<u32>().ok());
    assert!(ran >= Some(60), "{said}");
    assert!(!said.contains("skipped"), "{said}");
}

#[test]
fn the_python_client_is_typed() {
    let output = run("mypy", "mypy", &[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(Path::new(CLIENT).join("onwire_notify/py.typed").is_file(), "the types are for its users too");
}

/// What the page says is what the code knows: each number of the tables, by the name that the page gives it.
#[test]
fn the_python_client_names_every_command_of_the_documents() {
    let page = std::fs::read_to_string(format!("{}/protocol.md", crate::DOCS)).unwrap();
    let source = std::fs::read_to_string(format!("{CLIENT}/onwire_notify/messages.py")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" `")).map(|(number, rest)| {
        let name = rest.split('`').next().unwrap_or_default();
        (number, name)
    });
    let is_command = |(number, name): &(&str, &str)| {
        number.parse::<u8>().is_ok() && name.chars().all(|it| it.is_ascii_uppercase() || it == '_')
    };
    let commands: Vec<_> = rows.filter(is_command).collect();
    assert!(commands.len() >= 12, "the table of commands was not found: {commands:?}");
    for (number, name) in commands {
        assert!(source.contains(&format!("    {name} = {number}\n")), "{name} = {number}");
    }
}
