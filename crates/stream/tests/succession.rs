//! A guest end that is gone with all that it knew, and the one that takes its place.

#![allow(clippy::unwrap_used)] // Tests may.

use stream::{
    Channel, GuestEnd, Nonce, Outputs, Padding, Reader, Request, Resume, StdinFrom, WINDOW,
};

const OUTPUTS: Outputs = Outputs::StdoutAndStderr;

fn greet(reader: &mut Reader, guest: &mut GuestEnd, session: u8) {
    reader.connected(Nonce([session; 16]), Padding::None);
    exchange(reader, guest);
    assert!(reader.is_established());
}

fn exchange(reader: &mut Reader, guest: &mut GuestEnd) {
    loop {
        let up = reader.outgoing().to_vec();
        reader.sent(up.len());
        guest.feed(&up).unwrap();
        let down = guest.outgoing().to_vec();
        guest.sent(down.len());
        reader.feed(&down).unwrap();
        if up.is_empty() && down.is_empty() {
            return;
        }
    }
}

fn take(reader: &mut Reader, channel: Channel) -> Vec<u8> {
    let bytes = reader.output(channel).to_vec();
    reader.output_taken(channel, bytes.len());
    bytes
}

fn take_stdin(guest: &mut GuestEnd) -> Vec<u8> {
    let bytes = guest.stdin().to_vec();
    guest.stdin_taken(bytes.len());
    bytes
}

#[test]
fn a_successor_goes_on_where_its_reader_is() {
    let mut reader = Reader::new(Resume::Acked, StdinFrom::Next);
    let mut first = GuestEnd::new(OUTPUTS);
    greet(&mut reader, &mut first, 1);
    first.output(Channel::Stdout, b"one ");
    reader.stdin(b"taken kept");
    reader.signal(10).unwrap();
    exchange(&mut reader, &mut first);
    assert_eq!(take(&mut reader, Channel::Stdout), b"one ");
    assert_eq!(first.stdin(), b"taken kept");
    first.stdin_taken(6);
    assert_eq!(first.next_request(), Some(Request::Signal(10)));
    exchange(&mut reader, &mut first);
    drop(first);

    let mut second = GuestEnd::succeeding(OUTPUTS);
    assert_eq!(second.room(Channel::Stdout), 0);
    greet(&mut reader, &mut second, 2);
    assert_eq!(second.room(Channel::Stdout), WINDOW);
    second.output(Channel::Stdout, b"two");
    reader.signal(12).unwrap();
    reader.stdin(b" more");
    exchange(&mut reader, &mut second);

    assert_eq!(take(&mut reader, Channel::Stdout), b"two");
    assert_eq!(take_stdin(&mut second), b"kept more");
    assert_eq!(second.next_request(), Some(Request::Signal(12)));
    second.output_ended(Channel::Stdout);
    second.output_ended(Channel::Stderr);
    second.exited(3);
    exchange(&mut reader, &mut second);
    assert_eq!(reader.exit(), Some(3));
}

#[test]
fn what_a_successor_learned_it_knows_in_its_next_session() {
    let mut reader = Reader::new(Resume::Acked, StdinFrom::Next);
    let mut first = GuestEnd::new(OUTPUTS);
    greet(&mut reader, &mut first, 1);
    reader.stdin(b"abc");
    exchange(&mut reader, &mut first);
    first.stdin_taken(3);
    exchange(&mut reader, &mut first);
    let mut second = GuestEnd::succeeding(OUTPUTS);
    greet(&mut reader, &mut second, 2);
    reader.stdin(b"def");
    exchange(&mut reader, &mut second);
    assert_eq!(take_stdin(&mut second), b"def");

    second.reconnected();
    greet(&mut reader, &mut second, 3);
    reader.stdin(b"ghi");
    reader.end_stdin();
    exchange(&mut reader, &mut second);

    assert_eq!(take_stdin(&mut second), b"ghi");
    assert!(second.stdin_is_over());
}

#[test]
fn a_reader_that_is_new_too_begins_with_a_successor_at_nothing() {
    let mut reader = Reader::new(Resume::Acked, StdinFrom::Next);
    let mut heir = GuestEnd::succeeding(OUTPUTS);

    greet(&mut reader, &mut heir, 1);
    reader.stdin(b"in");
    heir.output(Channel::Stderr, b"out");
    exchange(&mut reader, &mut heir);

    assert_eq!(take(&mut reader, Channel::Stderr), b"out");
    assert_eq!(take_stdin(&mut heir), b"in");
}
