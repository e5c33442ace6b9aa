//! The daemon's configuration: one file, drop-ins beside it, strict keys.
//!
//! Later files win key by key. An unknown key is an error that names it: a setting that silently
//! does nothing is worse than a daemon that does not start.

use crate::{
    keys,
    profile::ProfileName,
    size::{MEMORY_MIB_POSSIBLE, VCPUS_POSSIBLE},
};
use anyhow::{Context as _, Result, anyhow, bail};
use runtime_core::hypervisor::MachineType;
use serde::{Deserialize, Serialize};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Where the configuration is read from unless a file is named.
pub const FILE: &str = "/etc/hutch/config.toml";
/// Names another one, for a daemon that a command starts: it has no arguments of its own. The path
/// is absolute.
pub const FILE_ENV: &str = "HUTCH_CONFIG";
const DROP_INS: &str = "config.d";
/// Names a folder that holds kernel, initrd, virtiofsd and the other programs under fixed names;
/// it stands before the defaults and behind the configuration files.
pub const ASSETS_ENV: &str = "HUTCH_ASSETS";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub guest: Guest,
    pub kata: Kata,
    pub hypervisor: Hypervisor,
    pub share: Share,
    pub containers: Containers,
    pub log: Log,
}

/// What boots in a sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guest {
    /// hutch or kata: what boots in a sandbox that asks for none.
    pub profile: ProfileName,
    /// Kernel: an uncompressed vmlinux with a PVH entry.
    pub kernel: PathBuf,
    /// Initramfs that holds the agent as /init.
    pub initrd: PathBuf,
    /// Appended to the kernel command line.
    pub kernel_params: Vec<String>,
    /// Processors of a sandbox; 1 to 16.
    pub vcpus: u32,
    /// Memory of a sandbox in MiB; 64 to 524288.
    pub memory_mib: u64,
    /// auto, serial, vsock or hybrid-vsock: how host and guest talk.
    pub channel: ChannelChoice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelChoice {
    /// vsock where the host has it, else serial.
    Auto,
    Serial,
    Vsock,
    HybridVsock,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            profile: ProfileName::Hutch,
            kernel: asset("vmlinux", "/usr/share/hutch/vmlinux"),
            initrd: asset("initrd.img", "/usr/share/hutch/initrd.img"),
            kernel_params: Vec::new(),
            vcpus: 1,
            memory_mib: 256,
            channel: ChannelChoice::Auto,
        }
    }
}

/// What boots in a sandbox whose profile is kata: a guest with a stock Kata agent. An empty path is
/// one that is not set. docs/kata-guest.md.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kata {
    pub kernel: PathBuf,
    /// Initramfs that holds the agent as /init; this or an image, not both.
    pub initrd: PathBuf,
    /// Disk image with a root file system; the guest's first disk, read-only.
    pub image: PathBuf,
    /// Appended to the kernel command line.
    pub kernel_params: Vec<String>,
    pub vcpus: u32,
    pub memory_mib: u64,
    /// auto takes vsock where the host has it, else hybrid-vsock.
    pub channel: ChannelChoice,
}

impl Default for Kata {
    fn default() -> Self {
        let unified = ["cgroup_no_v1=all", "agent.unified_cgroup_hierarchy=1"];
        Self {
            kernel: PathBuf::new(),
            initrd: PathBuf::new(),
            image: PathBuf::new(),
            kernel_params: unified.map(str::to_owned).to_vec(),
            vcpus: 1,
            memory_mib: 512,
            channel: ChannelChoice::Auto,
        }
    }
}

/// What runs the guests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hypervisor {
    /// QEMU; a bare name is looked up in PATH.
    pub qemu: PathBuf,
    /// q35 or microvm. q35 takes devices while it runs; docs/adr/0004-machine-type.md.
    pub machine: MachineType,
    /// auto, kvm or tcg. auto proves that KVM boots a guest before it uses it.
    pub accelerator: AcceleratorChoice,
    /// vhost-device-vsock, behind guest.channel = "hybrid-vsock".
    pub vsock_backend: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorChoice {
    Auto,
    Kvm,
    Tcg,
}

impl Default for Hypervisor {
    fn default() -> Self {
        Self {
            qemu: "qemu-system-x86_64".into(),
            machine: MachineType::Q35,
            accelerator: AcceleratorChoice::Auto,
            vsock_backend: asset("vhost-device-vsock", "/usr/libexec/vhost-device-vsock"),
        }
    }
}

/// How directories of the host reach a guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Share {
    /// The Rust virtiofsd.
    pub virtiofsd: PathBuf,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            virtiofsd: asset("virtiofsd", "/usr/libexec/virtiofsd"),
        }
    }
}

/// What containers are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Containers {
    /// SIGKILL follows at once on a SIGTERM that `kill` sends to a container's init, as Kata's runtime once had it.
    pub sigterm_kills: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// error, warn, info, debug or trace; or directives such as `info,hypervisor=debug`.
    pub level: String,
    /// text or json.
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

fn asset(name: &str, installed: &str) -> PathBuf {
    match env::var_os(ASSETS_ENV) {
        Some(folder) => Path::new(&folder).join(name),
        None => installed.into(),
    }
}

impl Config {
    /// Reads `file` and its drop-ins. Without a file named, a missing one is no error.
    ///
    /// # Errors
    /// A file that was named is missing, is not TOML, or holds an unknown key or a wrong value.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let main = file.unwrap_or(Path::new(FILE));
        let mut merged = toml::Table::new();
        let mut sources = Vec::new();
        if file.is_some() || main.exists() {
            sources.push(main.to_owned());
        }
        sources.extend(drop_ins(main)?);
        for source in &sources {
            let text = fs::read_to_string(source)
                .with_context(|| format!("read configuration {}", source.display()))?;
            // Each file is checked alone, so that the error names it.
            let about = || format!("configuration {}", source.display());
            parse::<Self>(&text).with_context(about)?;
            let table = parse::<toml::Table>(&text).with_context(about)?;
            merge(&mut merged, table);
        }
        let config: Self = merged.try_into().context("merge configuration")?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        for (section, vcpus, memory_mib) in [
            ("guest", self.guest.vcpus, self.guest.memory_mib),
            ("kata", self.kata.vcpus, self.kata.memory_mib),
        ] {
            for (key, value, possible) in [
                ("vcpus", u64::from(vcpus), VCPUS_POSSIBLE),
                ("memory_mib", memory_mib, MEMORY_MIB_POSSIBLE),
            ] {
                if !possible.contains(&value) {
                    let (least, most) = (possible.start(), possible.end());
                    bail!("{section}.{key} is {value}; {least} to {most} are possible");
                }
            }
        }
        tracing_subscriber::EnvFilter::try_new(&self.log.level)
            .with_context(|| format!("log.level {:?}", self.log.level))?;
        Ok(())
    }

    /// The files that a daemon cannot do without; those of a guest with a stock agent are its
    /// profile's business.
    ///
    /// # Errors
    /// Names the first one that is missing, and the key that says where it should be.
    pub fn check_assets(&self) -> Result<()> {
        let always = [
            ("guest.kernel", &self.guest.kernel),
            ("guest.initrd", &self.guest.initrd),
            ("share.virtiofsd", &self.share.virtiofsd),
        ];
        let backend = [("hypervisor.vsock_backend", &self.hypervisor.vsock_backend)];
        let for_the_channel = match self.guest.channel {
            ChannelChoice::HybridVsock => backend.as_slice(),
            ChannelChoice::Auto | ChannelChoice::Serial | ChannelChoice::Vsock => &[],
        };
        for (key, path) in always.iter().chain(for_the_channel) {
            if !path.is_file() {
                bail!("{key}: {} is not a file", path.display());
            }
        }
        Ok(())
    }

    /// Every key with what it means, as TOML that reads back.
    ///
    /// # Errors
    /// A value that TOML cannot hold.
    pub fn show(&self) -> Result<String> {
        let mut shown = String::new();
        for (section, keys) in self.table()? {
            let toml::Value::Table(keys) = keys else {
                bail!("{section} is no section");
            };
            shown.push_str(&format!("[{section}]\n"));
            for (key, value) in keys {
                if let Some(about) = keys::about(&section, &key) {
                    shown.push_str(&format!("# {about}\n"));
                }
                shown.push_str(&format!("{key} = {value}\n"));
            }
            shown.push('\n');
        }
        Ok(shown)
    }

    fn table(&self) -> Result<toml::Table> {
        toml::Table::try_from(self).context("print configuration")
    }
}

/// In one line: the error's own display draws a picture of several.
fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|why: toml::de::Error| {
        let before = why.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        anyhow!("line {line}: {}", why.message().replace('\n', "; "))
    })
}

fn drop_ins(main: &Path) -> Result<Vec<PathBuf>> {
    let folder = main.with_file_name(DROP_INS);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let read = || format!("list configuration folder {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(DROP_INS)).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn drop_ins_win_key_by_key_in_the_order_of_their_names() {
        let folder = folder(&[
            ("config.toml", "[guest]\nvcpus = 2\nmemory_mib = 512\n"),
            ("config.d/10-a.toml", "[guest]\nvcpus = 3\n"),
            (
                "config.d/20-b.toml",
                "[guest]\nvcpus = 4\n[log]\nformat = \"json\"\n",
            ),
            ("config.d/ignored.txt", "nonsense"),
        ]);

        let config = Config::load(Some(&folder.path().join("config.toml"))).unwrap();

        assert_eq!((config.guest.vcpus, config.guest.memory_mib), (4, 512));
        assert_eq!(config.log.format, LogFormat::Json);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_and_its_file() {
        let folder = folder(&[
            ("config.toml", ""),
            ("config.d/x.toml", "[guest]\nvcpu = 2\n"),
        ]);

        let error = Config::load(Some(&folder.path().join("config.toml"))).unwrap_err();

        let text = format!("{error:#}");
        assert!(text.contains("x.toml") && text.contains("vcpu"), "{text}");
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        assert!(Config::load(Some(Path::new("/nonexistent/hutch.toml"))).is_err());
    }

    #[test]
    fn what_is_shown_is_read_back_as_the_same() {
        let config = Config::default();

        let shown = config.show().unwrap();

        assert_eq!(toml::from_str::<Config>(&shown).unwrap(), config);
    }

    #[test]
    fn every_key_says_what_it_means_and_nothing_else_is_explained() {
        let table = Config::default().table().unwrap();
        let sections = table
            .iter()
            .map(|(name, keys)| (name, keys.as_table().unwrap()));
        let keys = sections.flat_map(|(name, keys)| keys.keys().map(move |key| (name, key)));
        let mut keys: Vec<_> = keys
            .map(|(section, key)| format!("{section}.{key}"))
            .collect();
        let explained = keys::KEYS.iter();
        let mut explained: Vec<_> = explained
            .map(|(section, key, _)| format!("{section}.{key}"))
            .collect();

        keys.sort();
        explained.sort();

        assert_eq!(keys, explained);
    }

    #[test]
    fn what_a_key_means_stands_above_it() {
        let shown = Config::default().show().unwrap();

        let expected = "# Processors of a sandbox; 1 to 16.\nvcpus = 1\n";
        assert!(shown.contains(expected), "{shown}");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for text in [
            "[guest]\nvcpus = 0",
            "[guest]\nmemory_mib = 8",
            "[guest]\nmemory_mib = 524289",
            "[kata]\nvcpus = 17",
            "[kata]\nmemory_mib = 63",
            "[log]\nlevel = \"a=b=c\"",
        ] {
            let folder = folder(&[("config.toml", text)]);
            assert!(
                Config::load(Some(&folder.path().join("config.toml"))).is_err(),
                "{text}"
            );
        }
    }
}
