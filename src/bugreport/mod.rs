//! `onwire bugreport`: one text with what a person needs to help who has not seen the host. Changes nothing.
//!
//! Nothing is printed of a configuration but what is known to be harmless: [`redact`] works on any text, also on one
//! that is no YAML. [`secrets`] looks through the whole text once more. Start with [`gather`].

pub mod redact;
pub mod secrets;
mod sections;

use std::fmt::Write;
use std::path::PathBuf;

use crate::doctor;
use crate::doctor::facts::{Configuration, Subject};
use secrets::Secrets;
pub use sections::Section;

/// What is in every report, and what never is.
const HEAD: &str = "\
In this file: versions and the machine; configurations without comments, keys and whatever is not known to be harmless;
the status of appliances and gates, as JSON; what `onwire doctor` finds; addresses, routes, rules, queues and firewall
rules of this host; limits and counters of the kernel; the last lines of the log of onwire.

Left out, each with a mark such as (left out) where it stood: private, preshared and notification keys; TLS keys;
comments and unknown keys of configurations; of public keys all but 8 characters in configurations. Key files are not
copied.

It names hosts, addresses, networks, file names and users. Read it before you send it, and remove what others must not
see.
";

/// Gathers everything about the host of `subject` and the processes behind `sockets`. Calls `on_step` with what is done
/// next.
pub fn gather(subject: &Subject, sockets: &[PathBuf], on_step: &dyn Fn(&str)) -> String {
    let mut parts = vec![sections::host()];
    on_step("the configurations");
    let files = sections::configuration_files(subject);
    parts.extend(files.iter().map(|file| sections::configuration(file)));
    on_step("the status of appliances and gates");
    let statuses: Vec<_> = sockets.iter().map(|socket| sections::status(socket)).collect();
    let mut secrets = Secrets::new(subject.config());
    statuses.iter().for_each(|(_, status)| secrets.allow_public_keys(status));
    parts.extend(statuses.into_iter().map(|(section, _)| section));
    // What is wrong with a configuration quotes it.
    let mut examined = subject.clone();
    if let Configuration::Bad(errors) = &examined.configuration {
        examined.configuration = Configuration::Bad(redact::places(errors));
    }
    parts.push(Section::new("onwire doctor", doctor::examine(&examined, on_step).to_string()));
    parts.extend(sections::commands(on_step));
    parts.extend(sections::kernel(sockets));
    secrets.mask(&assemble(&parts))
}

/// The head with the list of sections, and the sections.
fn assemble(parts: &[Section]) -> String {
    let mut text = format!("onwire bugreport, onwire {}\n\n{HEAD}\n", env!("CARGO_PKG_VERSION"));
    // Writing to a string cannot fail.
    for (number, part) in (1..).zip(parts) {
        let _ = writeln!(text, "{number:>3}. {}", part.title);
    }
    for (number, part) in (1..).zip(parts) {
        let _ = write!(text, "\n==== {number}. {}\n{}", part.title, part.body);
        if !part.body.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_names_each_section_and_what_is_left_out() {
        let text = assemble(&[Section::new("one", "first".to_owned()), Section::new("two", "second\n".to_owned())]);
        assert!(text.contains("  1. one\n  2. two\n"), "{text}");
        assert!(text.ends_with("\n==== 1. one\nfirst\n\n==== 2. two\nsecond\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 120) && text.contains("Read it before you send it"));
    }
}
