//! top: what all containers use, as a table that renews itself.

use super::{Place, stats::request};
use crate::{
    args::Format,
    daemon::{Daemon, soon},
    duration,
    output::{print, table},
};
use anyhow::Result;
use clap::Args;
use futures::{StreamExt as _, stream};
use protocols::asynchronous::{
    hutch::{ContainerInfo, ListRequest, StatsResponse},
    hutch_ttrpc::RuntimeClient,
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    time::Duration,
};
use ttrpc::Code;

/// A share of processor time needs two looks; with --once they are this far apart.
const ONCE: Duration = Duration::from_millis(500);
/// A guest that does not say by then what its container uses has no figures in this table, which waits no longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Guests that are asked side by side: far fewer than a daemon serves.
const AT_ONCE: usize = 16;
const BYTES_PER_MIB: f64 = 1024.0 * 1024.0;

#[derive(Debug, Args)]
pub struct Top {
    /// Print one table, and end.
    #[arg(long)]
    pub once: bool,
    /// Between two tables.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration::parse, allow_hyphen_values = true)]
    pub interval: Duration,
    /// table or json (a line for each table).
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Containers of every namespace.
    #[arg(long)]
    pub all_namespaces: bool,
}

/// What one container uses.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    id: String,
    status: String,
    /// None: nobody says, since its guest hangs, its VM is paused or it ended a moment ago.
    used: Option<Used>,
}

#[derive(Debug, Clone, PartialEq)]
struct Used {
    /// Of one processor.
    cpu_percent: f64,
    memory: u64,
    /// None where nothing limits it.
    memory_max: Option<u64>,
    pids: u64,
}

/// Of one look: processor time used, and the guest's clock, by namespace and id.
type Look = BTreeMap<(String, String), (u64, u64)>;

pub fn top(at: &Place, top: &Top) -> Result<u8> {
    duration::check_interval(top.interval)?;
    let mut daemon = at.daemon()?;
    let (mut before, _) = look(at, &mut daemon, top, &Look::new())?;
    loop {
        // tidy: it is a clock's ticking that is waited for
        std::thread::sleep(if top.once { ONCE } else { top.interval });
        let (now, lines) = look(at, &mut daemon, top, &before)?;
        before = now;
        show(top, &lines)?;
        if top.once {
            return Ok(0);
        }
    }
}

fn look(at: &Place, daemon: &mut Daemon, top: &Top, before: &Look) -> Result<(Look, Vec<Line>)> {
    let request = ListRequest {
        namespace: match top.all_namespaces {
            true => String::new(),
            false => at.namespace.clone(),
        },
        ..Default::default()
    };
    let listed = daemon.ask(async |client| client.list(soon(), &request).await)?;
    let lives = |info: &ContainerInfo| ["running", "paused"].contains(&info.status.as_str());
    let living: Vec<_> = listed.containers.into_iter().filter(lives).collect();
    let answers = daemon.ask(async |client| Ok(all_stats(client, &living).await))?;
    let (mut now, mut lines) = (Look::new(), Vec::new());
    for (info, answer) in living.into_iter().zip(answers) {
        let name = (info.namespace.clone(), info.container_id.clone());
        let used = match answer {
            Answer::Gone => continue,
            Answer::Silent => {
                // Where it goes on, its share is that of the whole time.
                now.extend(before.get(&name).map(|seen| (name, *seen)));
                None
            }
            Answer::Stats(stats) => {
                let seen = (stats.cpu.get_or_default().usage_usec, stats.at_ms);
                let used = used(&stats, before.get(&name), seen);
                now.insert(name, seen);
                Some(used)
            }
        };
        let (id, status) = (info.container_id, info.status);
        lines.push(Line { id, status, used });
    }
    Ok((now, lines))
}

enum Answer {
    Stats(Box<StatsResponse>),
    /// It was deleted while we looked.
    Gone,
    Silent,
}

/// In their order.
async fn all_stats(client: &RuntimeClient, living: &[ContainerInfo]) -> Vec<Answer> {
    let asked = living.iter().map(async |info| {
        let request = request(&info.namespace, &info.container_id);
        let stats = client.stats(soon(), &request);
        match tokio::time::timeout(PATIENCE, stats).await {
            Ok(Ok(stats)) => Answer::Stats(Box::new(stats)),
            Ok(Err(why)) if is_gone(&why) => Answer::Gone,
            Ok(Err(_)) | Err(_) => Answer::Silent,
        }
    });
    stream::iter(asked).buffered(AT_ONCE).collect().await
}

fn is_gone(why: &ttrpc::Error) -> bool {
    matches!(why, ttrpc::Error::RpcStatus(status) if status.code() == Code::NOT_FOUND)
}

fn used(stats: &StatsResponse, before: Option<&(u64, u64)>, now: (u64, u64)) -> Used {
    let cpu_percent = before.map_or(0.0, |&(usage, at)| {
        let micros = now.1.saturating_sub(at).saturating_mul(1_000).max(1);
        now.0.saturating_sub(usage) as f64 / micros as f64 * 100.0
    });
    let memory = stats.memory.get_or_default();
    Used {
        cpu_percent,
        memory: memory.current,
        memory_max: (memory.max != u64::MAX).then_some(memory.max),
        pids: stats.pids.get_or_default().current,
    }
}

fn show(top: &Top, lines: &[Line]) -> Result<()> {
    let text = match top.format {
        Format::Json => {
            let lines: Vec<_> = lines.iter().map(as_json).collect();
            format!("{}\n", json!(lines))
        }
        Format::Table => {
            let rows: Vec<Vec<String>> = lines.iter().map(cells).collect();
            table(&["ID", "STATUS", "CPU%", "MIB", "LIMIT", "PIDS"], &rows)
        }
    };
    let renews = !top.once && top.format == Format::Table && io::stdout().is_terminal();
    // To the top, and what was there before is gone.
    let text = if renews {
        format!("\x1b[H\x1b[2J{text}")
    } else {
        text
    };
    print(&text)
}

fn as_json(line: &Line) -> serde_json::Value {
    let used = line.used.as_ref();
    json!({
        "id": line.id,
        "status": line.status,
        "cpuPercent": used.map(|used| used.cpu_percent),
        "memoryBytes": used.map(|used| used.memory),
        "memoryLimitBytes": used.and_then(|used| used.memory_max),
        "pids": used.map(|used| used.pids),
    })
}

fn cells(line: &Line) -> Vec<String> {
    let unknown = || "-".to_owned();
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / BYTES_PER_MIB);
    let figures = match &line.used {
        Some(used) => [
            format!("{:.1}", used.cpu_percent),
            mib(used.memory),
            used.memory_max.map_or_else(unknown, mib),
            used.pids.to_string(),
        ],
        None => [(); 4].map(|()| unknown()),
    };
    let named = [line.id.clone(), line.status.clone()];
    named.into_iter().chain(figures).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_a_share_of_the_time_between_two_looks() {
        let stats = StatsResponse::default();

        let first = used(&stats, None, (7, 1_000));
        let second = used(&stats, Some(&(1_000, 1_000)), (501_000, 2_000));
        let backwards = used(&stats, Some(&(1_000, 2_000)), (0, 1_000));

        assert_eq!(first.cpu_percent, 0.0);
        assert_eq!(second.cpu_percent, 50.0);
        assert_eq!(backwards.cpu_percent, 0.0, "a guest's clock may be set");
    }
}
