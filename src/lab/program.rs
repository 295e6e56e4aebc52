//! The programs that a lab runs, and paths as command lines need them.

use std::path::{Path, PathBuf};

use super::error::LabError;

/// Environment variable that names another `onwire` than the one beside the lab, to compare two builds.
const ONWIRE_PROGRAM: &str = "ONWIRE_PROGRAM";

/// The path of the lab's own program, which also runs as the emulator.
pub fn lab_program() -> Result<String, LabError> {
    let path = std::env::current_exe().map_err(LabError::doing("find this program's own file"))?;
    path_text(&path)
}

/// The program under test: `onwire` in the directory of the lab's own program, where `cargo build` puts both.
pub fn onwire_program() -> Result<String, LabError> {
    let named = std::env::var_os(ONWIRE_PROGRAM).map(PathBuf::from);
    let path = match named {
        Some(path) => path,
        None => Path::new(&lab_program()?).with_file_name("onwire"),
    };
    if !path.is_file() {
        let remedy = format!("build it (`cargo build --release`), or name another in {ONWIRE_PROGRAM}");
        return Err(LabError::Sentence(format!("there is no program {}: {remedy}", path.display())));
    }
    path_text(&path)
}

/// A path as text, as commands and generated files need it.
pub fn path_text(path: &Path) -> Result<String, LabError> {
    path.to_str().map(str::to_owned).ok_or_else(|| LabError::Sentence(format!("{} is not UTF-8", path.display())))
}
