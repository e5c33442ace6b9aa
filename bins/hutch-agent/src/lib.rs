//! PID 1 of the guest: brings the guest up, reaps, and answers the host over one control stream.
//!
//! What is decided without the world is in `table` and `exits`; everything else performs.
//! Containers are made by `engine`, which is handed everything it needs.

pub mod agent;
pub mod channel;
pub mod cmdline;
pub mod delivered;
pub mod engine;
pub mod error;
pub mod exits;
pub mod guest;
pub mod id;
pub mod init;
pub mod log;
pub mod oom;
pub mod ports;
pub mod reaper;
pub mod rootfs;
pub mod serve;
pub mod service;
pub mod stdio;
pub mod table;
