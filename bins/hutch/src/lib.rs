//! The command line as a library: arguments, the daemon's client, and the verbs.

pub mod args;
pub mod bundle;
pub mod daemon;
pub mod duration;
pub mod log;
pub mod output;
pub mod run;
pub mod verbs;
