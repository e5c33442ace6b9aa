//! The daemon's own configuration and words.

use super::{Bench, FAILED, Row};
use anyhow::{Context, Result};
use std::{fs, process::Command};

macro_rules! file {
    ($what:literal, $text:expr, $($says:literal),+ $(,)?) => {
        Row {
            what: $what,
            command: |bench| with_file(bench, $text.as_ref()),
            code: FAILED,
            says: &["hutchd: configuration /", "config.toml: ", $($says),+],
        }
    };
}

pub fn rows() -> Vec<Row> {
    let mut rows = files();
    rows.extend(values());
    rows.extend(words());
    rows
}

// tidy: a table, one row after the other
fn files() -> Vec<Row> {
    vec![
        file!(
            "an unknown section",
            "[network]\n",
            "line 1: unknown field `network`"
        ),
        file!(
            "an unknown key",
            "[guest]\nvcpus = 1\nvcpu = 2\n",
            "line 3: unknown field `vcpu`",
        ),
        file!(
            "a key that is there twice",
            "[log]\nlevel = \"info\"\nlevel = \"warn\"\n",
            "line 3: duplicate key"
        ),
        file!("no TOML", "guest: {vcpus: 1}\n", "line 1: "),
        file!(
            "a number that is a word",
            "[guest]\nvcpus = \"two\"\n",
            "line 2: invalid type: string"
        ),
        file!(
            "a number below zero",
            "[guest]\nmemory_mib = -1\n",
            "line 2: invalid value"
        ),
        file!(
            "a machine that nobody knows",
            "[hypervisor]\nmachine = \"pc\"\n",
            "line 2: unknown variant `pc`",
        ),
        file!(
            "an accelerator that nobody knows",
            "[hypervisor]\naccelerator = \"warp\"\n",
            "line 2: unknown variant `warp`",
        ),
        file!(
            "a channel that nobody knows",
            "[guest]\nchannel = \"pigeon\"\n",
            "line 2: unknown variant `pigeon`",
        ),
    ]
}

macro_rules! value {
    ($what:literal, $text:literal, $($says:literal),+ $(,)?) => {
        Row {
            what: $what,
            command: |bench| with_file(bench, $text.as_ref()),
            code: FAILED,
            says: &["hutchd: ", $($says),+],
        }
    };
}

// tidy: a table, one row after the other
fn values() -> Vec<Row> {
    vec![
        value!(
            "no processor",
            "[guest]\nvcpus = 0\n",
            "guest.vcpus is 0; 1 to 16 are possible"
        ),
        value!(
            "too many processors",
            "[guest]\nvcpus = 17\n",
            "guest.vcpus is 17; 1 to 16 are possible",
        ),
        value!(
            "too little memory",
            "[guest]\nmemory_mib = 8\n",
            "guest.memory_mib is 8; 64 to 524288 are possible",
        ),
        value!(
            "a kernel that is not there",
            "[guest]\nkernel = \"/nonexistent/vmlinux\"\n",
            "guest.kernel: /nonexistent/vmlinux is not a file",
        ),
        value!(
            "an initrd that is a folder",
            "[guest]\ninitrd = \"/etc\"\n",
            "guest.initrd: /etc is not a file",
        ),
        value!(
            "a channel without what carries it",
            "[guest]\nchannel = \"hybrid-vsock\"\n[hypervisor]\nvsock_backend = \"/nonexistent/v\"\n",
            "hypervisor.vsock_backend: /nonexistent/v is not a file",
        ),
        value!(
            "a level that is none",
            "[log]\nlevel = \"a=b=c\"\n",
            "log.level \"a=b=c\""
        ),
    ]
}

// tidy: a table, one row after the other
fn words() -> Vec<Row> {
    vec![
        Row {
            what: "a configuration that is not there",
            command: |bench| {
                Ok(bench
                    .world
                    .hutchd(&["--config", "/nonexistent/c.toml", "config", "check"]))
            },
            code: FAILED,
            says: &["hutchd: read configuration /nonexistent/c.toml: No such file"],
        },
        Row {
            what: "a drop-in with an unknown key",
            command: |bench| {
                let folder = bench.fresh()?;
                fs::create_dir(folder.join("config.d")).context("make a folder")?;
                fs::write(folder.join("config.toml"), "").context("write a file")?;
                fs::write(folder.join("config.d/1.toml"), "x = 1\n").context("write a file")?;
                let mut command = bench.world.hutchd(&["config", "check", "--config"]);
                command.arg(folder.join("config.toml"));
                Ok(command)
            },
            code: FAILED,
            says: &[
                "hutchd: configuration /",
                "config.d/1.toml: line 1: unknown field `x`",
            ],
        },
        Row {
            what: "a state folder that is relative",
            command: |bench| Ok(bench.world.hutchd(&["--root", "here"])),
            code: FAILED,
            says: &["hutchd: --root here: not an absolute path"],
        },
        Row {
            what: "a second daemon",
            command: |bench| {
                let mut command = bench.world.hutchd(&["--root"]);
                command.arg(bench.world.root());
                Ok(command)
            },
            code: FAILED,
            says: &["hutchd: ", "held by"],
        },
    ]
}

fn with_file(bench: &Bench<'_, '_>, text: &str) -> Result<Command> {
    let path = bench.fresh()?.join("config.toml");
    fs::write(&path, text).context("write a configuration")?;
    let mut command = bench.world.hutchd(&["config", "check", "--config"]);
    command.arg(path);
    Ok(command)
}
