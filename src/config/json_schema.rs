//! The form of a configuration file as JSON Schema, for editors: they complete keys, show what each does, and mark a
//! wrong word while it is typed.
//!
//! The structures here hold no value. `onwire check` says more: what a schema cannot say, such as two prefixes that
//! overlap, is not in it. A test compares the keys with [`super::schema`], and every example with the schema.

mod appliance;
mod gates;
mod scalar;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

/// The schema of an appliance's file.
pub fn appliance() -> Schema {
    of::<appliance::File>()
}

/// The schema of a file of gates.
pub fn gates() -> Schema {
    of::<gates::File>()
}

fn of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>()
}
