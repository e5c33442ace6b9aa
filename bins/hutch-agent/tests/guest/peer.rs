//! The host's end of one process's stdio stream.

use super::vm::LIMIT;
use std::path::Path;
use stream::{Channel, Padding, Reader, Resume, StdinFrom, Winsize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    select,
    time::timeout,
};

/// A relay as a test has it: everything read is kept.
pub struct Peer {
    reader: Reader,
    port: UnixStream,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    buffer: Vec<u8>,
}

impl Peer {
    pub async fn connect(path: &Path) -> Self {
        Self::with(
            path,
            Reader::new(Resume::Acked, StdinFrom::Next),
            Padding::None,
        )
        .await
    }

    /// A reader that takes the place of one that is gone.
    pub async fn replace(path: &Path, resume: Resume) -> Self {
        Self::with(path, Reader::new(resume, StdinFrom::Next), Padding::Full).await
    }

    async fn with(path: &Path, mut reader: Reader, padding: Padding) -> Self {
        reader.connected(super::link::nonce(), padding);
        Self {
            reader,
            port: UnixStream::connect(path).await.unwrap(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            buffer: vec![0; 65_536],
        }
    }

    pub fn send(&mut self, mut bytes: &[u8]) {
        let taken = self.reader.stdin(bytes);
        bytes = &bytes[taken..];
        assert!(bytes.is_empty(), "more than a window; use feed");
    }

    pub fn end_stdin(&mut self) {
        self.reader.end_stdin();
    }

    pub fn resize(&mut self, rows: u16, columns: u16) {
        self.reader.resize(Winsize { rows, columns });
    }

    pub fn signal(&mut self, number: u32) {
        self.reader.signal(number).unwrap();
    }

    /// Moves bytes once, either way; output is taken.
    async fn turn(&mut self) {
        let outgoing = self.reader.outgoing().to_vec();
        let (mut from_guest, mut to_guest) = self.port.split();
        select! {
            biased;
            count = to_guest.write(&outgoing), if !outgoing.is_empty() => {
                self.reader.sent(count.unwrap());
            }
            count = from_guest.read(&mut self.buffer) => {
                let count = count.unwrap();
                assert!(count > 0, "qemu closed the port");
                self.reader.feed(&self.buffer[..count]).unwrap();
            }
        }
        for (channel, kept) in [
            (Channel::Stdout, &mut self.stdout),
            (Channel::Stderr, &mut self.stderr),
        ] {
            loop {
                let bytes = self.reader.output(channel);
                if bytes.is_empty() {
                    break;
                }
                kept.extend_from_slice(bytes);
                let count = bytes.len();
                self.reader.output_taken(channel, count);
            }
        }
    }

    /// Reads until stdout holds `wanted`.
    pub async fn expect(&mut self, wanted: &str) {
        let found = timeout(LIMIT, async {
            while !self.text().contains(wanted) {
                self.turn().await;
            }
        });
        assert!(found.await.is_ok(), "{wanted:?} not in {:?}", self.text());
    }

    /// Feeds all of that to stdin and ends it, reading meanwhile, to the exit.
    pub async fn feed(&mut self, mut bytes: &[u8]) -> u32 {
        let fed = timeout(LIMIT * 4, async {
            while !bytes.is_empty() && self.reader.wants_stdin() {
                let taken = self.reader.stdin(&bytes[..bytes.len().min(65_536)]);
                bytes = &bytes[taken..];
                self.turn().await;
            }
            self.end_stdin();
            self.exit().await
        });
        fed.await.unwrap()
    }

    /// Reads to the exit, and acknowledges it.
    pub async fn exit(&mut self) -> u32 {
        let code = timeout(LIMIT * 4, async {
            loop {
                if let Some(code) = self.reader.exit()
                    && self.reader.outgoing().is_empty()
                {
                    return code;
                }
                self.turn().await;
            }
        });
        code.await
            .unwrap_or_else(|_| panic!("no exit; stdout {:?}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}
