//! Shell scripts that are installed at a user's site.

use std::{io::ErrorKind, process::Command};

#[test]
fn shell_scripts_are_clean() {
    for script in ["config/pacemaker/onwire", "config/pacemaker/onwire-drain"] {
        let output = Command::new("shellcheck").arg(script).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        let output = match output {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("`shellcheck` is not installed; on Debian or Ubuntu: apt-get install shellcheck")
            }
            output => output.unwrap(),
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
