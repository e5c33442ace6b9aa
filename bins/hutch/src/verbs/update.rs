//! update: limits of a container, changed while it lives. What is not named stays.

use super::{Place, fresh_key};
use crate::daemon::soon;
use anyhow::{Context as _, Result, bail};
use clap::Args;
use oci_spec::runtime::LinuxResources;
use protocols::asynchronous::hutch::UpdateRequest;
use serde_json::{Map, Value, json};
use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
};

/// An object of limits is short; reading stops here.
const RESOURCES_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, Args, Default)]
pub struct Update {
    /// File with an OCI linux.resources object, or - for standard input; other flags are not looked at then.
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Weight for block devices, 10 to 1000.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub blkio_weight: Option<u16>,
    /// Length of a period of processor time, in microseconds.
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_period: Option<u64>,
    /// Processor time within a period, in microseconds; -1 is no limit.
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Weight for processor time, as cgroups of version 1 count it.
    #[arg(
        long,
        alias = "cpu-shares",
        value_name = "N",
        allow_negative_numbers = true
    )]
    pub cpu_share: Option<u64>,
    /// Refused: a guest has no realtime scheduling by cgroup.
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_rt_period: Option<u64>,
    /// Refused: a guest has no realtime scheduling by cgroup.
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_rt_runtime: Option<u64>,
    /// Processors to use, of the guest's.
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use, of the guest's.
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Taken for callers of old; no kernel counts it apart any more.
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    pub kernel_memory: Option<String>,
    /// Taken for callers of old; no kernel counts it apart any more.
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    pub kernel_memory_tcp: Option<String>,
    /// Memory, in bytes or with a unit (32M); -1 is no limit.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Memory that is left alone while there is enough.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Memory and swap together; -1 is no limit.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// How many processes there may be; -1 is no limit.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Refused: a guest cannot divide the processor's cache.
    #[arg(long, value_name = "SCHEMA")]
    pub l3_cache_schema: Option<String>,
    /// Refused: a guest cannot divide the memory's bandwidth.
    #[arg(long, value_name = "SCHEMA")]
    pub mem_bw_schema: Option<String>,
    pub id: String,
}

pub fn update(at: &Place, update: &Update) -> Result<u8> {
    let resources = match &update.resources {
        Some(path) => from_file(path)?,
        None => {
            let resources = from_flags(update)?;
            for name in in_vain(update)? {
                let why = "changes nothing: no kernel counts it apart any more";
                at.log.warn(&format!("--{name} {why}"));
            }
            resources
        }
    };
    let request = UpdateRequest {
        key: fresh_key(),
        namespace: at.namespace.clone(),
        container_id: update.id.clone(),
        resources_json: resources,
        ..Default::default()
    };
    let updated = at
        .daemon()?
        .ask(async |client| client.update(soon(), &request).await)?;
    at.log.warn_of_guest(&updated.warnings);
    Ok(0)
}

fn from_file(path: &PathBuf) -> Result<Vec<u8>> {
    let about = || format!("resources {}", path.display());
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).with_context(about)?),
    };
    let mut source = source.take(RESOURCES_BYTES_MAX + 1);
    source.read_to_end(&mut bytes).with_context(about)?;
    if bytes.len() as u64 > RESOURCES_BYTES_MAX {
        bail!("{}: more than {RESOURCES_BYTES_MAX} bytes", about());
    }
    let value: Value = serde_json::from_slice(&bytes).with_context(about)?;
    // serde takes a list for an object's members in their order.
    if !value.is_object() {
        bail!("{}: it is not an object", about());
    }
    serde_json::from_value::<LinuxResources>(value).with_context(about)?;
    Ok(bytes)
}

fn from_flags(update: &Update) -> Result<Vec<u8>> {
    refused(update)?;
    let mut all = Map::new();
    let mut put = |group: &str, name: &str, value: Option<Value>| {
        if let Some(value) = value {
            all.entry(group).or_insert_with(|| json!({}))[name] = value;
        }
    };
    let size = |name: &str, text: &Option<String>| -> Result<Option<Value>> {
        let bytes = text.as_deref().map(|text| bytes(name, text));
        Ok(bytes.transpose()?.map(|bytes| json!(bytes)))
    };
    put("cpu", "period", update.cpu_period.map(|n| json!(n)));
    put("cpu", "quota", update.cpu_quota.map(|n| json!(n)));
    put("cpu", "shares", update.cpu_share.map(|n| json!(n)));
    put(
        "cpu",
        "cpus",
        update.cpuset_cpus.as_ref().map(|list| json!(list)),
    );
    put(
        "cpu",
        "mems",
        update.cpuset_mems.as_ref().map(|list| json!(list)),
    );
    put("memory", "limit", size("memory", &update.memory)?);
    put(
        "memory",
        "reservation",
        size("memory-reservation", &update.memory_reservation)?,
    );
    put("memory", "swap", size("memory-swap", &update.memory_swap)?);
    put("pids", "limit", update.pids_limit.map(|n| json!(n)));
    put("blockIO", "weight", update.blkio_weight.map(|n| json!(n)));
    serde_json::to_vec(&all).context("resources")
}

/// Flags that are taken and change nothing: no kernel counts it apart any more.
fn in_vain(update: &Update) -> Result<Vec<&'static str>> {
    let mut given = Vec::new();
    for (name, text) in [
        ("kernel-memory", &update.kernel_memory),
        ("kernel-memory-tcp", &update.kernel_memory_tcp),
    ] {
        if let Some(text) = text {
            bytes(name, text)?;
            given.push(name);
        }
    }
    Ok(given)
}

fn refused(update: &Update) -> Result<()> {
    let cache = "a guest cannot divide the processor's cache or the memory's bandwidth";
    let realtime = "the guest's kernel has no realtime scheduling by cgroup";
    for (flag, is_given, why) in [
        ("l3-cache-schema", update.l3_cache_schema.is_some(), cache),
        ("mem-bw-schema", update.mem_bw_schema.is_some(), cache),
        ("cpu-rt-period", update.cpu_rt_period.is_some(), realtime),
        ("cpu-rt-runtime", update.cpu_rt_runtime.is_some(), realtime),
    ] {
        if is_given {
            bail!("--{flag}: {why}");
        }
    }
    Ok(())
}

/// `33554432`, `32M`, `32MB`, `32MiB`, `0.5g`: all units are powers of 1,024; and `-1`.
fn bytes(flag: &str, text: &str) -> Result<i64> {
    if text == "-1" {
        return Ok(-1);
    }
    // runc's words.
    let wrong = || format!("invalid value for {flag}: invalid size: {text:?}");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim_start().to_lowercase();
    let unit = unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => bail!("{}", wrong()),
    };
    let number: f64 = number.parse().ok().with_context(wrong)?;
    let bytes = number * f64::from(2).powi(shift);
    // Beyond that a float no longer knows each byte, and no machine has it.
    if bytes >= f64::from(2).powi(53) {
        bail!("{}", wrong());
    }
    Ok(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser as _;

    fn flags(words: &[&str]) -> Update {
        let words = ["hutch", "update"].iter().chain(words);
        match Cli::parse_from(words).verb {
            Verb::Update(update) => *update,
            other => panic!("{other:?}"),
        }
    }

    fn resources(words: &[&str]) -> Value {
        serde_json::from_slice(&from_flags(&flags(words)).unwrap()).unwrap()
    }

    #[test]
    fn only_what_is_named_is_changed() {
        assert_eq!(resources(&["web"]), json!({}));
        assert_eq!(
            resources(&[
                "--memory",
                "32M",
                "--pids-limit",
                "-1",
                "--cpu-quota=-1",
                "web"
            ]),
            json!({"memory": {"limit": 33_554_432}, "pids": {"limit": -1}, "cpu": {"quota": -1}})
        );
    }

    #[test]
    fn sizes_are_read_as_runc_reads_them() {
        for (text, size) in [
            ("7", 7),
            ("1k", 1024),
            ("2KB", 2048),
            ("1MiB", 1 << 20),
            ("0.5g", 1 << 29),
            ("-1", -1),
        ] {
            assert_eq!(bytes("memory", text).unwrap(), size, "{text}");
        }
        for text in ["", "lots", "1x", "-2", "1e3", "999999p", "1 2"] {
            let why = bytes("memory", text).unwrap_err().to_string();
            assert!(
                why.starts_with("invalid value for memory: invalid size: "),
                "{text}: {why}"
            );
        }
    }

    #[test]
    fn what_a_guest_cannot_do_is_refused_with_the_reason() {
        let why = from_flags(&flags(&["--l3-cache-schema", "L3:0=f", "web"])).unwrap_err();

        assert!(
            why.to_string()
                .starts_with("--l3-cache-schema: a guest cannot"),
            "{why}"
        );
    }

    #[test]
    fn a_file_that_is_no_object_of_limits_is_refused_before_anybody_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resources.json");
        for text in [
            "",
            "hello",
            "{\"pids\": {\"limit\":",
            "{\"pids\": {\"limit\": \"many\"}}",
            "[]",
        ] {
            std::fs::write(&path, text).unwrap();

            assert!(from_file(&path).is_err(), "{text}");
        }
        std::fs::write(&path, "{\"pids\": {\"limit\": 4}}").unwrap();
        assert!(from_file(&path).is_ok());
        assert!(from_file(&folder.path().join("none")).is_err());
    }
}
