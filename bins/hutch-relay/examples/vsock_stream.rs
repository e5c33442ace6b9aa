//! A relay and the guest's end of its stream, over AF_VSOCK loopback: a program to put into a guest.
//!
//! Prints a line per stream and ends with 0 when every byte and code came through.

#![allow(clippy::unwrap_used)] // A test in all but name.

#[path = "../tests/fakes/mod.rs"]
mod fakes;

use fakes::{FakeGuest, Kind, LIMIT};
use hutch_relay::{Outcome, Relay, RelayError, Session, Stdio, StreamAddress};
use std::{
    io::{Read, Write, pipe},
    thread,
};
use stream::Outputs;

/// VMADDR_CID_LOCAL: this very kernel.
const LOCAL: u32 = 1;
const PORT: u32 = 4711;
const BYTES: usize = 4 * 1024 * 1024;

fn main() {
    what_goes_in_comes_out_with_the_exit_code();
    println!("bytes and exit code: kept");
    a_port_on_which_nobody_listens_is_given_up();
    println!("nobody listens: said");
}

fn what_goes_in_comes_out_with_the_exit_code() {
    let guest = FakeGuest::start(
        Kind::Vsock(PORT),
        Outputs::StdoutAndStderr,
        &["sh", "-c", "cat; exit 5"],
    );
    let (stdin, mut to_guest) = pipe().unwrap();
    let (mut from_guest, stdout) = pipe().unwrap();
    let stdio = Stdio {
        stdin: Some(stdin.into()),
        stdout: Some(stdout.into()),
        stderr: None,
    };
    let address = StreamAddress::read(format!("vsock:{LOCAL}").into(), PORT);
    let session = Session::new(address, stdio, LIMIT);
    let relay = thread::spawn(move || Relay::open(session).unwrap().run().unwrap());
    let sent: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    let noise = sent.clone();

    let written = thread::spawn(move || to_guest.write_all(&noise).unwrap());
    let mut received = Vec::new();
    from_guest.read_to_end(&mut received).unwrap();

    written.join().unwrap();
    assert!(received == sent, "{} of {BYTES} bytes", received.len());
    assert_eq!(relay.join().unwrap().outcome, Outcome::Exited(5));
    drop(guest);
}

fn a_port_on_which_nobody_listens_is_given_up() {
    let address = StreamAddress::read(format!("vsock:{LOCAL}").into(), PORT + 1);

    let refused = Relay::open(Session::new(address, Stdio::default(), LIMIT)).unwrap_err();

    assert!(matches!(refused, RelayError::Connect { .. }), "{refused:?}");
}
