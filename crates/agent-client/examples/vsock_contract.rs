//! Runs the channel contract on AF_VSOCK loopback: a program to put into a guest.
//!
//! Prints a line per wire and exits with 0 when the driver keeps its contract, 1 when it does
//! not, 77 when this kernel has no vsock loopback.

use agent_client::{
    channel::Wire,
    contract::{channel, peers::VsockPeer},
};
use std::process::ExitCode;
use tokio::task::LocalSet;

/// What test harnesses take for "not tried".
const SKIPPED: u8 = 77;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    for wire in [Wire::Plain, Wire::Framed] {
        match VsockPeer::new(wire) {
            Ok(peer) => LocalSet::new().run_until(channel::suite(&peer)).await,
            Err(error) => {
                println!("vsock contract, {wire:?}: not tried: {error}");
                return ExitCode::from(SKIPPED);
            }
        }
        println!("vsock contract, {wire:?}: kept");
    }
    ExitCode::SUCCESS
}
