//! The agent protocol in frames, as plain bytes for ttrpc.
//!
//! An adapter around `stream::ControlHost`: it moves bytes and wakers, and decides nothing.

use super::{Connection, Deadline};
use crate::error::Error;
use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use stream::{ControlEvent, ControlHost, Nonce, PAYLOAD_MAX, Padding};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One read; a frame that is longer comes in pieces.
const READ_BYTES: usize = 16 * 1024;

/// One session of the control stream, at the host.
pub struct Framed {
    io: Connection,
    session: ControlHost,
    /// Bytes of the agent protocol that came with the last read. Nothing is read while it has any,
    /// so it never holds more than one read brings.
    inbox: VecDeque<u8>,
    scratch: Box<[u8]>,
}

/// Says HELLO with a fresh nonce, and waits until the guest has answered it.
pub(super) async fn greet(
    io: Connection,
    padding: Padding,
    address: &str,
    deadline: Deadline,
) -> Result<Framed, Error> {
    // 122 of the 128 bits are random: enough that no frame of an older session bears them.
    let nonce = Nonce(uuid::Uuid::new_v4().into_bytes());
    let mut framed = Framed {
        io,
        session: ControlHost::new(nonce, padding),
        inbox: VecDeque::new(),
        scratch: vec![0; READ_BYTES].into(),
    };
    deadline
        .bound(address, "hello", async {
            poll_fn(|cx| framed.poll_established(cx))
                .await
                .map_err(|source| Error::Talk {
                    address: address.to_owned(),
                    source,
                })
        })
        .await?;
    Ok(framed)
}

impl Framed {
    /// Writes and reads at once: a guest that is still sending what nobody read may take nothing
    /// from us before we took that from it.
    fn poll_established(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(e)) = self.poll_drain(cx) {
            return Poll::Ready(Err(e));
        }
        while !self.session.is_established() {
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what the session has to say.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.session.outgoing().is_empty() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, self.session.outgoing()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.session.sent(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, and says how many bytes that were.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(&mut self.scratch);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        let count = buffer.filled().len();
        for event in self.session.feed(&self.scratch[..count]) {
            match event {
                ControlEvent::Received(bytes) => self.inbox.extend(bytes),
                // Of the guest's end only; and the start of the session, which the state tells.
                ControlEvent::Established | ControlEvent::Reset => {}
                ControlEvent::ProtocolError(fault) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, fault);
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncRead for Framed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.inbox.is_empty() {
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let (front, _) = self.inbox.as_slices();
        let count = front.len().min(buffer.remaining());
        buffer.put_slice(&front[..count]);
        self.inbox.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Framed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let count = bytes.len().min(PAYLOAD_MAX);
        self.session
            .send(&bytes[..count])
            .map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error))?;
        // What does not fit now goes with the next write, or with the flush that ends a message.
        if let Poll::Ready(Err(e)) = self.poll_drain(cx) {
            return Poll::Ready(Err(e));
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
