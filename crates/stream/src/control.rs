//! Both ends of the control stream: HELLO, WELCOME, then bytes of the agent protocol both ways.
//!
//! ```text
//!            WELCOME                             HELLO: Established
//!   Greeting ───────► Established      Waiting ─────────────────────► Established ◄─┐
//!         (ControlHost)                        (ControlGuest)              └────────┘ HELLO: Reset
//! ```
//!
//! There is no credit: the agent protocol has requests and answers, and a bound on each. Bytes to
//! send are kept until they are taken; who sends waits until `outgoing` is empty.
//! Nothing survives a session: the protocol above starts anew.

use crate::{
    decoder::{GuestDecoder, HostDecoder},
    fault::Fault,
    frame::{
        Channel, Encoder, Frame, Hello, Nonce, PAYLOAD_MAX, Padding, Resume, VERSION, Welcome,
    },
    outgoing::Outgoing,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlEvent {
    /// The first session begins.
    Established,
    /// Bytes from the peer.
    Received(Vec<u8>),
    /// In the guest: a new host end began a new session. What the last one sent in part, and
    /// answers to it, are void.
    Reset,
    /// At the host: this session is over, connect again. In the guest: nothing makes sense until
    /// the next HELLO.
    ProtocolError(Fault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("control stream has no session yet")]
pub struct NotEstablished;

/// As many frames as the bytes need. `offset` counts the bytes of the session.
fn write_data(out: &mut Outgoing, encoder: &Encoder, offset: &mut u64, bytes: &[u8]) {
    for piece in bytes.chunks(PAYLOAD_MAX) {
        let frame = Frame::Data {
            channel: Channel::Control,
            offset: *offset,
            bytes: piece,
        };
        encoder.encode(&frame, &mut out.bytes);
        *offset += piece.len() as u64;
    }
}

/// The bytes of the session that came from the peer must follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Incoming {
    offset: u64,
}

impl Incoming {
    fn data(&mut self, channel: Channel, offset: u64, bytes: &[u8]) -> ControlEvent {
        if channel != Channel::Control {
            return ControlEvent::ProtocolError(Fault::OutOfPlace {
                kind: crate::frame::DATA,
            });
        }
        if offset != self.offset {
            return ControlEvent::ProtocolError(Fault::WrongOffset {
                channel,
                expected: self.offset,
                got: offset,
            });
        }
        self.offset += bytes.len() as u64;
        ControlEvent::Received(bytes.to_vec())
    }
}

/// The host's end of one session. A new connection needs a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlHost {
    state: HostState,
    encoder: Encoder,
    decoder: HostDecoder,
    outgoing: Outgoing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostState {
    Greeting,
    Established { sent: u64, received: Incoming },
    Failed,
}

impl ControlHost {
    /// `nonce` is fresh random bytes.
    pub fn new(nonce: Nonce, padding: Padding) -> Self {
        let encoder = Encoder::new(nonce);
        let mut outgoing = Outgoing::default();
        padding.write(&mut outgoing.bytes);
        let hello = Hello {
            nonce,
            version: VERSION,
            resume: Resume::Acked,
        };
        encoder.encode(&Frame::Hello(hello), &mut outgoing.bytes);
        Self {
            state: HostState::Greeting,
            encoder,
            decoder: HostDecoder::new(nonce),
            outgoing,
        }
    }

    pub fn is_established(&self) -> bool {
        matches!(self.state, HostState::Established { .. })
    }

    /// Takes bytes that came from the guest.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Vec<ControlEvent> {
        let mut events = Vec::new();
        while self.state != HostState::Failed {
            let event = match self.decoder.read(&mut bytes) {
                Ok(None) => break,
                Ok(Some(frame)) => react(&mut self.state, frame),
                Err(fault) => ControlEvent::ProtocolError(fault),
            };
            if let ControlEvent::ProtocolError(_) = event {
                self.state = HostState::Failed;
            }
            events.push(event);
        }
        events
    }

    /// Queues bytes of the agent protocol.
    ///
    /// # Errors
    /// Before [`ControlEvent::Established`] and after a protocol error.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), NotEstablished> {
        match &mut self.state {
            HostState::Established { sent, .. } => {
                write_data(&mut self.outgoing, &self.encoder, sent, bytes);
                Ok(())
            }
            HostState::Greeting | HostState::Failed => Err(NotEstablished),
        }
    }

    /// What is to be written to the connection next.
    pub fn outgoing(&self) -> &[u8] {
        self.outgoing.pending()
    }

    /// The first `count` bytes of [`Self::outgoing`] were written.
    pub fn sent(&mut self, count: usize) {
        self.outgoing.sent(count);
    }
}

fn react(state: &mut HostState, frame: Frame<'_>) -> ControlEvent {
    match (state, frame) {
        (state @ HostState::Greeting, Frame::Welcome(_)) => {
            *state = HostState::Established {
                sent: 0,
                received: Incoming::default(),
            };
            ControlEvent::Established
        }
        (
            HostState::Established { received, .. },
            Frame::Data {
                channel,
                offset,
                bytes,
            },
        ) => received.data(channel, offset, bytes),
        (_, Frame::Resync) => ControlEvent::ProtocolError(Fault::ResyncAsked),
        (_, other) => ControlEvent::ProtocolError(Fault::OutOfPlace { kind: other.kind() }),
    }
}

/// The guest's end, for all sessions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControlGuest {
    state: GuestState,
    decoder: GuestDecoder,
    outgoing: Outgoing,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum GuestState {
    /// No HELLO has come.
    #[default]
    Waiting,
    Established {
        encoder: Encoder,
        sent: u64,
        received: Incoming,
    },
    /// There was a session, and nothing makes sense until the next HELLO.
    Lost,
}

impl ControlGuest {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_established(&self) -> bool {
        matches!(self.state, GuestState::Established { .. })
    }

    /// The connection itself was replaced (a vsock connection; never a serial port): the next byte
    /// is the first of a HELLO, and what was to be sent is void.
    pub fn reconnected(&mut self) {
        self.decoder = GuestDecoder::new();
        self.outgoing.clear();
        self.state = match self.state {
            GuestState::Waiting => GuestState::Waiting,
            GuestState::Established { .. } | GuestState::Lost => GuestState::Lost,
        };
    }

    /// Takes bytes that came from the host.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Vec<ControlEvent> {
        let mut events = Vec::new();
        loop {
            let event = match self.decoder.read(&mut bytes) {
                Ok(None) => return events,
                Ok(Some(Frame::Hello(hello))) => greet(&mut self.state, hello, &mut self.outgoing),
                Ok(Some(frame)) => match follow(&mut self.state, frame) {
                    Some(event) => event,
                    None => continue,
                },
                Err(fault) => ControlEvent::ProtocolError(fault),
            };
            if let ControlEvent::ProtocolError(_) = event {
                lose(&mut self.state, &mut self.outgoing);
            }
            events.push(event);
        }
    }

    /// Queues bytes of the agent protocol.
    ///
    /// # Errors
    /// Before [`ControlEvent::Established`] and after a protocol error.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), NotEstablished> {
        match &mut self.state {
            GuestState::Established { encoder, sent, .. } => {
                write_data(&mut self.outgoing, encoder, sent, bytes);
                Ok(())
            }
            GuestState::Waiting | GuestState::Lost => Err(NotEstablished),
        }
    }

    /// What is to be written to the port next.
    pub fn outgoing(&self) -> &[u8] {
        self.outgoing.pending()
    }

    /// The first `count` bytes of [`Self::outgoing`] were written.
    pub fn sent(&mut self, count: usize) {
        self.outgoing.sent(count);
    }
}

/// A new session. What was still to be sent belonged to the last one.
fn greet(state: &mut GuestState, hello: Hello, outgoing: &mut Outgoing) -> ControlEvent {
    let event = match state {
        GuestState::Waiting => ControlEvent::Established,
        GuestState::Established { .. } | GuestState::Lost => ControlEvent::Reset,
    };
    let encoder = Encoder::new(hello.nonce);
    outgoing.clear();
    encoder.encode(
        &Frame::Welcome(Welcome::plain(hello.nonce)),
        &mut outgoing.bytes,
    );
    if hello.version != VERSION {
        *state = GuestState::Lost;
        return ControlEvent::ProtocolError(Fault::Version {
            ours: VERSION,
            theirs: hello.version,
        });
    }
    *state = GuestState::Established {
        encoder,
        sent: 0,
        received: Incoming::default(),
    };
    event
}

/// Any frame but HELLO. After a loss, what still comes of the session is dropped.
fn follow(state: &mut GuestState, frame: Frame<'_>) -> Option<ControlEvent> {
    match (state, frame) {
        (GuestState::Waiting | GuestState::Lost, _) => None,
        (
            GuestState::Established { received, .. },
            Frame::Data {
                channel,
                offset,
                bytes,
            },
        ) => Some(received.data(channel, offset, bytes)),
        (GuestState::Established { .. }, other) => {
            Some(ControlEvent::ProtocolError(Fault::OutOfPlace {
                kind: other.kind(),
            }))
        }
    }
}

/// The host is asked to begin again.
fn lose(state: &mut GuestState, outgoing: &mut Outgoing) {
    match state {
        GuestState::Waiting | GuestState::Lost => {}
        GuestState::Established { encoder, .. } => {
            encoder.encode(&Frame::Resync, &mut outgoing.bytes);
            *state = GuestState::Lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_guest(host: &mut ControlHost, guest: &mut ControlGuest) -> Vec<ControlEvent> {
        let bytes = host.outgoing().to_vec();
        host.sent(bytes.len());
        guest.feed(&bytes)
    }

    fn to_host(guest: &mut ControlGuest, host: &mut ControlHost) -> Vec<ControlEvent> {
        let bytes = guest.outgoing().to_vec();
        guest.sent(bytes.len());
        host.feed(&bytes)
    }

    fn session(nonce: u8, padding: Padding, guest: &mut ControlGuest) -> ControlHost {
        let mut host = ControlHost::new(Nonce([nonce; 16]), padding);
        to_guest(&mut host, guest);
        assert_eq!(to_host(guest, &mut host), [ControlEvent::Established]);
        host
    }

    fn received(events: Vec<ControlEvent>) -> Vec<u8> {
        events
            .into_iter()
            .flat_map(|event| match event {
                ControlEvent::Received(bytes) => bytes,
                other => panic!("not data: {other:?}"),
            })
            .collect()
    }

    #[test]
    fn nothing_is_sent_before_the_guest_has_answered() {
        let mut host = ControlHost::new(Nonce([1; 16]), Padding::None);

        assert_eq!(host.send(b"early"), Err(NotEstablished));
        assert_eq!(ControlGuest::new().send(b"early"), Err(NotEstablished));
    }

    #[test]
    fn a_message_longer_than_a_frame_arrives_whole_both_ways() {
        let mut guest = ControlGuest::new();
        let mut host = session(1, Padding::None, &mut guest);
        let message: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();

        host.send(&message).unwrap();
        guest.send(&message).unwrap();

        assert_eq!(received(to_guest(&mut host, &mut guest)), message);
        assert_eq!(received(to_host(&mut guest, &mut host)), message);
    }

    #[test]
    fn a_new_host_end_resets_the_guest_and_hears_nothing_of_the_last_session() {
        let mut guest = ControlGuest::new();
        let mut first = session(1, Padding::None, &mut guest);
        first.send(&[7; 100_000]).unwrap();
        let cut = first.outgoing()[..70_001].to_vec();
        guest.feed(&cut);
        guest.send(b"answer to the dead").unwrap();
        guest.sent(5);

        let mut second = ControlHost::new(Nonce([2; 16]), Padding::Full);
        let at_guest = to_guest(&mut second, &mut guest);
        let at_host = to_host(&mut guest, &mut second);

        assert_eq!(at_guest, [ControlEvent::Reset]);
        assert_eq!(at_host, [ControlEvent::Established]);
        second.send(b"ping").unwrap();
        assert_eq!(received(to_guest(&mut second, &mut guest)), b"ping");
    }

    #[test]
    fn a_guest_that_lost_its_place_asks_for_a_new_session() {
        let mut guest = ControlGuest::new();
        let mut host = session(1, Padding::None, &mut guest);

        let at_guest = guest.feed(&[0xff; 64]);
        let at_host = to_host(&mut guest, &mut host);

        assert!(matches!(at_guest[..], [ControlEvent::ProtocolError(_)]));
        let asked = ControlEvent::ProtocolError(Fault::ResyncAsked);
        assert_eq!(at_host, [asked]);
        assert_eq!(host.send(b"more"), Err(NotEstablished));
        session(2, Padding::Full, &mut guest);
    }

    #[test]
    fn a_replaced_connection_needs_no_padding() {
        let mut guest = ControlGuest::new();
        let mut first = session(1, Padding::None, &mut guest);
        first.send(b"cut off").unwrap();
        guest.feed(&first.outgoing()[..20]);

        guest.reconnected();

        session(2, Padding::None, &mut guest);
    }

    #[test]
    fn a_host_of_another_version_is_answered_and_not_served() {
        let mut guest = ControlGuest::new();
        let nonce = Nonce([1; 16]);
        let hello = Hello {
            nonce,
            version: VERSION + 1,
            resume: Resume::Acked,
        };
        let mut bytes = Vec::new();
        Encoder::new(nonce).encode(&Frame::Hello(hello), &mut bytes);

        let events = guest.feed(&bytes);

        assert!(matches!(
            events[..],
            [ControlEvent::ProtocolError(Fault::Version { .. })]
        ));
        assert!(!guest.outgoing().is_empty());
        assert!(!guest.is_established());
    }
}
