//! A real terminal, as a person's: a pseudo terminal with a shell on it that waits for the command's end.

use super::world::Running;
use crate::wait::wait_until;
use anyhow::{Context, Result, bail};
use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetattr, tcsetwinsize},
};
use std::{
    fs::File,
    io::{Read, Write},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// What the shell says when the command has ended, with its code.
const ENDED: &str = "the command ended with ";

pub struct Terminal {
    master: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Runs a command on a new terminal of this size. The terminal outlives the command, so that its modes can be looked at.
    pub fn run(command: &Command, rows: u16, columns: u16) -> Result<(Self, Running)> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("open a terminal")?;
        grantpt(&master).context("open a terminal")?;
        unlockpt(&master).context("open a terminal")?;
        let name = ptsname(&master, Vec::new()).context("name a terminal")?;
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let slave = File::from(open(&name, flags, Mode::empty()).context("open a terminal")?);
        let terminal = Self {
            master: File::from(master),
            shown: Arc::default(),
        };
        terminal.resize(rows, columns)?;

        // A session's leader takes the terminal along when it ends, so the command is not the leader; and who starts the
        // session stays in ours, where children are waited for by whoever started them.
        let mut shell = Command::new("setsid");
        shell
            .args(["--fork", "--wait", "--ctty", "sh", "-c"])
            .arg(format!("\"$@\"; echo \"{ENDED}$?\"; read end"))
            .arg("sh")
            .arg(command.get_program())
            .args(command.get_args())
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
        let end = |file: &File| -> Result<Stdio> {
            Ok(file.try_clone().context("copy a terminal")?.into())
        };
        let running = Running::start_on(&mut shell, [end(&slave)?, end(&slave)?, end(&slave)?])?;
        terminal.watch()?;
        Ok((terminal, running))
    }

    fn watch(&self) -> Result<()> {
        let mut master = self.master.try_clone().context("copy a terminal")?;
        let shown = Arc::clone(&self.shown);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // It ends with EIO when nobody has the other end any more.
            while let Ok(count @ 1..) = master.read(&mut buffer) {
                shown
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&buffer[..count]);
            }
        });
        Ok(())
    }

    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).context("resize a terminal")
    }

    /// How it treats what is typed and printed.
    pub fn modes(&self) -> Result<String> {
        let modes = tcgetattr(&self.master).context("read a terminal's modes")?;
        Ok(format!("{modes:?}"))
    }

    /// Types.
    pub fn enter(&self, keys: &str) -> Result<()> {
        (&self.master)
            .write_all(keys.as_bytes())
            .context("type on a terminal")
    }

    pub fn shown(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<()> {
        if wait_until(|| self.shown().contains(text), limit) {
            return Ok(());
        }
        bail!("the terminal does not show {text:?}: {:?}", self.shown())
    }

    /// What the command showed, and its code.
    pub fn end(&self, limit: Duration) -> Result<(String, i32)> {
        let parts = |shown: &str| {
            let (before, after) = shown.split_once(ENDED)?;
            let (code, _) = after.split_once('\r')?;
            Some((before.to_owned(), code.parse().ok()?))
        };
        if !wait_until(|| parts(&self.shown()).is_some(), limit) {
            bail!("the command does not end: {:?}", self.shown());
        }
        parts(&self.shown()).context("what was shown is gone")
    }

    /// Waits for the command's end with this code; the shell stays.
    pub fn wait_for_end(&self, code: i32, limit: Duration) -> Result<()> {
        self.wait_for(ENDED, limit)?;
        self.wait_for(&format!("{ENDED}{code}\r\n"), limit)
    }
}
