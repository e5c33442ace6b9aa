//! The real agent port: ttrpc over a channel.
//!
//! `link` is one connection, `status` what the agent's status codes mean, `hutch` the calls of
//! hutch.agent.v1, `driver` the port itself. A stock Kata agent is spoken to by `crate::kata`.

pub mod driver;
mod hutch;
pub mod link;
mod status;

pub use driver::TtrpcAgent;
pub use link::Link;
