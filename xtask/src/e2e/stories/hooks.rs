//! Stories of hooks: programs of the host, and of the guest, beside a container's life.

use super::lifecycle::succeeds;
use crate::{
    bundle,
    e2e::world::{BOOT_LIMIT, Outcome, World},
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// runc's code for a verb that failed.
const REFUSED: i32 = 1;

/// A bundle whose config.json has these hooks.
fn bundle(world: &World<'_>, script: &str, hooks: Value) -> Result<PathBuf> {
    let bundle = world.shell(script)?;
    bundle::change(&bundle, |config| config["hooks"] = hooks)?;
    Ok(bundle)
}

/// Writes its name, its environment and its stdin to the log, and whether the state's process is in
/// another network namespace.
fn logs(name: &str, log: &Path) -> Value {
    let log = log.display();
    let script = format!(
        r#"state=$(cat); pid=$(echo "$state" | sed -n 's/.*"pid":\([0-9]*\).*/\1/p')
        net=none; [ -n "$pid" ] && net=$(readlink /proc/$pid/ns/net)
        [ "$net" != "$(readlink /proc/self/ns/net)" ] && net=apart
        echo "{name} $GREETING $net $state" >> {log}"#
    );
    let env = ["GREETING=hello", "PATH=/usr/bin:/bin"];
    json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": env, "timeout": 30 }])
}

/// Name, first word and state of each line of the log.
fn logged(log: &Path) -> Result<Vec<(String, String, Value)>> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.splitn(4, ' ');
        let name = words.next().unwrap_or_default().to_owned();
        let greeting = words.next().unwrap_or_default();
        let net = words.next().unwrap_or_default();
        let state = words.next().unwrap_or_default();
        let state = serde_json::from_str(state).with_context(|| format!("state in {line:?}"))?;
        ensure!(greeting == "hello", "its environment is lost: {line:?}");
        Ok((name, net.to_owned(), state))
    };
    text.lines().map(line).collect()
}

fn names(log: &Path) -> Result<Vec<String>> {
    Ok(logged(log)?.into_iter().map(|(name, ..)| name).collect())
}

pub fn hooks_run_in_their_order_and_are_told_the_state(world: &World<'_>) -> Result<()> {
    let log = world.root().with_file_name("hooks.log");
    let in_guest = ["sh", "-c", "echo from the guest > /tmp/hooked"];
    // A file of the host that the guest runs: static, since the guest has no libraries.
    let told = r#"state=$(cat); case "$state" in *'"status":"creating"'*) ;; *) exit 9;; esac"#;
    let in_both = ["sh", "-c", told];
    let hooks = json!({
        "createContainer": [{ "path": "/bin/busybox", "args": in_both }],
        "prestart": logs("prestart", &log),
        "createRuntime": logs("createRuntime", &log),
        "startContainer": [{ "path": "/bin/sh", "args": in_guest }],
        "poststart": logs("poststart", &log),
        "poststop": logs("poststop", &log),
    });
    let script = "cat /tmp/hooked; exec sleep 1000";
    let bundle = bundle(world, script, hooks)?;

    let create = world.create("hooked", &bundle)?;
    succeeds(&create.finish(BOOT_LIMIT)?)?;
    ensure!(
        names(&log)? == ["prestart", "createRuntime"],
        "{:?}",
        names(&log)?
    );
    succeeds(&world.verb(&["start", "hooked"])?)?;
    let before = ["prestart", "createRuntime", "poststart"];
    ensure!(names(&log)? == before, "poststart: {:?}", names(&log)?);
    let read = world.verb(&["exec", "hooked", "/bin/cat", "/tmp/hooked"])?;
    ensure!(
        read.stdout == "from the guest\n",
        "startContainer: {read:?}"
    );
    succeeds(&world.verb(&["delete", "--force", "hooked"])?)?;

    let logged = logged(&log)?;
    let told: Vec<_> = logged
        .iter()
        .map(|(name, net, state)| (name.as_str(), net.as_str(), state["status"].as_str()))
        .collect();
    let due = [
        ("prestart", "apart", Some("creating")),
        ("createRuntime", "apart", Some("creating")),
        ("poststart", "apart", Some("running")),
        ("poststop", "apart", Some("stopped")),
    ];
    ensure!(told == due, "the hooks were told {told:?}");
    for (name, _, state) in &logged {
        let whole = state["id"] == "hooked" && state["bundle"] == json!(bundle);
        ensure!(whole && state["ociVersion"].is_string(), "{name}: {state}");
    }
    ensure!(
        logged[3].2["pid"].is_null(),
        "poststop has a pid: {:?}",
        logged[3]
    );
    Ok(())
}

pub fn a_hook_that_fails_or_hangs_makes_no_container(world: &World<'_>) -> Result<()> {
    let log = world.root().with_file_name("hooks.log");
    for (script, timeout, said) in [
        (
            "echo no luck today >&2; exit 3",
            30,
            ["exit code 3", "no luck today"],
        ),
        ("sleep 1000", 1, ["not over after 1000 ms", "/bin/sh"]),
    ] {
        let args = ["sh", "-c", script];
        let failing = json!([{ "path": "/bin/sh", "args": args, "timeout": timeout }]);
        let hooks = json!({ "createRuntime": failing, "poststop": logs("poststop", &log) });
        let bundle = bundle(world, "echo never", hooks)?;

        let created = world.create("unlucky", &bundle)?.finish(BOOT_LIMIT)?;

        ensure!(created.code() == Some(REFUSED), "{script}: {created:?}");
        let words = ["unlucky", "hooks.createRuntime[0]", said[0], said[1]];
        let told = words.iter().all(|word| created.stderr.contains(word));
        ensure!(told, "{script}: the cause is not told: {created:?}");
        let list = world.verb(&["list", "--quiet"])?;
        ensure!(list.stdout.is_empty(), "{script}: it is listed: {list:?}");
    }
    ensure!(
        names(&log)? == ["poststop", "poststop"],
        "{:?}",
        names(&log)?
    );
    Ok(())
}

pub fn a_hook_that_fails_later_is_told_to_who_asked(world: &World<'_>) -> Result<()> {
    let failing = |word: &str| {
        let args = json!(["sh", "-c", format!("echo {word} >&2; exit 3")]);
        json!([{ "path": "/bin/sh", "args": args }])
    };
    let hooks = json!({ "poststart": failing("not today"), "poststop": failing("nor ever") });
    let words = [
        ["hooks.poststart[0] failed: ", "exit code 3", "not today"],
        ["hooks.poststop[0] failed: ", "exit code 3", "nor ever"],
    ];
    let told = |ran: &Outcome, words: &[&str]| {
        let mut lines = ran.stderr.lines();
        lines.any(|line| {
            let warns = line.starts_with("hutch: warning: ");
            warns && words.iter().all(|word| line.contains(word))
        })
    };

    let resting = bundle(world, "exec sleep 1000", hooks.clone())?;
    let create = world.create("resting", &resting)?;
    succeeds(&create.finish(BOOT_LIMIT)?)?;
    let started = world.verb(&["start", "resting"])?;
    let deleted = world.verb(&["delete", "--force", "resting"])?;
    for (ran, words) in [(&started, &words[0]), (&deleted, &words[1])] {
        succeeds(ran)?;
        ensure!(told(ran, words), "the hook is not told of: {ran:?}");
    }

    let path = bundle(world, "echo out; exit 5", hooks)?;
    let path = path.to_string_lossy();
    let mut run = world.hutch(&["run", "--bundle", &path, "brief"]);
    let ran = world.start(&mut run)?.finish(BOOT_LIMIT)?;
    ensure!(ran.code() == Some(5), "it ended as its hooks: {ran:?}");
    ensure!(ran.stdout == "out\n", "{ran:?}");
    for words in &words {
        ensure!(told(&ran, words), "the hook is not told of: {ran:?}");
    }
    Ok(())
}
