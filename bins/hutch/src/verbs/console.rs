//! console: what the guest's kernel and agent wrote.

use super::{Place, sandbox};
use crate::args;
use anyhow::{Context as _, Result};
use std::{
    fs::File,
    io::{self, Read, Write as _},
    path::Path,
    time::Duration,
};

/// How often a console that is followed is looked at; a file that grows tells nobody.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const CHUNK: usize = 64 * 1024;

pub fn console(at: &Place, console: &args::Console) -> Result<u8> {
    let found = sandbox::find(&mut at.daemon()?, &at.namespace, &console.id)?;
    let path = Path::new(&found.console_path);
    let about = || format!("console of sandbox {}: {}", found.uid, path.display());
    let mut file = File::open(path).with_context(about)?;
    loop {
        copy(&mut file).with_context(about)?;
        if !console.follow || !path.exists() {
            return Ok(0);
        }
        // tidy: a file that grows tells nobody; its level is looked at until it is gone
        std::thread::sleep(LOOK_EVERY);
    }
}

fn copy(file: &mut File) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut out = io::stdout().lock();
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return out.flush();
        }
        out.write_all(&printable(&chunk[..read]))?;
    }
}

/// The guest is not trusted with this terminal: its control sequences are shown, not obeyed.
fn printable(bytes: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\n' | b'\t' | 0x20..=0x7e | 0x80.. => shown.push(byte),
            // What the daemon cut away to bound the file reads as zeros.
            b'\r' | 0 => {}
            control => shown.extend(format!("\\x{control:02x}").bytes()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_write_control_sequences_to_the_terminal() {
        assert_eq!(printable(b"\0\0a\x1b[2Jb\r\n"), b"a\\x1b[2Jb\n");
    }
}
