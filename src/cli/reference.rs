//! `onwire reference`: prints the files that explain every key. They are inside the program.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::print;
use crate::manual::Page;

/// Print a file that shows every key of a configuration, with its default and its meaning
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire reference | less                           an appliance's file
  onwire reference gate > /etc/onwire/gate.yaml     a file of gates, to change
  onwire reference topology > mine.yaml             a network of the lab: onwire-lab shell --topology mine.yaml")]
pub struct Reference {
    /// Of what
    #[arg(default_value = "node")]
    kind: Kind,
}

/// The files of which there is a reference.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// An appliance: `onwire run`
    Node,
    /// Ack gates: `onwire gate`
    Gate,
    /// A network of the lab: `onwire-lab --topology`
    Topology,
}

const NODE: &str = include_str!("../../config/reference.yaml");
const GATE: &str = include_str!("../../config/gate.yaml");
const TOPOLOGY: &str = include_str!("../../netns/pair.yaml");

impl Reference {
    /// Prints the file.
    pub fn run(self) -> ExitCode {
        print(match self.kind {
            Kind::Node => NODE,
            Kind::Gate => GATE,
            Kind::Topology => TOPOLOGY,
        })
    }
}

/// The same as pages of the manual.
pub fn pages() -> [Page; 2] {
    [
        Page::of_file("onwire.yaml", "the configuration of an onwire appliance", NODE),
        Page::of_file("onwire-gate.yaml", "the configuration of onwire's ack gates", GATE),
    ]
}
