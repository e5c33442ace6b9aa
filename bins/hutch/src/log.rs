//! What a verb says beside its output, a line each: in the file of `--log`, or on standard error.
//!
//! As runc has it: an error is said on standard error as well, a warning in one place.

use crate::args::LogFormat;
use anyhow::{Context as _, Result};
use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

#[derive(Debug)]
pub struct Log {
    /// Of `--log`: callers such as conmon and Podman read it.
    file: Option<(PathBuf, File)>,
    format: LogFormat,
    /// --debug.
    says_more: bool,
}

#[derive(Debug, Clone, Copy)]
enum Level {
    Error,
    Warning,
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Debug => "debug",
        }
    }
}

impl Log {
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: Option<&Path>, format: LogFormat, says_more: bool) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self {
                file: None,
                format,
                says_more,
            });
        };
        let opened = File::options().create(true).append(true).open(path);
        let opened = opened.with_context(|| format!("open --log {}", path.display()))?;
        Ok(Self {
            file: Some((path.to_owned(), opened)),
            format,
            says_more,
        })
    }

    pub fn error(&self, text: &str) {
        let text = one_line(text);
        eprintln!("hutch: {text}");
        self.write(Level::Error, &text);
    }

    /// What the guest could not honour of a request that it carried out all the same.
    pub fn warn_of_guest(&self, warnings: &[String]) {
        for warning in warnings {
            self.warn(&format!("in the guest: {warning}"));
        }
    }

    /// Hooks that failed, and what else went wrong beside what was carried out all the same.
    pub fn warn_beside(&self, warnings: &[String]) {
        for warning in warnings {
            self.warn(warning);
        }
    }

    pub fn warn(&self, text: &str) {
        let text = one_line(text);
        match self.file {
            Some(_) => self.write(Level::Warning, &text),
            None => eprintln!("hutch: warning: {text}"),
        }
    }

    /// For whoever looks for what takes long or goes astray.
    pub fn debug(&self, text: &str) {
        if !self.says_more {
            return;
        }
        let text = one_line(text);
        match self.file {
            Some(_) => self.write(Level::Debug, &text),
            None => eprintln!("hutch: debug: {text}"),
        }
    }

    /// Without a file there is nothing to write.
    fn write(&self, level: Level, text: &str) {
        let Some((path, file)) = &self.file else {
            return;
        };
        let level = level.name();
        let line = match self.format {
            LogFormat::Text => format!("level={level} msg={text:?}\n"),
            LogFormat::Json => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                let seconds = since.map_or(0, |since| since.as_secs());
                let entry = serde_json::json!({
                    "level": level,
                    "msg": text,
                    "time": rfc3339(seconds),
                });
                format!("{entry}\n")
            }
        };
        let mut file = file;
        if let Err(why) = file.write_all(line.as_bytes()) {
            eprintln!("hutch: write --log {}: {why}", path.display());
        }
    }
}

/// In one line, and without the control sequences of whoever had a hand in it, be it a guest.
pub fn one_line(text: &str) -> String {
    let parts = text.split(['\n', '\r']).map(str::trim);
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let shown = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    parts.join("; ").chars().map(shown).collect()
}

/// UTC, by the civil calendar (days from 1970-01-01; Howard Hinnant's `civil_from_days`).
pub fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_the_calendar_has_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_305_599), "2026-11-21T23:59:59Z");
    }

    #[test]
    fn an_error_is_one_line_whatever_its_cause_holds() {
        assert_eq!(one_line("a\n b\r\n\nc"), "a; b; c");
        assert_eq!(one_line("a\u{1b}[2Jb\u{9b}"), "a\\u{1b}[2Jb\\u{9b}");
    }
}
