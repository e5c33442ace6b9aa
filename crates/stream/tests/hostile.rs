//! Whatever a peer sends, nothing panics, and nothing grows beyond its bound.

use proptest::prelude::*;
use stream::{
    Channel, ControlGuest, ControlHost, Encoder, Frame, GuestEnd, Hello, Nonce, Outputs, Padding,
    Reader, Resume, StdinFrom, VERSION, WINDOW, Welcome, Winsize,
};

const NONCE: Nonce = Nonce([7; 16]);

/// A frame that owns its bytes.
#[derive(Debug, Clone)]
enum Sent {
    Frame(Frame<'static>),
    Stdio(Channel, u64, Vec<u8>),
    Raw(Vec<u8>),
}

fn channel() -> impl Strategy<Value = Channel> {
    prop_oneof![
        Just(Channel::Stdin),
        Just(Channel::Stdout),
        Just(Channel::Stderr),
        Just(Channel::Control)
    ]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(0_u64), 2 => 0..200_u64, 1 => Just(1 << 62), 1 => any::<u64>()]
}

fn hello() -> impl Strategy<Value = Frame<'static>> {
    (offset(), offset(), any::<bool>()).prop_map(|(stdout, stderr, acked)| {
        let resume = Resume::At { stdout, stderr };
        Frame::Hello(Hello {
            nonce: NONCE,
            version: VERSION,
            resume: if acked { Resume::Acked } else { resume },
        })
    })
}

fn welcome() -> impl Strategy<Value = Frame<'static>> {
    let offsets = prop::array::uniform5(offset());
    let flags = any::<(bool, bool, bool)>();
    (offsets, flags).prop_map(|(offsets, (stdin_ended, stdin_unknown, signals_unknown))| {
        Frame::Welcome(Welcome {
            nonce: NONCE,
            version: VERSION,
            stdin_received: offsets[0],
            stdin_acked: offsets[1],
            stdin_ended,
            stdin_unknown,
            signals_unknown,
            stdout_from: offsets[2],
            stderr_from: offsets[3],
            signals_received: offsets[4],
        })
    })
}

fn sent() -> impl Strategy<Value = Sent> {
    let bytes = prop::collection::vec(any::<u8>(), 0..100);
    let frame = prop_oneof![
        hello(),
        welcome(),
        (channel(), offset()).prop_map(|(channel, offset)| Frame::End { channel, offset }),
        (channel(), offset()).prop_map(|(channel, offset)| Frame::Ack { channel, offset }),
        channel().prop_map(|channel| Frame::Refused { channel }),
        (any::<u16>(), any::<u16>())
            .prop_map(|(rows, columns)| Frame::Winsize(Winsize { rows, columns })),
        (offset(), any::<u32>()).prop_map(|(seq, number)| Frame::Signal { seq, number }),
        offset().prop_map(|seq| Frame::SignalAck { seq }),
        any::<u32>().prop_map(|code| Frame::Exit { code }),
        Just(Frame::ExitAck),
        Just(Frame::Resync),
    ];
    prop_oneof![
        8 => frame.prop_map(Sent::Frame),
        4 => (channel(), offset(), bytes.clone())
            .prop_map(|(channel, offset, bytes)| Sent::Stdio(channel, offset, bytes)),
        1 => bytes.prop_map(Sent::Raw),
    ]
}

/// All of it under the trailer of the session, which a hostile peer knows.
fn encoded(all: &[Sent]) -> Vec<u8> {
    let encoder = Encoder::new(NONCE);
    let mut out = Vec::new();
    for sent in all {
        match sent {
            Sent::Frame(frame) => encoder.encode(frame, &mut out),
            Sent::Stdio(channel, offset, bytes) => encoder.encode(
                &Frame::Data {
                    channel: *channel,
                    offset: *offset,
                    bytes,
                },
                &mut out,
            ),
            Sent::Raw(bytes) => out.extend(bytes),
        }
    }
    out
}

fn established(all: Vec<Sent>, first: Sent) -> Vec<u8> {
    encoded(&[vec![first], all].concat())
}

fn drain_guest(guest: &mut GuestEnd) {
    while let count @ 1.. = guest.outgoing().len() {
        guest.sent(count);
    }
}

fn attack_guest(bytes: &[u8], chunk: usize) {
    let mut guest = GuestEnd::new(Outputs::StdoutAndStderr);
    guest.output(Channel::Stdout, &[1; 100]);
    guest.output(Channel::Stderr, &[2; 100]);
    guest.exited(1);
    guest.output_dry(Channel::Stdout);
    for piece in bytes.chunks(chunk) {
        let _ = guest.feed(piece);
        guest.output_dry(Channel::Stderr);
        drain_guest(&mut guest);
        assert!(guest.stdin().len() <= WINDOW);
        guest.stdin_taken(guest.stdin().len() / 2);
        guest.next_request();
    }
}

fn attack_reader(bytes: &[u8], chunk: usize, stdin: StdinFrom) {
    let mut reader = Reader::new(Resume::Acked, stdin);
    reader.stdin(&[3; 100]);
    for round in 0..2 {
        reader.connected(NONCE, Padding::Full);
        for piece in bytes.chunks(chunk) {
            if reader.feed(piece).is_err() {
                break;
            }
            while let count @ 1.. = reader.outgoing().len() {
                reader.sent(count);
            }
            assert!(reader.output(Channel::Stdout).len() <= WINDOW);
            reader.output_taken(
                Channel::Stdout,
                reader.output(Channel::Stdout).len().min(9 + round),
            );
            assert!(reader.stdin_room() <= WINDOW);
        }
        let _ = reader.signal(1);
    }
}

fn attack_control(bytes: &[u8], chunk: usize) {
    let mut host = ControlHost::new(NONCE, Padding::None);
    let mut guest = ControlGuest::new();
    for piece in bytes.chunks(chunk) {
        host.feed(piece);
        guest.feed(piece);
        guest.sent(guest.outgoing().len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn frames_in_any_order_never_panic(
        hello in hello(),
        welcome in welcome(),
        all in prop::collection::vec(sent(), 0..30),
        chunk in 1..300_usize,
    ) {
        attack_guest(&established(all.clone(), Sent::Frame(hello)), chunk);
        let bytes = established(all, Sent::Frame(welcome));
        attack_reader(&bytes, chunk, StdinFrom::Next);
        attack_reader(&bytes, chunk, StdinFrom::At(50));
        attack_control(&bytes, chunk);
    }

    #[test]
    fn any_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..2_000),
        chunk in 1..300_usize,
    ) {
        attack_guest(&bytes, chunk);
        attack_reader(&bytes, chunk, StdinFrom::Next);
        attack_control(&bytes, chunk);
    }

    #[test]
    fn a_flipped_bit_never_panics(
        all in prop::collection::vec(sent(), 1..10),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let first = Frame::Hello(Hello { nonce: NONCE, version: VERSION, resume: Resume::Acked });
        let mut bytes = established(all, Sent::Frame(first));
        let index = at.index(bytes.len());
        bytes[index] ^= 1 << bit;
        attack_guest(&bytes, 64);
        attack_control(&bytes, 64);
    }
}

#[test]
fn a_guest_that_ignores_the_window_is_cut_off() {
    let mut reader = Reader::new(Resume::Acked, StdinFrom::Next);
    reader.connected(NONCE, Padding::None);
    let welcome = Welcome {
        nonce: NONCE,
        version: VERSION,
        stdin_received: 0,
        stdin_acked: 0,
        stdin_ended: false,
        stdin_unknown: false,
        signals_unknown: false,
        stdout_from: 0,
        stderr_from: 0,
        signals_received: 0,
    };
    reader
        .feed(&encoded(&[Sent::Frame(Frame::Welcome(welcome))]))
        .unwrap();

    let piece = 16 * 1024;
    let mut frames = (0..=WINDOW as u64 / piece)
        .map(|n| Sent::Stdio(Channel::Stdout, n * piece, vec![0; piece as usize]))
        .map(|sent| reader.feed(&encoded(&[sent])));

    let fault = stream::Fault::WindowExceeded {
        channel: Channel::Stdout,
    };
    assert_eq!(frames.position(|fed| fed == Err(fault)), Some(16));
}
