//! Debian's Podman with `hutch` as its runtime, for one story: all that it keeps is below the story's folder, and the
//! machine's own Podman is not touched.

use super::world::{BOOT_LIMIT, Outcome, Running, World};
use crate::{
    bundle,
    command::{self, line},
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// The image of every container here.
pub const IMAGE: &str = "localhost/box:latest";
/// An account of the image that is not root's.
pub const ACCOUNT: (&str, u32) = ("app", 1234);
/// Podman's cgroup for its containers unless it is told otherwise.
const CGROUPS: &str = "libpod_parent";
/// Where Podman puts conmon, and leaves it.
const OF_CONMON: &str = "conmon";

pub struct Podman<'a> {
    world: &'a World<'a>,
    folder: PathBuf,
}

impl<'a> Podman<'a> {
    /// With an image of busybox, and a daemon that no command of Podman's has to start: conmon ends after all its children.
    pub fn new(world: &'a World<'a>) -> Result<Self> {
        let podman = Self {
            world,
            folder: world.scratch().join("podman"),
        };
        podman.write_configuration()?;
        podman.write_runtime()?;
        podman.import_image()?;
        let list = world.verb(&["list"])?;
        ensure!(list.status.success(), "start the daemon: {list:?}");
        Ok(podman)
    }

    pub fn world(&self) -> &'a World<'a> {
        self.world
    }

    /// A folder of the story's for what it gives containers; any account of theirs may write into it.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join("given").join(name);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)))
            .with_context(|| format!("create {}", folder.display()))?;
        Ok(folder)
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let below = |name: &str| self.folder.join(name);
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(below("graph"))
            .arg("--runroot")
            .arg(below("run"))
            .arg("--tmpdir")
            .arg(below("tmp"))
            .args(["--storage-driver", "vfs"])
            .args(["--cgroup-manager", "cgroupfs"])
            .args(["--events-backend", "file"])
            .arg("--runtime")
            .arg(below("hutch"))
            .args(words)
            .env("CONTAINERS_CONF", below("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", below("storage.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", below("registries.conf"));
        command
    }

    pub fn start(&self, words: &[&str]) -> Result<Running> {
        Running::start(&mut self.command(words))
    }

    /// Runs it to its end, however that is.
    pub fn run(&self, words: &[&str]) -> Result<Outcome> {
        self.start(words)?.finish(BOOT_LIMIT)
    }

    /// What it printed, without the last line's end; it must succeed.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        let outcome = self.run(words)?;
        if !outcome.status.success() {
            bail!("`{}`: {outcome:?}", line(&self.command(words)));
        }
        Ok(outcome.stdout.trim_end_matches('\n').to_owned())
    }

    /// `podman inspect` of a container.
    pub fn inspect(&self, container: &str) -> Result<Value> {
        let text = self.ask(&["container", "inspect", container])?;
        let mut all: Vec<Value> =
            serde_json::from_str(&text).with_context(|| format!("inspect {container}"))?;
        all.pop()
            .with_context(|| format!("nothing is known of {container}"))
    }

    /// `.State` of it.
    pub fn state(&self, container: &str) -> Result<Value> {
        Ok(self.inspect(container)?["State"].take())
    }

    /// Nothing is left but what Podman leaves with any runtime; and that is taken away, which fails where there is more.
    pub fn end(self) -> Result<()> {
        let left = self.ask(&["ps", "--all", "--quiet"])?;
        ensure!(left.is_empty(), "Podman still has containers: {left}");
        let left = self.world.verb(&["list", "--quiet"])?;
        ensure!(
            left.stdout.is_empty(),
            "hutch still has containers: {left:?}"
        );
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").context("read mounts")?;
        let ours = self.folder.to_string_lossy();
        // The driver binds its folder to itself, for good.
        let graph = format!(" {ours}/graph ");
        let left: Vec<&str> = mounts
            .lines()
            .filter(|mount| mount.contains(&*ours) && !mount.contains(&graph))
            .collect();
        ensure!(left.is_empty(), "mounts are left: {left:?}");
        for parent in cgroups()? {
            // A pod's own goes where Podman has limits to set, and stays in other hierarchies.
            let inner = fs::read_dir(&parent).context("list Podman's cgroups")?;
            let of_pods = inner
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.is_dir())
                .filter(|path| !path.to_string_lossy().contains("/libpod-"));
            for folder in of_pods.chain([parent.join(OF_CONMON), parent.clone()]) {
                match fs::remove_dir(&folder) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => {
                        let about = format!("remove Podman's cgroup {}", folder.display());
                        return Err(error).context(about);
                    }
                }
            }
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let written = fs::create_dir_all(&self.folder).and_then(|()| fs::write(&path, text));
        written.with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// conmon passes on what is set for it alone, and `podman container cleanup`, which it runs, must see this too.
    fn write_configuration(&self) -> Result<()> {
        let folder = self.folder.display();
        self.write(
            "containers.conf",
            &format!(
                "[containers]\nnetns = \"none\"\nlog_driver = \"k8s-file\"\ndefault_sysctls = []\n\
                 [engine]\nlock_type = \"file\"\nnum_locks = 64\nruntime = \"hutch\"\n\
                 conmon_env_vars = [\"PATH=/usr/sbin:/usr/bin:/sbin:/bin\", \
                 \"CONTAINERS_CONF={folder}/containers.conf\", \
                 \"CONTAINERS_STORAGE_CONF={folder}/storage.conf\"]\n\
                 [engine.runtimes]\nhutch = [\"{folder}/hutch\"]\n"
            ),
        )?;
        self.write(
            "storage.conf",
            &format!(
                "[storage]\ndriver = \"vfs\"\nrunroot = \"{folder}/run\"\ngraphroot = \"{folder}/graph\"\n"
            ),
        )?;
        self.write("registries.conf", "")?;
        Ok(())
    }

    /// `hutch` with the story's daemon: what Podman's --runtime-flag says does not reach the cleanup that conmon runs.
    fn write_runtime(&self) -> Result<()> {
        let hutch = self.world.hutch(&[]);
        let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy());
        let mut words = vec!["exec".to_owned(), "env".to_owned()];
        for (name, value) in hutch.get_envs() {
            let value = value.unwrap_or_default();
            words.push(format!("{}={}", name.to_string_lossy(), quoted(value)));
        }
        words.push(quoted(hutch.get_program()));
        words.extend(hutch.get_args().map(quoted));
        let script = format!("#!/bin/sh\n{} \"$@\"\n", words.join(" "));
        command::write_program(&self.folder.join("hutch"), script.as_bytes())
    }

    fn import_image(&self) -> Result<()> {
        let rootfs = self.folder.join("rootfs");
        bundle::busybox_rootfs(&rootfs)?;
        let (name, uid) = ACCOUNT;
        for (file, line) in [
            (
                "etc/passwd",
                format!("{name}:x:{uid}:{uid}::/home:/bin/sh\n"),
            ),
            ("etc/group", format!("{name}:x:{uid}:\n")),
        ] {
            let path = rootfs.join(file);
            let text = fs::read_to_string(&path).context("read accounts")? + &line;
            fs::write(&path, text).context("write accounts")?;
        }
        let archive = self.folder.join("rootfs.tar");
        let mut tar = Command::new("tar");
        tar.arg("--create").arg("--file").arg(&archive);
        command::run(tar.arg("--directory").arg(&rootfs).arg("."))?;
        self.ask(&["import", &archive.to_string_lossy(), IMAGE])
            .map(drop)
    }
}

/// Podman's cgroup in every hierarchy that has one.
fn cgroups() -> Result<Vec<PathBuf>> {
    let root = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(root).context("list cgroup hierarchies")?;
    let hierarchies = below.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(hierarchies
        .chain([root.to_owned()])
        .map(|hierarchy| hierarchy.join(CGROUPS))
        .filter(|folder| folder.is_dir())
        .collect())
}

/// A seccomp profile that refuses these calls with ENOSYS and allows all others.
pub fn profile_without(calls: &[&str]) -> String {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": calls, "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
    })
    .to_string()
}
