//! Real database servers in a lab: locates the programs, prepares their data, runs them as an unprivileged user inside
//! the nodes, queries and crashes them.
//!
//! [`data_dir`] holds their data, [`server`] is a server whose processes end together, and each kind has its modules:
//! [`postgres`] with [`postgres_session`] and [`postgres_pair`], [`redis`] and [`mariadb`] with the common
//! [`database`]. [`gate`] starts an ack gate between two of them. The servers are those of the distribution, with their
//! settings on the command line; what a scenario wants to show is not known here.
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
