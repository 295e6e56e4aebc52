//! `onwire schema`: the form of a status or of a configuration file as JSON Schema. Asks nobody.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema as JsonSchemaDocument};

use super::print;
use super::status::HostStatus;
use crate::appliance::status::Status as ApplianceStatus;
use crate::config::json_schema;
use crate::gate::status::Status as GatesStatus;

/// Arguments of `onwire schema`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  onwire schema config > /etc/onwire/onwire.schema.json
  onwire schema status | jq '.\"$defs\" | keys'

An editor with a YAML language server completes keys and shows what they do where the file begins with
  # yaml-language-server: $schema=onwire.schema.json
What a schema cannot say, `onwire check` does. Of a status, fields are only added while schema_version stays;
programs should ignore fields that they do not know.
Exit codes: 0 printed, 1 failure, 2 usage.")]
pub struct Schema {
    /// What to describe
    document: Document,
}

/// What has a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Document {
    /// `onwire status --json`: all processes of a host
    Status,
    /// `onwire status --json --socket PATH` of an appliance
    ApplianceStatus,
    /// `onwire status --json --socket PATH` of gates
    GateStatus,
    /// The configuration file of an appliance
    Config,
    /// A file of gates
    GateConfig,
}

impl Schema {
    /// Prints it.
    pub fn run(self) -> ExitCode {
        print(format_args!("{:#}\n", self.document.schema().as_value()))
    }
}

impl Document {
    /// Its schema.
    pub fn schema(self) -> JsonSchemaDocument {
        match self {
            Self::Status => written::<HostStatus>(),
            Self::ApplianceStatus => written::<ApplianceStatus>(),
            Self::GateStatus => written::<GatesStatus>(),
            Self::Config => json_schema::appliance(),
            Self::GateConfig => json_schema::gates(),
        }
    }
}

/// The schema of what this release writes: a field that it may find missing in the document of another is there.
fn written<T: JsonSchema>() -> JsonSchemaDocument {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>()
}
