//! The daemon as a library: what its main program and the simulation share.

pub mod apart;
pub mod api;
pub mod architect;
pub mod bundle;
pub mod channel;
pub mod config;
mod containers;
mod convert;
pub mod inventory;
pub mod keys;
pub mod logs;
pub mod lookout;
pub mod mirror;
pub mod neighbour;
pub mod pods;
pub mod profile;
mod sandboxes;
pub mod serve;
mod size;
pub mod start;
mod status;
mod stopping;
pub mod wiring;
