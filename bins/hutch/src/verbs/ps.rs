//! ps: the processes of a container, as its guest numbers them.
//!
//! runc runs the host's ps and picks lines; no ps of the host sees into a guest. So of its options those are taken that
//! ask for what the guest tells: pid and command.

use super::{
    Place,
    kill::{is_denied, status},
};
use crate::{
    args::{self, Format},
    daemon::soon,
    output::{print, print_line, table},
};
use anyhow::{Result, bail};
use protocols::asynchronous::hutch::{PsEntry, PsRequest, PsResponse};
use serde_json::json;

/// A column, and its title.
#[derive(Debug, Clone, PartialEq)]
struct Column {
    shows: Shows,
    title: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shows {
    Pid,
    /// The program's name alone.
    Name,
    Command,
}

pub fn ps(at: &Place, ps: &args::Ps) -> Result<u8> {
    let columns = columns(&ps.options)?;
    let request = PsRequest {
        namespace: at.namespace.clone(),
        container_id: ps.id.clone(),
        ..Default::default()
    };
    let mut daemon = at.daemon()?;
    let answer = match daemon.ask(async |client| client.ps(soon(), &request).await) {
        // As with runc: one that has stopped has none.
        Err(why) if is_denied(&why) && status(at, &mut daemon, &ps.id)? == "stopped" => {
            PsResponse::default()
        }
        answer => answer?,
    };
    match ps.format {
        Format::Json => {
            let pids: Vec<u32> = answer.processes.iter().map(|entry| entry.pid).collect();
            print_line(json!(pids))?;
        }
        Format::Table => {
            let row = |entry: &PsEntry| {
                columns
                    .iter()
                    .map(|column| cell(column.shows, entry))
                    .collect()
            };
            let rows: Vec<Vec<String>> = answer.processes.iter().map(row).collect();
            let titles: Vec<&str> = columns.iter().map(|column| column.title.as_str()).collect();
            print(&table(&titles, &rows))?;
        }
    }
    Ok(0)
}

fn cell(shows: Shows, entry: &PsEntry) -> String {
    match shows {
        Shows::Pid => entry.pid.to_string(),
        Shows::Command => entry.command.clone(),
        Shows::Name => {
            let program = entry.command.split(' ').next().unwrap_or_default();
            program.rsplit('/').next().unwrap_or_default().to_owned()
        }
    }
}

fn columns(options: &[String]) -> Result<Vec<Column>> {
    let mut chosen = Vec::new();
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match option.as_str() {
            "-e" | "-A" | "-f" | "-ef" | "-A -f" => {}
            "-o" | "-eo" | "--format" => {
                let Some(names) = options.next() else {
                    bail!("ps option {option:?}: which columns?");
                };
                for name in names.split(',') {
                    chosen.push(column(name)?);
                }
            }
            other => bail!(
                "ps option {other:?}: a guest tells of pid and command alone; -e, -f and -o are taken"
            ),
        }
    }
    if chosen.is_empty() {
        chosen = vec![column("pid")?, column("cmd")?];
    }
    Ok(chosen)
}

/// `pid`, or `pid=TITLE`.
fn column(text: &str) -> Result<Column> {
    let (name, title) = match text.split_once('=') {
        Some((name, title)) => (name, Some(title)),
        None => (text, None),
    };
    let (shows, usual) = match name {
        "pid" => (Shows::Pid, "PID"),
        "cmd" => (Shows::Command, "CMD"),
        "args" | "command" => (Shows::Command, "COMMAND"),
        "comm" | "ucmd" => (Shows::Name, "COMMAND"),
        other => bail!("ps column {other:?}: a guest tells of pid, comm, cmd and args"),
    };
    Ok(Column {
        shows,
        title: title.unwrap_or(usual).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(options: &[&str]) -> Result<Vec<String>> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        Ok(columns(&options)?
            .into_iter()
            .map(|column| column.title)
            .collect())
    }

    #[test]
    fn options_choose_columns_and_what_no_guest_tells_is_refused() {
        assert_eq!(titles(&[]).unwrap(), ["PID", "CMD"]);
        assert_eq!(titles(&["-ef"]).unwrap(), ["PID", "CMD"]);
        assert_eq!(titles(&["-o", "pid,comm"]).unwrap(), ["PID", "COMMAND"]);
        assert_eq!(titles(&["-o", "args=WHAT"]).unwrap(), ["WHAT"]);
        for bad in [&["-o", "user"][..], &["-o"], &["--nowhere"], &["aux"]] {
            assert!(titles(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_programs_name_is_the_last_of_its_path() {
        let entry = PsEntry {
            pid: 7,
            command: "/bin/sleep 100".to_owned(),
            ..Default::default()
        };

        assert_eq!(cell(Shows::Name, &entry), "sleep");
        assert_eq!(cell(Shows::Pid, &entry), "7");
    }
}
