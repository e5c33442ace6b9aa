//! One connection to an agent, and calls on it.
//!
//! The deadline of a call is kept here and not sent: a server drops its handler when a deadline
//! that it was told has passed, which would cut a creation in the guest half way.

use super::status;
use crate::{
    channel::Connection,
    error::{Error, Malformed},
};
use protobuf::Message;
use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};
use ttrpc::r#async::{Client, transport::Socket};

/// ttrpc carries 4 MiB; the envelope around a request needs little of it.
const REQUEST_BYTES_MAX: usize = (4 << 20) - 4096;

/// A ttrpc client that knows when its connection is down. Clones share the connection; it is
/// closed when the last one is gone.
#[derive(Clone)]
pub struct Link {
    client: Client,
    down: watch::Receiver<bool>,
    cut: watch::Sender<bool>,
}

impl Link {
    /// The connection is used up to its end; must be called within a runtime.
    pub fn over(io: Connection) -> Self {
        let (tell, down) = watch::channel(false);
        let cut = tell.clone();
        let client = Client::new(Socket::new(Watched { io, tell }));
        Self { client, down, cut }
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Answers when the connection is down, or was cut.
    pub async fn hung_up(&self) {
        self.watch().await;
    }

    /// As [`Self::hung_up`], without keeping the connection open meanwhile.
    pub fn watch(&self) -> impl Future<Output = ()> + use<> {
        let mut down = self.down.clone();
        async move {
            // An error means that the connection was dropped: down as well.
            let _ = down.wait_for(|down| *down).await;
        }
    }

    /// Ends every call on this link and its clones.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn is_down(&self) -> bool {
        *self.down.borrow()
    }

    /// Performs one call of the generated client, bounded in size and time.
    ///
    /// # Errors
    /// The request is too large, the link is down or breaks, the deadline passes, the agent
    /// answers with a status, or its answer cannot be decoded.
    pub async fn call<T>(
        &self,
        call: &'static str,
        deadline: Duration,
        request: &impl Message,
        work: impl Future<Output = ttrpc::Result<T>>,
    ) -> Result<T, Error> {
        let len = usize::try_from(request.compute_size()).unwrap_or(usize::MAX);
        if len > REQUEST_BYTES_MAX {
            let max = REQUEST_BYTES_MAX;
            return Err(Error::TooLarge { call, len, max });
        }
        tokio::select! {
            biased;
            answer = work => answer.map_err(|error| self.judge(call, error)),
            () = self.hung_up() => Err(Error::LinkLost { call }),
            () = tokio::time::sleep(deadline) => Err(Error::Deadline { call, after: deadline }),
        }
    }

    fn judge(&self, call: &'static str, error: ttrpc::Error) -> Error {
        match error {
            ttrpc::Error::RpcStatus(status) => Error::Agent {
                call,
                kind: status::kind(&status),
                message: status::message(&status),
            },
            ttrpc::Error::Socket(_)
            | ttrpc::Error::Nix(_)
            | ttrpc::Error::LocalClosed
            | ttrpc::Error::RemoteClosed
            | ttrpc::Error::Eof => Error::LinkLost { call },
            ttrpc::Error::Others(_) if self.is_down() => Error::LinkLost { call },
            // What is left of it: a frame of no known kind, or an answer that is no message.
            ttrpc::Error::Others(_) => Error::Malformed {
                call,
                source: Malformed::Encoding,
            },
        }
    }
}

/// A connection that tells when it ended: ttrpc only tells the calls that are in flight.
struct Watched {
    io: Connection,
    tell: watch::Sender<bool>,
}

impl Watched {
    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = result {
            self.tell.send_replace(true);
        }
        result
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.tell.send_replace(true);
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buffer);
        if matches!(result, Poll::Ready(Ok(()))) && buffer.filled().len() == before {
            self.tell.send_replace(true);
        }
        self.note(result)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.note(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
