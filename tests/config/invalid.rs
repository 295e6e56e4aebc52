//! Every file in `config/invalid` is refused with exactly the text of the `.stderr` file beside it.
//!
//! After a change of wording, `ONWIRE_BLESS=1 cargo test --test config invalid` writes the new text; read the diff.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The private key of Bob in RFC 7748: its public key is in `public-key-own.yaml`.
const KEY: &str = "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=\n";

#[test]
fn every_invalid_file_is_refused_with_its_golden_text() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/invalid");
    let bless = std::env::var_os("ONWIRE_BLESS").is_some();
    let root = tempfile::tempdir().unwrap();
    let copies = root.path().join("config/invalid");
    fs::create_dir_all(&copies).unwrap();
    make_key_files(&copies);
    let mut wrong = Vec::new();
    let names = yaml_files(&sources);
    assert!(names.len() >= 30, "only {} files", names.len());
    for name in names {
        let relative = Path::new("config/invalid").join(&name);
        fs::copy(sources.join(&name), root.path().join(&relative)).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_onwire"))
            .arg("check")
            .arg(&relative)
            .current_dir(root.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let golden = sources.join(&name).with_extension("stderr");
        if bless {
            fs::write(&golden, &stderr).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if output.status.code() != Some(2) || !output.stdout.is_empty() || stderr != expected {
            wrong.push(format!("--- {}: {}\n{stderr}", name.display(), output.status));
        }
    }
    assert!(wrong.is_empty(), "not as in the .stderr file beside it:\n{}", wrong.join("\n"));
}

#[test]
fn every_golden_file_has_its_invalid_file() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/invalid");
    for entry in fs::read_dir(&sources).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.with_extension("yaml").exists(), "{} has no .yaml", path.display());
    }
}

fn yaml_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into());
    let mut names: Vec<PathBuf> = entries.collect();
    names.retain(|name| name.extension().is_some_and(|extension| extension == "yaml"));
    names.sort();
    names
}

/// Git keeps no file modes, so the key files that the invalid files name are made here.
fn make_key_files(directory: &Path) {
    for (name, content, mode) in [
        ("good.key", KEY.as_bytes(), 0o600),
        ("exposed.key", KEY.as_bytes(), 0o644),
        ("garbage.key", b"this is no key\n", 0o600),
        ("binary.key", b"\xff\x00\xfe", 0o600),
        ("short.key", b"c2VjcmV0Cg==\n", 0o600),
        ("zero.key", b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", 0o600),
    ] {
        let path = directory.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let path = directory.join("directory.key");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
}
