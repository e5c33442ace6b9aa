//! What a peer can do wrong on a stream. A fault ends the session, never the program.

use crate::frame::Channel;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("frame has the unknown type {0}")]
    UnknownType(u8),
    #[error("frame has the unknown channel {0}")]
    UnknownChannel(u8),
    #[error("frame of type {kind} has a payload of {length} bytes, which it cannot have")]
    WrongLength { kind: u8, length: u32 },
    #[error("frame of type {kind} holds a value without a meaning")]
    WrongValue { kind: u8 },
    #[error("frame does not belong to this session")]
    ForeignFrame,
    #[error("peer speaks version {theirs} of the stream protocol, not {ours}")]
    Version { ours: u16, theirs: u16 },
    #[error("frame of type {kind} does not belong in this direction or on this stream")]
    OutOfPlace { kind: u8 },
    #[error("{channel} goes on at byte {got}, expected byte {expected}")]
    WrongOffset {
        channel: Channel,
        expected: u64,
        got: u64,
    },
    #[error("{channel} went on after its end")]
    AfterEnd { channel: Channel },
    #[error("{channel} exceeds its window")]
    WindowExceeded { channel: Channel },
    #[error("more signals at once than the window allows")]
    SignalsExceeded,
    #[error("{channel} is gone from byte {wanted} to byte {oldest}")]
    Gone {
        channel: Channel,
        wanted: u64,
        oldest: u64,
    },
    #[error("guest lost its place and asks for a new session")]
    ResyncAsked,
}
