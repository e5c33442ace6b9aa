//! The cache: what is slow to make, kept outside the build tree under the hash of what it was made from.
//!
//! An entry is a folder that appears by one rename, so an entry that exists is complete. Whoever makes one holds its lock;
//! a second builder waits and then finds it made. What a failed build leaves is its log, nothing else.

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::{
    fmt, fs,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

/// Sixteen hex digits: enough for a cache of dozens, short enough for a path.
const KEY_BYTES: usize = 8;

/// The name of an entry: a hash over everything that decides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

/// Collects what an entry is made from.
#[derive(Default)]
pub struct KeyBuilder {
    hash: Sha256,
}

impl KeyBuilder {
    /// Adds one input. Lengths go in too, so that no two lists of inputs run together to the same bytes.
    pub fn with(mut self, label: &str, value: impl AsRef<[u8]>) -> Self {
        for part in [label.as_bytes(), value.as_ref()] {
            self.hash.update((part.len() as u64).to_le_bytes());
            self.hash.update(part);
        }
        self
    }

    pub fn finish(self) -> Key {
        let digest = self.hash.finalize();
        Key(digest[..KEY_BYTES]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a builder works. Both folders are empty, private to it and on the cache's file system.
pub struct Site {
    /// Scratch space; removed in any case.
    pub work: PathBuf,
    /// What becomes the entry.
    pub out: PathBuf,
    /// Outlives a failed build.
    pub log: PathBuf,
}

pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache: `HUTCH_CACHE`, else `~/.cache/hutch`.
    pub fn open() -> Result<Self> {
        let root = match std::env::var_os("HUTCH_CACHE") {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => std::env::home_dir()
                .context("find a place for the cache: no home directory; set HUTCH_CACHE")?
                .join(".cache/hutch"),
        };
        Self::at(&root)
    }

    pub fn at(root: &Path) -> Result<Self> {
        for folder in ["locks", "logs", "tmp"] {
            fs::create_dir_all(root.join(folder))
                .with_context(|| format!("create cache folder {}", root.display()))?;
        }
        let root = root
            .canonicalize()
            .with_context(|| format!("resolve cache folder {}", root.display()))?;
        if root
            .to_string_lossy()
            .contains(|c: char| c.is_whitespace() || c == ':')
        {
            // make splits paths at both.
            bail!(
                "cache folder {} has a blank or colon in its path; set HUTCH_CACHE",
                root.display()
            );
        }
        Ok(Self { root })
    }

    /// The path that an entry has, or would have.
    pub fn path(&self, kind: &str, key: &Key) -> PathBuf {
        self.root.join(kind).join(&key.0)
    }

    /// The entry's folder, made by `build` if it does not exist.
    pub fn obtain(
        &self,
        kind: &str,
        key: &Key,
        build: impl FnOnce(&Site) -> Result<()>,
    ) -> Result<PathBuf> {
        let entry = self.path(kind, key);
        if entry.is_dir() {
            return Ok(entry);
        }
        let name = format!("{kind}-{key}");
        let _lock = self.lock(&name)?;
        if entry.is_dir() {
            return Ok(entry);
        }

        let place = self.root.join("tmp").join(&name);
        // We hold the lock: what is there was left by a builder that died.
        remove_tree(&place)?;
        let site = Site {
            work: place.join("work"),
            out: place.join("out"),
            log: self.root.join("logs").join(format!("{name}.log")),
        };
        fs::create_dir_all(&site.work)
            .and_then(|()| fs::create_dir_all(&site.out))
            .with_context(|| format!("create {}", place.display()))?;

        let built = build(&site)
            .with_context(|| format!("build {kind} {key}; log: {}", site.log.display()))
            .and_then(|()| publish(&site.out, &entry));
        remove_tree(&place)?;
        built.map(|()| entry)
    }

    /// Keeps the newest `keep` entries of a kind whose entries come with every edit.
    pub fn prune(&self, kind: &str, keep: usize) -> Result<()> {
        let entries = self.newest_first(kind)?;
        entries
            .iter()
            .skip(keep)
            .try_for_each(|old| remove_tree(old))
    }

    /// The entry of a kind that was made last.
    pub fn newest(&self, kind: &str) -> Option<PathBuf> {
        // A kind without entries has no folder either.
        self.newest_first(kind).ok()?.into_iter().next()
    }

    fn newest_first(&self, kind: &str) -> Result<Vec<PathBuf>> {
        let folder = self.root.join(kind);
        let mut entries = fs::read_dir(&folder)
            .with_context(|| format!("list {}", folder.display()))?
            .map(|entry| {
                let entry = entry?;
                Ok((entry.metadata()?.modified()?, entry.path()))
            })
            .collect::<std::io::Result<Vec<_>>>()
            .with_context(|| format!("list {}", folder.display()))?;
        entries.sort();
        Ok(entries.into_iter().rev().map(|(_, path)| path).collect())
    }

    fn lock(&self, name: &str) -> Result<File> {
        let path = self.root.join("locks").join(name);
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                eprintln!("another process is building {name}: waiting for it");
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        }
        file.lock()
            .with_context(|| format!("lock {}", path.display()))?;
        Ok(file)
    }
}

fn publish(out: &Path, entry: &Path) -> Result<()> {
    let kind = entry.parent().expect("an entry lies in its kind's folder");
    fs::create_dir_all(kind)
        .and_then(|()| fs::rename(out, entry))
        .with_context(|| format!("publish {}", entry.display()))
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn key(value: &str) -> Key {
        KeyBuilder::default().with("value", value).finish()
    }

    #[test]
    fn an_entry_is_built_once_and_then_found() {
        let scratch = Scratch::new().unwrap();
        let cache = Cache::at(scratch.path()).unwrap();

        let first = cache
            .obtain("thing", &key("a"), |site| {
                Ok(fs::write(site.out.join("it"), "made")?)
            })
            .unwrap();
        let second = cache
            .obtain("thing", &key("a"), |_| {
                panic!("an entry that exists is not built")
            })
            .unwrap();

        assert_eq!(first, second);
        assert_eq!(fs::read_to_string(first.join("it")).unwrap(), "made");
    }

    #[test]
    fn a_failed_build_leaves_its_log_and_no_entry() {
        let scratch = Scratch::new().unwrap();
        let cache = Cache::at(scratch.path()).unwrap();

        let error = cache
            .obtain("thing", &key("a"), |site| {
                fs::write(site.out.join("half"), "")?;
                fs::write(&site.log, "what went wrong")?;
                bail!("no such compiler")
            })
            .unwrap_err();

        let text = format!("{error:#}");
        let log = scratch
            .path()
            .canonicalize()
            .unwrap()
            .join(format!("logs/thing-{}.log", key("a")));
        assert!(text.contains(log.to_str().unwrap()), "{text}");
        assert!(text.ends_with("no such compiler"), "{text}");
        assert_eq!(fs::read_to_string(log).unwrap(), "what went wrong");
        assert!(!cache.path("thing", &key("a")).exists());
        assert_eq!(
            fs::read_dir(scratch.path().join("tmp")).unwrap().count(),
            0,
            "nothing may stay of a failed build"
        );
    }

    #[test]
    fn what_a_dead_builder_left_does_not_get_into_the_entry() {
        let scratch = Scratch::new().unwrap();
        let cache = Cache::at(scratch.path()).unwrap();
        let left = scratch.path().join(format!("tmp/thing-{}/out", key("a")));
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("half"), "").unwrap();

        let entry = cache
            .obtain("thing", &key("a"), |site| {
                Ok(fs::write(site.out.join("whole"), "")?)
            })
            .unwrap();

        assert!(entry.join("whole").exists());
        assert!(!entry.join("half").exists());
    }

    #[test]
    fn two_builders_of_one_entry_build_it_once() {
        let scratch = Scratch::new().unwrap();
        let cache = Cache::at(scratch.path()).unwrap();
        let builds = AtomicU32::new(0);

        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    cache
                        .obtain("thing", &key("a"), |site| {
                            builds.fetch_add(1, Ordering::SeqCst);
                            Ok(fs::write(site.out.join("it"), "")?)
                        })
                        .unwrap()
                });
            }
        });

        assert_eq!(builds.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn inputs_that_run_together_have_different_keys() {
        let one = KeyBuilder::default().with("ab", "c").finish();
        let other = KeyBuilder::default().with("a", "bc").finish();

        assert_ne!(one, other);
        assert_eq!(one.to_string().len(), 2 * KEY_BYTES);
    }

    #[test]
    fn pruning_keeps_the_newest_entries() {
        let scratch = Scratch::new().unwrap();
        let cache = Cache::at(scratch.path()).unwrap();
        let day = std::time::Duration::from_secs(86_400);
        for (age, name) in [(3, "a"), (1, "b"), (2, "c")] {
            let entry = cache.obtain("thing", &key(name), |_| Ok(())).unwrap();
            File::open(entry)
                .unwrap()
                .set_modified(std::time::SystemTime::now() - day * age)
                .unwrap();
        }

        assert_eq!(cache.newest("thing"), Some(cache.path("thing", &key("b"))));
        assert_eq!(cache.newest("nothing"), None);
        cache.prune("thing", 2).unwrap();

        assert!(!cache.path("thing", &key("a")).exists());
        assert!(cache.path("thing", &key("b")).exists());
        assert!(cache.path("thing", &key("c")).exists());
    }

    #[test]
    fn a_cache_path_that_make_would_split_is_refused_by_name() {
        let scratch = Scratch::new().unwrap();

        let error = Cache::at(&scratch.path().join("a b")).err().unwrap();

        assert!(error.to_string().contains("HUTCH_CACHE"), "{error}");
    }
}
