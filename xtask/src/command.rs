//! Running other programs: what fails is named with its command line, and long ones show that they live.

use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

/// Often enough to show that it lives, seldom enough for a log.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);
/// Lines read but not yet logged; a slow disk then slows the command, not memory.
const LINES_WAITING: usize = 1024;
/// How much of a log an error carries.
const TAIL_LINES: usize = 15;

/// The command as one could type it.
pub fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs it with our own streams; its output goes to standard error, which is where progress belongs.
pub fn run(command: &mut Command) -> Result<()> {
    command.stdout(std::io::stderr());
    let status = command
        .status()
        .with_context(|| format!("start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Writes a program that can be run at once. A child of ours writes it: what one of our threads had open for writing
/// as another forked cannot be run before the fork's own exec (ETXTBSY of execve(2)).
pub fn write_program(path: &Path, content: &[u8]) -> Result<()> {
    let plain = path.with_extension("plain");
    fs::write(&plain, content).with_context(|| format!("write {}", plain.display()))?;
    let mut install = Command::new("install");
    run(install.arg("--mode=755").arg(&plain).arg(path))?;
    fs::remove_file(&plain).with_context(|| format!("remove {}", plain.display()))
}

/// Its standard output as text.
pub fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("start `{}`", line(command)))?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}: {}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed what is not text", line(command)))
}

/// Runs it with all its output going to `log`. `progress` sees each line of output once; `show` is called every few
/// seconds with the time since the start.
pub fn run_logged(
    command: &mut Command,
    log: &Path,
    mut progress: impl FnMut(&str),
    mut show: impl FnMut(Duration),
) -> Result<()> {
    let mut file = append(log)?;
    let mut note =
        |text: &str| writeln!(file, "{text}").with_context(|| format!("write {}", log.display()));
    note(&format!("$ {}", line(command)))?;
    let (output, input) = std::io::pipe().context("make a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(input.try_clone().context("share a pipe")?)
        .stderr(input)
        .spawn()
        .with_context(|| format!("start `{}`", line(command)))?;
    // The command keeps our ends of the pipe, and while one is open the output does not end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (lines, incoming) = mpsc::sync_channel::<String>(LINES_WAITING);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&line).into_owned();
            if lines.send(text).is_err() {
                return;
            }
        }
    });
    let started = Instant::now();
    let mut shown = started;
    loop {
        match incoming.recv_timeout(PROGRESS_PERIOD) {
            Ok(text) => {
                progress(&text);
                note(&text)?;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if shown.elapsed() >= PROGRESS_PERIOD {
            shown = Instant::now();
            show(started.elapsed());
        }
    }
    let status = child
        .wait()
        .with_context(|| format!("wait for `{}`", line(command)))?;
    reader.join().expect("the reader only copies lines");
    if !status.success() {
        bail!("`{}` failed: {status}\n{}", line(command), tail(log));
    }
    Ok(())
}

fn append(log: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))
}

/// The last lines of a log, for an error that must make sense where the log cannot be read.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_that_cannot_start_is_named() {
        let error = read(&mut Command::new("/nowhere/at-all")).unwrap_err();

        assert!(format!("{error:#}").starts_with("start `/nowhere/at-all`"));
    }

    #[test]
    fn a_command_that_fails_says_its_status_and_its_complaint() {
        let error = read(&mut shell("echo broken >&2; exit 3")).unwrap_err();

        let text = error.to_string();
        assert!(
            text.contains("exit status: 3") && text.ends_with("broken"),
            "{text}"
        );
    }

    #[test]
    fn a_logged_command_shows_its_lines_to_the_counter_and_its_end_in_the_error() {
        let scratch = Scratch::new().unwrap();
        let log = scratch.path().join("log");
        let mut seen = Vec::new();

        let error = run_logged(
            &mut shell("echo one; echo two; echo bad >&2; exit 1"),
            &log,
            |line| seen.push(line.to_owned()),
            |_| {},
        )
        .unwrap_err();

        assert_eq!(seen, ["one", "two", "bad"]);
        assert!(error.to_string().contains("bad"), "{error}");
        let text = std::fs::read_to_string(&log).unwrap();
        for part in ["$ sh -c", "one", "two", "bad"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
