//! Watching a guest's console from outside: the one way by which a bare QEMU and a sandbox are seen alike.

use crate::e2e::world::BOOT_LIMIT;
use anyhow::{Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Short against a boot, long against what a look costs.
const LOOK_PERIOD: Duration = Duration::from_millis(1);

/// What the agent says of itself when it serves: milliseconds since the guest's kernel began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    pub ready_ms: u64,
    pub init_ms: u64,
}

impl Ready {
    /// From a console with the whole line `hutch-agent …: ready N ms after boot, init at M ms`.
    pub fn of(console: &str) -> Option<Self> {
        let (_, rest) = console.split_once(": ready ")?;
        let (ready, rest) = rest.split_once(" ms after boot, init at ")?;
        let (init, _) = rest.split_once(" ms")?;
        Some(Self {
            ready_ms: ready.parse().ok()?,
            init_ms: init.parse().ok()?,
        })
    }
}

/// Waits until what the console shows means something; with the moment at which it did.
pub fn wait<T>(
    console: impl Fn() -> Option<PathBuf>,
    meaning: impl Fn(&str) -> Option<T>,
) -> Result<(T, Instant)> {
    let began = Instant::now();
    loop {
        let path = console();
        let text = path.as_deref().map(read).unwrap_or_default();
        if let Some(found) = meaning(&text) {
            return Ok((found, Instant::now()));
        }
        if began.elapsed() > BOOT_LIMIT {
            bail!("the guest did not come up in {BOOT_LIMIT:?}; console: {text:?}");
        }
        std::thread::park_timeout(LOOK_PERIOD);
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The console of the only sandbox of a state folder.
pub fn of_only_sandbox(root: &Path) -> Option<PathBuf> {
    let folder = fs::read_dir(root.join("s")).ok()?.flatten().next()?;
    Some(folder.path().join("console.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_line_is_read_once_it_is_whole() {
        let line = "early\nhutch-agent 0.1.0: ready 1103 ms after boot, init at 1010 ms\r\n";

        assert_eq!(
            Ready::of(line),
            Some(Ready {
                ready_ms: 1103,
                init_ms: 1010
            })
        );
        let cut = &line[..line.len() - 6];
        assert_eq!(Ready::of(cut), None, "{cut}");
    }
}
