//! What cargo made of other people's crates, kept in the cache: a fresh checkout compiles our own crates alone.
//!
//! cargo decides what of it fits: its fingerprints hold versions, features, profiles and flags of a crate, and what differs
//! is compiled anew. So an entry of an older lock file is worth having too, and a wrong one costs time, nothing else.

use crate::{
    cache::{Cache, KeyBuilder},
    command,
    workspace::Workspace,
};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const KIND: &str = "dependencies";
/// Goes up with every change of what is kept.
const RECIPE: &str = "2";
/// Every change of a manifest makes an entry, of about a gigabyte.
const KEPT: usize = 2;
/// Of a profile's folder, what has one entry per crate; the rest is ours, or made by it.
const PARTS: &[&str] = &[".fingerprint", "build", RESULTS];
const RESULTS: &str = "deps";
/// Says which entry a target folder was filled from.
const MARK: &str = "dependencies-from";

/// Fills a target folder that was not filled yet with what the cache has: what was made of the same manifests, or else
/// the newest. What cannot be taken is compiled.
pub fn lend(workspace: &Workspace) {
    if let Err(error) = fill(workspace) {
        eprintln!("the dependencies are not taken from the cache: {error:#}");
    }
}

fn fill(workspace: &Workspace) -> Result<()> {
    let (cache, target) = (Cache::open()?, workspace.target());
    let mark = target.join(MARK);
    if mark.exists() {
        return Ok(());
    }
    let own = cache.path(KIND, &key(workspace)?);
    let newest = || cache.newest(KIND);
    let Some(entry) = Some(own).filter(|entry| entry.is_dir()).or_else(newest) else {
        return Ok(());
    };
    eprintln!("taking the dependencies from the cache");
    copy(&entry, &target)?;
    fs::write(&mark, entry.as_os_str().as_encoded_bytes())
        .with_context(|| format!("write {}", mark.display()))
}

/// Keeps what the target folder has, once it has everything.
pub fn keep(workspace: &Workspace) -> Result<()> {
    let cache = Cache::open()?;
    cache.obtain(KIND, &key(workspace)?, |site| {
        let ours = Ours::of(workspace)?;
        for profile in profiles(&workspace.target()) {
            for part in PARTS {
                let from = workspace.target().join(&profile).join(part);
                let to = site.out.join(&profile).join(part);
                keep_part(part, &from, &to, &ours)?;
            }
        }
        Ok(())
    })?;
    cache.prune(KIND, KEPT)
}

/// Where cargo puts a profile's results, with and without a target named.
fn profiles(target: &Path) -> Vec<PathBuf> {
    let list = |folder: PathBuf| {
        let entries = fs::read_dir(target.join(&folder)).into_iter().flatten();
        entries
            .flatten()
            .map(move |entry| folder.join(entry.file_name()))
    };
    let outer: Vec<PathBuf> = list(PathBuf::new()).collect();
    let inner = outer.clone().into_iter().flat_map(list);
    let is_profile = |folder: &PathBuf| target.join(folder).join(PARTS[0]).is_dir();
    outer
        .iter()
        .cloned()
        .chain(inner)
        .filter(is_profile)
        .collect()
}

fn keep_part(part: &str, from: &Path, to: &Path, ours: &Ours) -> Result<()> {
    let theirs = fs::read_dir(from)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| !ours.made(part, &entry.file_name().to_string_lossy()));
    for entry in theirs {
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Names of what is built of our packages, in both spellings. Others may have a library of the name that a test of ours
/// has.
struct Ours {
    /// Packages and libraries.
    libraries: BTreeSet<String>,
    /// Programs, tests and examples.
    programs: BTreeSet<String>,
}

impl Ours {
    fn of(workspace: &Workspace) -> Result<Self> {
        let mut cargo = workspace.cargo();
        cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
        let metadata: Value =
            serde_json::from_str(&command::read(&mut cargo)?).context("read cargo's metadata")?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let name = |named: &Value| {
            let name = named["name"].as_str().unwrap_or_default().to_owned();
            [name.replace('-', "_"), name]
        };
        let mut ours = Self {
            libraries: BTreeSet::new(),
            programs: BTreeSet::new(),
        };
        for package in list(&metadata["packages"]) {
            ours.libraries.extend(name(&package));
            for target in list(&package["targets"]) {
                let is_library = list(&target["kind"]).iter().any(|kind| kind == "lib");
                match is_library {
                    true => ours.libraries.extend(name(&target)),
                    false => ours.programs.extend(name(&target)),
                }
            }
        }
        Ok(ours)
    }

    /// cargo's names end in a hash, before the extension. Results have a prefix where they are libraries and no
    /// extension where they are programs; elsewhere folders are called as packages.
    fn made(&self, part: &str, name: &str) -> bool {
        let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
        let named = stem.rsplit_once('-').map_or(stem, |(named, _)| named);
        match (part, extension) {
            (RESULTS, "") => self.programs.contains(named),
            (RESULTS, "d") => self.libraries.contains(named) || self.programs.contains(named),
            (RESULTS, _) => self
                .libraries
                .contains(named.strip_prefix("lib").unwrap_or(named)),
            _ => self.libraries.contains(named),
        }
    }
}

/// Times stay, since cargo compares them; what is there is replaced and not written into, since it may be in use.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = match from.is_dir() {
        true => to,
        false => to.parent().unwrap_or(to),
    };
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--reflink=auto", "--remove-destination", "-T"]);
    command::run(copy.arg(from).arg(to))
}

fn key(workspace: &Workspace) -> Result<crate::cache::Key> {
    let mut manifests = vec!["Cargo.lock".to_owned(), "Cargo.toml".to_owned()];
    for folder in ["crates", "bins", "."] {
        let path = workspace.root().join(folder);
        let entries = fs::read_dir(&path).with_context(|| format!("list {}", path.display()))?;
        for entry in entries.flatten() {
            manifests.push(format!(
                "{folder}/{}/Cargo.toml",
                entry.file_name().display()
            ));
        }
    }
    manifests.sort();
    let rustc = command::read(Command::new("rustc").arg("--version").arg("--verbose"))?;
    let mut key = KeyBuilder::default()
        .with("recipe", RECIPE)
        .with("compiler", rustc);
    for name in manifests {
        if let Ok(text) = fs::read(workspace.root().join(&name)) {
            key = key.with(&name, text);
        }
    }
    Ok(key.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn ours() -> Ours {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Ours {
            libraries: names(&["runtime-core", "runtime_core"]),
            programs: names(&["contract", "log"]),
        }
    }

    #[test]
    fn what_cargo_made_of_ours_is_told_from_what_it_made_of_others() {
        let ours = ours();

        for (part, made) in [
            (RESULTS, "libruntime_core-01.rlib"),
            (RESULTS, "runtime_core-01.d"),
            (RESULTS, "contract-03"),
            (RESULTS, "log-04"),
            (".fingerprint", "runtime-core-01"),
        ] {
            assert!(ours.made(part, made), "{part}/{made}");
        }
        for (part, theirs) in [
            (RESULTS, "libserde-01.rlib"),
            (RESULTS, "serde-01.d"),
            (RESULTS, "liblog-02.rmeta"),
            (".fingerprint", "log-02"),
            ("build", "serde-02"),
        ] {
            assert!(!ours.made(part, theirs), "{part}/{theirs}");
        }
    }

    #[test]
    fn of_a_profile_other_peoples_crates_are_kept_and_ours_are_not() {
        let scratch = Scratch::new().unwrap();
        let deps = scratch.path().join("x86/release/deps");
        fs::create_dir_all(&deps).unwrap();
        fs::create_dir_all(scratch.path().join("x86/release/.fingerprint")).unwrap();
        for name in ["libserde-01.rlib", "libruntime_core-02.rlib", "contract-03"] {
            fs::write(deps.join(name), name).unwrap();
        }
        let ours = Ours::of(&Workspace::find()).unwrap();
        let kept = scratch.path().join("kept");

        let profiles = profiles(scratch.path());
        keep_part(RESULTS, &deps, &kept, &ours).unwrap();

        assert_eq!(profiles, [Path::new("x86/release")]);
        let names: Vec<_> = fs::read_dir(&kept)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["libserde-01.rlib"]);
    }

    #[test]
    fn a_copy_has_the_times_of_what_was_copied_and_replaces_what_is_there() {
        let scratch = Scratch::new().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        for folder in [&from, &to] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(from.join("file"), "new").unwrap();
        fs::write(to.join("file"), "old").unwrap();
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        let file = fs::File::options().append(true).open(from.join("file"));
        file.unwrap().set_modified(long_ago).unwrap();

        copy(&from, &to).unwrap();

        let copied = to.join("file");
        assert_eq!(fs::read_to_string(&copied).unwrap(), "new");
        let modified = fs::metadata(&copied).unwrap().modified().unwrap();
        assert_eq!(modified, long_ago);
    }
}
