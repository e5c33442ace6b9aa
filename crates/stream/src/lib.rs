//! Frames of the streams between host and guest, and the machines at both ends of them. No I/O,
//! no clock, no random numbers: bytes go in, bytes and facts come out.
//!
//! Every stream, the control stream too, begins with the host's HELLO and the guest's WELCOME;
//! what comes before either is discarded. A host end that died in the middle of a frame can be
//! replaced at any byte:
//!
//! ```text
//!  host ──► [padding] HELLO(nonce) DATA DATA ACK …
//!  host ◄── (left-overs of the last session) WELCOME(nonce) DATA ACK EXIT …
//! ```
//!
//! - `frame`: what a frame is, and how it is written.
//! - `decoder`: how frames are found again in a stream of bytes, at the host and in the guest.
//! - `control`: both ends of the control stream, which carries the agent protocol.
//! - `guest`, `reader`: the two ends of a process's stdio stream, over `half`, the two halves of one
//!   channel.

pub mod control;
pub mod decoder;
pub mod fault;
pub mod frame;
pub mod guest;
mod half;
mod heir;
mod outgoing;
pub mod reader;
mod signals;

pub use control::{ControlEvent, ControlGuest, ControlHost, NotEstablished};
pub use decoder::{GuestDecoder, HostDecoder};
pub use fault::Fault;
pub use frame::{
    Channel, Encoder, FRAME_MAX, Frame, Hello, Nonce, PAYLOAD_MAX, Padding, Resume, VERSION,
    Welcome, Winsize,
};
pub use guest::{DRAIN_MAX, GuestEnd, Outputs, Request, SIGNALS_MAX};
pub use half::WINDOW;
pub use reader::{Reader, SignalsFull, StdinFrom};
