//! Runs Wireshark's `tshark` with the dissector of `docs/protocol`. Tests of both packages use it.

use std::path::Path;
use std::process::Command;

use super::DOCS;

/// What `tshark` prints about a capture; complaints of the dissector fail the test.
pub fn tshark(capture: &Path, arguments: &[&str]) -> String {
    let script = Path::new(DOCS).join("protocol/onwire.lua");
    let output = Command::new("tshark")
        .args(["-n", "-X", &format!("lua_script:{}", script.display()), "-r"])
        .arg(capture)
        .args(arguments)
        .output()
        .expect("this test runs tshark: apt-get install tshark");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    assert!(!errors.contains("Lua"), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
