//! The notification protocol from outside: publisher and client against each other, against hand-made datagrams,
//! against the vectors and descriptions in `docs/protocol`, and against Wireshark.

mod client;
mod documented;
mod flood;
mod messages;
mod publisher;
mod simulation;
mod vectors;
mod wireshark;
