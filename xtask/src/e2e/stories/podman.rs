//! Stories told by Podman: what its users do with containers, with `hutch` below it.

use crate::{
    e2e::{
        podman::{ACCOUNT, IMAGE, Podman, profile_without},
        terminal::Terminal,
        world::{BOOT_LIMIT, Outcome, SOON, World},
    },
    wait::wait_until,
};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

/// SIGKILL's, as shells count.
const KILLED: i32 = 128 + Signal::SIGKILL as i32;
/// Installs its traps before it says so; a signal that comes earlier finds a PID 1 without a handler.
const HEEDS: &str =
    "trap 'echo term; exit 5' TERM; trap 'echo usr1' USR1; echo up; while :; do sleep 0.1; done";

pub fn podman_runs_a_container_and_starts_it_again(world: &World<'_>) -> Result<()> {
    let podman = Podman::new(world)?;
    let script = "echo out; echo err >&2; exit 7";

    let run = podman.run(&["run", "--name", "one", IMAGE, "sh", "-c", script])?;

    says(&run, 7, "out\n")?;
    ensure!(run.stderr == "err\n", "{run:?}");
    let state = podman.state("one")?;
    ensure!(
        state["Status"] == "exited" && state["ExitCode"] == 7 && state["Pid"] == 0,
        "{state}"
    );
    ensure!(state["OOMKilled"] == false, "{state}");
    let logs = podman.run(&["logs", "one"])?;
    ensure!(
        logs.stdout == "out\n" && logs.stderr == "err\n",
        "logs: {logs:?}"
    );
    let again = podman.run(&["start", "--attach", "one"])?;
    says(&again, 7, "out\n")?;
    ensure!(
        podman.ask(&["wait", "one"])? == "7",
        "waiting for what is over"
    );
    let listed = podman.ask(&["ps", "--all", "--format", "{{.Names}} {{.Status}}"])?;
    ensure!(listed.starts_with("one Exited (7) "), "{listed}");
    podman.ask(&["rm", "one"])?;

    // What is gone with its end: nothing is left to remove.
    let mut cat = podman.start(&["run", "--rm", "--interactive", IMAGE, "cat"])?;
    let mut stdin = cat.stdin().context("stdin is piped")?;
    stdin.write_all(b"in and out\n").context("write")?;
    drop(stdin);
    says(&cat.finish(BOOT_LIMIT)?, 0, "in and out\n")?;
    podman.end()
}

pub fn podman_reaches_into_a_running_container(world: &World<'_>) -> Result<()> {
    let podman = Podman::new(world)?;
    podman.ask(&[
        "run",
        "--detach",
        "--name=house",
        "--health-cmd=test -e /tmp/well",
        "--health-interval=disable",
        IMAGE,
        "sh",
        "-c",
        HEEDS,
    ])?;
    wait_for_log(&podman, "house", "up\n")?;

    stands_where_it_belongs(&podman, "house")?;
    execs(&podman, "house")?;
    exec_on_a_terminal(&podman, "house")?;
    is_looked_at(&podman, "house")?;
    is_held_and_given_less(&podman, "house")?;
    ensure!(podman.run(&["healthcheck", "run", "house"])?.code() == Some(1));
    podman.ask(&["exec", "house", "touch", "/tmp/well"])?;
    ensure!(podman.run(&["healthcheck", "run", "house"])?.code() == Some(0));
    podman.ask(&["kill", "--signal", "USR1", "house"])?;
    wait_for_log(&podman, "house", "usr1\n")?;

    let waiting = podman.start(&["wait", "house"])?;
    podman.ask(&["stop", "--time", "60", "house"])?;

    says(&waiting.finish(SOON)?, 0, "5\n")?;
    ensure!(podman.state("house")?["ExitCode"] == 5);
    ensure!(
        podman.ask(&["logs", "house"])? == "up\nusr1\nterm",
        "its last word is lost"
    );
    podman.ask(&["rm", "house"])?;
    podman.end()
}

fn execs(podman: &Podman<'_>, name: &str) -> Result<()> {
    let script = "echo in; echo no >&2; exit 4";
    let exec = podman.run(&["exec", name, "sh", "-c", script])?;
    says(&exec, 4, "in\n")?;
    ensure!(exec.stderr == "no\n", "{exec:?}");
    let (account, uid) = ACCOUNT;
    let user = format!("--user={account}");
    let script = "echo $(id -u) $A $PWD";
    let given = podman.ask(&[
        "exec", &user, "-e", "A=b", "-w", "/tmp", name, "sh", "-c", script,
    ])?;
    ensure!(given == format!("{uid} b /tmp"), "{given}");
    let mut cat = podman.start(&["exec", "--interactive", name, "cat"])?;
    let mut stdin = cat.stdin().context("stdin is piped")?;
    stdin.write_all(b"through\n").context("write")?;
    drop(stdin);
    says(&cat.finish(SOON)?, 0, "through\n")
}

fn is_held_and_given_less(podman: &Podman<'_>, name: &str) -> Result<()> {
    podman.ask(&["pause", name])?;
    ensure!(podman.state(name)?["Status"] == "paused");
    let exec = podman.run(&["exec", name, "true"])?;
    ensure!(!exec.status.success(), "{exec:?}");
    podman.ask(&["unpause", name])?;
    ensure!(podman.state(name)?["Status"] == "running");
    podman.ask(&["update", "--memory=96m", "--cpus=0.5", name])?;
    let limits = "cd /sys/fs/cgroup$(cut -d : -f 3 /proc/self/cgroup); cat memory.max cpu.max";
    let given = podman.ask(&["exec", name, "sh", "-c", limits])?;
    ensure!(given == format!("{}\n50000 100000", 96 << 20), "{given}");
    Ok(())
}

/// By the ps of its image, and by what it costs its host: the relay and the VM.
fn is_looked_at(podman: &Podman<'_>, name: &str) -> Result<()> {
    let top = podman.ask(&["top", name, "-o", "pid,args"])?;
    ensure!(
        top.lines()
            .any(|line| line.trim().starts_with("1 sh -c trap")),
        "{top}"
    );
    let format = "--format={{.Name}} {{.MemUsage}}";
    let stats = podman.ask(&["stats", "--no-stream", format, name])?;
    // A guest alone has more than a hundred; a relay has two.
    let used = stats
        .strip_prefix(name)
        .and_then(|rest| rest.split("MB /").next());
    let used: f64 = used
        .and_then(|used| used.trim().parse().ok())
        .unwrap_or(0.0);
    ensure!(used > 50.0, "{stats}");
    Ok(())
}

/// Its pid is a process of the host, in its cgroup and beside its VM.
fn stands_where_it_belongs(podman: &Podman<'_>, name: &str) -> Result<()> {
    let container = podman.inspect(name)?;
    ensure!(
        container["State"]["Status"] == "running",
        "{}",
        container["State"]
    );
    let pid = &container["State"]["Pid"];
    let id = container["Id"].as_str().context("it has an id")?;
    let about = |file: &str| format!("/proc/{pid}/{file}");
    let cgroups = fs::read_to_string(about("cgroup")).context("read its cgroups")?;
    let own = format!(":/libpod_parent/libpod-{id}");
    ensure!(
        cgroups.lines().all(|line| line.ends_with(&own)),
        "{cgroups}"
    );
    let vms = podman.world().processes("qemu-system")?;
    ensure!(vms.len() == 1, "one container is one VM: {vms:?}");
    let namespace = |pid: &str| -> Result<u64> {
        let found = fs::metadata(format!("/proc/{pid}/ns/net")).context("look at a namespace")?;
        Ok(found.ino())
    };
    let (its, vms) = (
        namespace(&pid.to_string())?,
        namespace(&vms[0].pid().to_string())?,
    );
    ensure!(
        its == vms && its != namespace("self")?,
        "it is in another network"
    );
    Ok(())
}

fn exec_on_a_terminal(podman: &Podman<'_>, name: &str) -> Result<()> {
    let exec = podman.command(&["exec", "--interactive", "--tty", name, "sh"]);
    let (terminal, shell) = Terminal::run(&exec, 33, 77)?;
    terminal.wait_for("/ # ", SOON)?;
    terminal.enter("tty; stty size\n")?;
    terminal.wait_for("/dev/pts/", SOON)?;
    terminal.wait_for("\r\n33 77\r\n", SOON)?;
    terminal.resize(44, 88)?;
    terminal
        .enter("while [ \"$(stty size)\" != '44 88' ]; do sleep 0.1; done; echo resi''zed\n")?;
    terminal.wait_for("\r\nresized\r\n", SOON)?;
    terminal.enter("exit 6\n")?;
    terminal.wait_for_end(6, SOON)?;
    terminal.enter("\n")?;
    shell.finish(SOON).map(drop)
}

pub fn podman_attaches_to_a_terminal_and_stops_what_does_not_heed(world: &World<'_>) -> Result<()> {
    let podman = Podman::new(world)?;
    podman.ask(&[
        "run",
        "-dit",
        "--name=shell",
        "--stop-signal=USR2",
        IMAGE,
        "sh",
    ])?;
    let attach = podman.command(&["attach", "shell"]);
    let (terminal, person) = Terminal::run(&attach, 24, 80)?;

    terminal.enter("echo ty''ped; tty\n")?;
    terminal.wait_for("\r\ntyped\r\n", SOON)?;
    terminal.wait_for("/dev/pts/", SOON)?;
    terminal.enter("exit 3\n")?;

    // Podman 4.3's attach does not end as its container did.
    terminal.wait_for_end(0, SOON)?;
    terminal.enter("\n")?;
    person.finish(SOON)?;
    ensure!(podman.ask(&["wait", "shell"])? == "3");

    // Started again, it gets the signal of its image, which a shell as PID 1 does not heed; and then the one that it must.
    podman.ask(&["start", "shell"])?;
    podman.ask(&["exec", "shell", "true"])?;
    let stop = podman.run(&["stop", "--time", "1", "shell"])?;
    says(&stop, 0, "shell\n")?;
    ensure!(stop.stderr.contains("SIGUSR2"), "{stop:?}");
    ensure!(
        podman.state("shell")?["ExitCode"] == KILLED,
        "it was not killed"
    );

    // One that heeds its signal says so.
    let heeds = "trap 'exit 9' USR2; touch /up; while true; do sleep 0.1; done";
    let named = ["--name=heeds", "--stop-signal=USR2"];
    podman.ask(&["run", "-d", named[0], named[1], IMAGE, "sh", "-c", heeds])?;
    let is_up = "until test -e /up; do sleep 0.1; done";
    podman.ask(&["exec", "heeds", "sh", "-c", is_up])?;
    podman.ask(&["stop", "--time", "60", "heeds"])?;
    let code = podman.ask(&["wait", "heeds"])?;
    ensure!(code == "9", "it did not hear SIGUSR2: {code}");
    podman.ask(&["rm", "heeds"])?;
    podman.ask(&["start", "shell"])?;
    podman.ask(&["rm", "--force", "--time", "0", "shell"])?;
    podman.end()
}

/// Everything that a container was promised, one line each, and then what it may write.
const PROMISED: &str = "id -u; id -g; echo $A; pwd; hostname; ulimit -n; ulimit -Hn; \
        grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'; \
        cd /sys/fs/cgroup$(cut -d : -f 3 /proc/self/cgroup); cat memory.max cpu.max pids.max; \
        df -k /dev/shm /scratch | awk 'NR > 1 { print $NF, $2 }'; \
        cat /again/given /etc/single /etc/fixed; grep -c thehost /etc/hosts /etc/hostname; \
        tr '\\0' ' ' </proc/1/cmdline; echo; \
        for path in /here /again/here /volume/here /tmp/here /etc/fixed /etc/single; do \
            touch $path 2>/dev/null && echo may $path; done; exit 9";

pub fn podman_gives_a_container_its_limits_and_its_files(world: &World<'_>) -> Result<()> {
    let podman = Podman::new(world)?;
    let volume = podman.folder("volume")?;
    let single = podman.folder("single")?.join("file");
    fs::write(&single, "one file\n").context("write a file")?;
    // Whoever may not write to it is kept from that by nothing but its mount.
    let anyone = fs::Permissions::from_mode(0o666);
    fs::set_permissions(&single, anyone).context("let anyone write")?;
    fs::write(volume.join("given"), "given\n").context("write a file")?;
    let (volume_at, again_at, single_at, fixed_at) = (
        format!("-v={}:/volume", volume.display()),
        format!("-v={}:/again:ro", volume.display()),
        format!("-v={}:/etc/single", single.display()),
        format!("-v={}:/etc/fixed:ro", single.display()),
    );
    let user = format!("--user={0}:{0}", ACCOUNT.1);
    let run = podman.run(&[
        "run",
        "--rm",
        "--init",
        &user,
        "--read-only",
        "--tmpfs=/scratch:size=1m",
        &volume_at,
        &again_at,
        &single_at,
        &fixed_at,
        "--memory=64m",
        "--cpus=0.5",
        "--pids-limit=20",
        "--ulimit=nofile=123:456",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "-e",
        "A=b",
        "-w",
        "/tmp",
        "--hostname=thehost",
        "--shm-size=2m",
        IMAGE,
        "sh",
        "-c",
        PROMISED,
    ])?;

    let (_, uid) = ACCOUNT;
    let expected = format!(
        "{uid}\n{uid}\nb\n/tmp\nthehost\n123\n456\n\
         CapEff:0000000000000000\nNoNewPrivs:1\nSeccomp:2\n\
         67108864\n50000 100000\n20\n/dev/shm 2048\n/scratch 1024\n\
         given\none file\none file\n/etc/hosts:1\n/etc/hostname:1\n"
    );
    ensure!(run.code() == Some(9), "{run:?}");
    let rest = run.stdout.strip_prefix(&expected);
    let rest = rest.with_context(|| format!("{run:?}, and not {expected:?}"))?;
    ensure!(
        rest.contains("/run/podman-init -- sh -c "),
        "no init: {rest}"
    );
    let may: Vec<&str> = rest
        .lines()
        .filter(|line| line.starts_with("may "))
        .collect();
    let expected = ["may /volume/here", "may /tmp/here", "may /etc/single"];
    ensure!(may == expected, "{may:?}");
    let made = fs::metadata(volume.join("here")).context("what it made in its volume")?;
    ensure!(made.uid() == uid, "made by {}", made.uid());
    podman.end()
}

pub fn podman_hides_and_forbids_and_tells_what_was_killed_for_memory(
    world: &World<'_>,
) -> Result<()> {
    let podman = Podman::new(world)?;
    let profile = podman.folder("seccomp")?.join("profile.json");
    fs::write(&profile, profile_without(&["mkdir", "mkdirat"])).context("write a profile")?;
    let seccomp = format!("--security-opt=seccomp={}", profile.display());
    let script =
        "mkdir /tmp/x; wc -c </etc/passwd; echo >/proc/sys/kernel/printk && echo free; exit 2";

    let run = podman.run(&[
        "run",
        "--rm",
        &seccomp,
        "--security-opt=mask=/etc/passwd",
        "--security-opt=unmask=/proc/sys",
        IMAGE,
        "sh",
        "-c",
        script,
    ])?;

    ensure!(run.code() == Some(2), "{run:?}");
    ensure!(
        run.stderr.contains("Function not implemented") && run.stdout.starts_with("0\n"),
        "{run:?}"
    );
    let hungry = podman.run(&[
        "run",
        "--name=hungry",
        "--memory=32m",
        IMAGE,
        "tail",
        "/dev/zero",
    ])?;
    ensure!(hungry.code() == Some(KILLED), "{hungry:?}");
    let state = podman.state("hungry")?;
    ensure!(
        state["OOMKilled"] == true && state["ExitCode"] == KILLED,
        "{state}"
    );
    podman.ask(&["rm", "hungry"])?;
    podman.end()
}

pub fn podman_restarts_what_fails_as_often_as_it_was_told(world: &World<'_>) -> Result<()> {
    let podman = Podman::new(world)?;
    // Three times in all, since it fails each time.
    let counts = podman.folder("counts")?;
    let counted = format!("{}:/counts", counts.display());
    let failing = podman.run(&[
        "run",
        "--name=failing",
        "--restart=on-failure:2",
        "-v",
        &counted,
        IMAGE,
        "sh",
        "-c",
        "echo again >>/counts/times; exit 11",
    ])?;
    ensure!(failing.code() == Some(11), "{failing:?}");
    let times = || fs::read_to_string(counts.join("times")).unwrap_or_default();
    ensure!(
        wait_until(|| times().lines().count() == 3, BOOT_LIMIT),
        "{:?}",
        times()
    );
    let is_over = || {
        podman
            .inspect("failing")
            .is_ok_and(|it| it["RestartCount"] == 2 && it["State"]["Status"] == "exited")
    };
    ensure!(
        wait_until(is_over, BOOT_LIMIT),
        "{}",
        podman.inspect("failing")?
    );
    podman.ask(&["rm", "failing"])?;
    podman.end()
}

pub fn podman_runs_a_pod_of_two_in_one_vm(world: &World<'_>) -> Result<()> {
    let podman = Podman::new(world)?;
    podman.ask(&[
        "pod",
        "create",
        "--name=pod",
        "--hostname=thepod",
        "--share=net,ipc,uts,pid",
        "--infra-image",
        IMAGE,
        "--infra-command=sleep 1000",
    ])?;
    for (name, seconds) in [("one", "1001"), ("two", "1002")] {
        let words = ["create", "--pod=pod", "--name", name, IMAGE, "sleep"];
        podman.ask(&[&words[..], &[seconds]].concat())?;
    }

    podman.ask(&["pod", "start", "pod"])?;

    let vms = world.processes("qemu-system")?;
    ensure!(vms.len() == 1, "a pod is one VM: {vms:?}");
    let pod = podman.ask(&[
        "pod",
        "ps",
        "--format={{.Name}} {{.Status}} {{.NumberOfContainers}}",
    ])?;
    ensure!(pod == "pod Running 3", "{pod}");
    for kind in ["ipc", "uts", "pid"] {
        let look = format!("/proc/self/ns/{kind}");
        let seen = |name| podman.ask(&["exec", name, "readlink", &look]);
        ensure!(seen("one")? == seen("two")?, "{kind} is not shared");
    }
    ensure!(podman.ask(&["exec", "two", "hostname"])? == "thepod");
    // The infra container's is the first process of all three.
    ensure!(pid_as_seen_by(&podman, "two", "sleep 1000")? == "1");
    // One's listener is two's on the network that they share.
    podman.ask(&[
        "exec",
        "-d",
        "one",
        "sh",
        "-c",
        "echo hello | nc -l -p 4711",
    ])?;
    let hears = || {
        let heard = podman.ask(&["exec", "two", "nc", "127.0.0.1", "4711"]);
        heard.is_ok_and(|heard| heard == "hello")
    };
    ensure!(wait_until(hears, SOON), "two does not hear one");
    // Without a pod nothing can be shared: it is another machine.
    podman.ask(&["run", "-d", "--name=lone", IMAGE, "sleep", "1000"])?;
    let other = podman.run(&["run", "--rm", "--uts=container:lone", IMAGE, "true"])?;
    ensure!(
        other.code() == Some(126) && other.stderr.contains("the uts namespace of the host"),
        "{other:?}"
    );
    podman.ask(&["rm", "--force", "--time=0", "lone"])?;
    // One's process is two's to end, and two goes on without it.
    let its = pid_as_seen_by(&podman, "two", "sleep 1001")?;
    podman.ask(&["exec", "two", "kill", "-KILL", &its])?;
    ensure!(podman.ask(&["wait", "one"])? == KILLED.to_string());
    podman.ask(&["rm", "--force", "--time=0", "one"])?;
    ensure!(podman.ask(&["exec", "two", "hostname"])? == "thepod");
    podman.ask(&["pod", "rm", "--force", "--time=0", "pod"])?;
    podman.end()
}

/// Of the process with these words.
fn pid_as_seen_by(podman: &Podman<'_>, container: &str, words: &str) -> Result<String> {
    let seen = podman.ask(&["exec", container, "ps", "-o", "pid,args"])?;
    let mut lines = seen.lines().map(str::trim).map(|line| line.split_once(' '));
    let pid = lines.find_map(|line| line.filter(|(_, its)| *its == words));
    let (pid, _) = pid.with_context(|| format!("no {words:?} in {seen:?}"))?;
    Ok(pid.to_owned())
}

pub fn a_podman_container_outlives_a_killed_daemon(world: &World<'_>) -> Result<()> {
    let podman = Podman::new(world)?;
    podman.ask(&["run", "--detach", "--name=tough", IMAGE, "sh", "-c", HEEDS])?;
    podman.ask(&["run", "--detach", "--name=brief", IMAGE, "sleep", "1000"])?;
    wait_for_log(&podman, "tough", "up\n")?;
    let pid = podman.state("tough")?["Pid"].clone();

    world.kill(world.daemon()?)?;
    // Whatever asks first starts the next daemon; what conmon started would keep conmon waiting.
    let listed = world.verb(&["list", "--quiet"])?;
    ensure!(listed.stdout.lines().count() == 2, "{listed:?}");

    ensure!(
        podman.state("tough")?["Pid"] == pid,
        "another process stands for it"
    );
    ensure!(podman.ask(&["exec", "tough", "echo", "still here"])? == "still here");
    podman.ask(&["stop", "--time", "60", "tough"])?;
    ensure!(podman.ask(&["wait", "tough"])? == "5");
    ensure!(podman.ask(&["logs", "tough"])? == "up\nterm");
    podman.ask(&["rm", "tough"])?;
    // And once more, with nobody there when it ends.
    let victim = podman.state("brief")?["Pid"]
        .as_i64()
        .context("it has a pid")?;
    world.kill(world.daemon()?)?;
    podman.ask(&["kill", "brief"])?;
    ensure!(podman.ask(&["wait", "brief"])? == KILLED.to_string());
    ensure!(
        podman.state("brief")?["Pid"] == json!(0),
        "{victim} is still said to stand for it"
    );
    podman.ask(&["rm", "brief"])?;
    podman.end()
}

fn says(outcome: &Outcome, code: i32, stdout: &str) -> Result<()> {
    let is_it = outcome.code() == Some(code) && outcome.stdout == stdout;
    ensure!(is_it, "{outcome:?}, and not code {code} and {stdout:?}");
    Ok(())
}

/// A container's output is in its log once conmon has read it.
fn wait_for_log(podman: &Podman<'_>, container: &str, text: &str) -> Result<()> {
    let mut last = None;
    let is_there = || {
        let logs = podman.run(&["logs", container]);
        let found = logs.as_ref().is_ok_and(|logs| logs.stdout.contains(text));
        last = Some(logs);
        found
    };
    ensure!(
        wait_until(is_there, SOON),
        "{text:?} is not logged: {last:?}"
    );
    Ok(())
}
