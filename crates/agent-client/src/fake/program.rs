//! What the fake's processes do.

use serde::Deserialize;
use std::time::Duration;

/// What becomes of a process that nobody signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// It exits with the code after the time.
    Ends {
        after: Duration,
        code: u32,
    },
    Stays,
}

/// A fork and an exec under emulation.
const SHORTEST: Duration = Duration::from_millis(4);

#[derive(Deserialize)]
struct Args {
    args: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    process: Args,
}

impl Program {
    /// From a config.json; `None`: it is none.
    pub fn of_config(json: &[u8]) -> Option<Self> {
        let config: Config = serde_json::from_slice(json).ok()?;
        Some(Self::of_args(&config.process.args))
    }

    /// From an OCI process object.
    pub fn of_process(json: &[u8]) -> Option<Self> {
        let process: Args = serde_json::from_slice(json).ok()?;
        Some(Self::of_args(&process.args))
    }

    fn of_args(args: &[String]) -> Self {
        let words: Vec<&str> = args.iter().flat_map(|arg| arg.split(' ')).collect();
        let name = words.first().and_then(|path| path.rsplit('/').next());
        let ends = |after, code| Self::Ends { after, code };
        let number = |text: &&str| text.parse().ok();
        match (name, words.get(1..).unwrap_or_default()) {
            (Some("true" | "echo"), _) => ends(SHORTEST, 0),
            (Some("false"), _) => ends(SHORTEST, 1),
            (Some("sleep"), [seconds]) => match seconds.parse() {
                Ok(seconds) => ends(Duration::from_secs(seconds), 0),
                Err(_) => ends(SHORTEST, 1),
            },
            (Some("sh"), ["-c", "exit", code]) => ends(SHORTEST, number(code).unwrap_or(2)),
            (Some(_) | None, _) => Self::Stays,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_do_what_their_names_say() {
        let of = |json: &str| Program::of_process(json.as_bytes());

        assert_eq!(
            of(r#"{"args":["/bin/sh","-c","exit 7"],"cwd":"/"}"#),
            Some(Program::Ends {
                after: SHORTEST,
                code: 7
            })
        );
        assert_eq!(of(r#"{"args":["httpd"]}"#), Some(Program::Stays));
        assert_eq!(of("{}"), None);
    }
}
