//! Real database servers in a lab: found, given data, run as an unprivileged user inside the nodes, asked, crashed.
//!
//! [`place`] is where their data live, [`server`] a server whose processes end together, and each kind has a module:
//! [`postgres`] with [`postgres_session`] and [`postgres_pair`], [`redis`] and [`mariadb`] with [`database`] for what they
//! have in common. [`gate`] puts an ack gate between two of them. Everything runs what the distribution installs, with its
//! own settings on the command line; nothing here knows what an experiment wants to show.
//!
//! Start with [`server`], then [`postgres`].

pub mod data_dir;
pub mod database;
pub mod gate;
pub mod mariadb;
pub mod postgres;
pub mod postgres_pair;
pub mod postgres_session;
pub mod redis;
pub mod server;
