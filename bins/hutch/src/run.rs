//! From arguments to a verb, and from its outcome to an exit code.

use crate::{
    args::{Cli, LogFormat, SandboxVerb, Verb},
    daemon::Refused,
    verbs,
};
use anyhow::Result;
use std::{
    fs::File,
    io::Write as _,
    path::Path,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

/// What runc exits with when a verb fails.
const FAILED: u8 = 1;
/// What runc exits with when `exec` cannot run its program.
const EXEC_FAILED: u8 = 255;

pub fn run(cli: Cli) -> ExitCode {
    let failed = match &cli.verb {
        Verb::Exec(_) => EXEC_FAILED,
        _ => FAILED,
    };
    let (log, format) = (cli.log.clone(), cli.log_format);
    match perform(cli) {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            report(&why, log.as_deref(), format);
            ExitCode::from(failed)
        }
    }
}

fn perform(cli: Cli) -> Result<u8> {
    let Cli {
        root,
        namespace,
        verb,
        ..
    } = cli;
    let at = verbs::Place { root, namespace };
    match verb {
        Verb::Create(create) => verbs::lifecycle::create(&at, create),
        Verb::Start(id) => verbs::lifecycle::start(&at, &id.id),
        Verb::Run(run) => verbs::lifecycle::run(&at, run),
        Verb::Kill(kill) => verbs::lifecycle::kill(&at, kill),
        Verb::Delete(delete) => verbs::lifecycle::delete(&at, &delete.id, delete.force),
        Verb::Exec(exec) => verbs::exec::exec(&at, exec),
        Verb::State(id) => verbs::look::state(&at, &id.id),
        Verb::List(list) => verbs::look::list(&at, &list),
        Verb::Ps(ps) => verbs::look::ps(&at, &ps),
        Verb::Spec(spec) => verbs::spec::spec(&spec),
        Verb::Sandbox(SandboxVerb::List(list)) => verbs::sandbox::list(&at, &list),
        Verb::Sandbox(SandboxVerb::Inspect(id)) => verbs::sandbox::inspect(&at, &id.id),
        Verb::Console(console) => verbs::console::console(&at, &console),
        Verb::Doctor(doctor) => verbs::doctor::doctor(&at, &doctor),
        Verb::Version(version) => verbs::look::version(&at, &version),
        Verb::Completions(completions) => verbs::pages::completions(&completions),
        Verb::Man(man) => verbs::pages::man(&man),
    }
    .map_err(|why| match why.downcast::<Refused>() {
        // The daemon has named verb, object and cause already.
        Ok(refused) => refused.into(),
        Err(other) => other,
    })
}

/// One line on standard error, and one in the log file: callers such as conmon and Podman read it.
fn report(why: &anyhow::Error, log: Option<&Path>, format: LogFormat) {
    let text = one_line(&format!("{why:#}"));
    eprintln!("hutch: {text}");
    let Some(path) = log else { return };
    let line = match format {
        LogFormat::Text => format!("level=error msg={text:?}\n"),
        LogFormat::Json => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            let seconds = since.map_or(0, |since| since.as_secs());
            let entry = serde_json::json!({
                "level": "error",
                "msg": text,
                "time": rfc3339(seconds),
            });
            format!("{entry}\n")
        }
    };
    let written = File::options()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(why) = written {
        eprintln!("hutch: write --log {}: {why}", path.display());
    }
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r'])
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
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
    }
}
