//! The configuration file: YAML in, checked values out.
