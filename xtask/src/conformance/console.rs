//! Who holds a detached container's terminal: a listener that is sent the master end, and reads it.

use crate::{e2e::world::SOON, wait::wait_until};
use anyhow::{Context, Result, bail};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::{
    fs::File,
    io::{IoSliceMut, Read as _},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread::JoinHandle,
};

/// The terminal's name comes with it; paths are no longer.
const NAME_BYTES: usize = 4096;

pub struct Console {
    path: PathBuf,
    reader: JoinHandle<Result<String>>,
}

impl Console {
    pub fn listen(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path).context("listen for a terminal")?;
        let reader = std::thread::spawn(move || {
            let master = receive(&listener)?;
            Ok(read_to_end(master))
        });
        Ok(Self {
            path: path.to_owned(),
            reader,
        })
    }

    /// What the terminal showed until nobody had its other end.
    pub fn shown(self) -> Result<String> {
        // Where nobody sent one, this is who comes instead; else nobody listens any more.
        drop(UnixStream::connect(&self.path));
        if !wait_until(|| self.reader.is_finished(), SOON) {
            bail!("the terminal is still held");
        }
        let shown = self.reader.join().expect("the reader only reads");
        Ok(shown.unwrap_or_else(|why| format!("{why:#}")))
    }
}

fn receive(listener: &UnixListener) -> Result<OwnedFd> {
    let (socket, _) = listener.accept().context("accept a terminal")?;
    let mut name = [0; NAME_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut name)];
    recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        .context("receive a terminal")?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut sent) = message
            && let Some(fd) = sent.next()
        {
            return Ok(fd);
        }
    }
    bail!("a message without a terminal came")
}

/// It ends with EIO when nobody has the other end any more.
fn read_to_end(master: OwnedFd) -> String {
    let mut master = File::from(master);
    let (mut shown, mut buffer) = (Vec::new(), [0; NAME_BYTES]);
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&shown).into_owned()
}
