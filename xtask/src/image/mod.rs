//! The guest image: an initramfs that holds the static agent and nothing it does not need.
//!
//! Uncompressed, because unpacking costs boot time and the file is small; the same agent gives the same bytes.

mod cpio;

use crate::{
    cache::{Cache, KeyBuilder},
    command,
    scratch::Scratch,
};
use anyhow::{Context, Result};
use cpio::{Archive, Node};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const KIND: &str = "image";
/// Goes up with every change to what stands beside the agent.
const LAYOUT: &str = "1";
/// Every edit of the agent makes an image; this many are worth switching back to, at a few MiB each.
const KEPT: usize = 16;

/// The image around this agent; made if the cache does not have it.
pub fn ensure(cache: &Cache, agent: &Path) -> Result<PathBuf> {
    let agent = stripped(agent)?;
    let key = KeyBuilder::default()
        .with("layout", LAYOUT)
        .with("agent", &agent)
        .finish();
    let folder = cache.obtain(KIND, &key, |site| {
        let path = site.out.join("initrd");
        fs::write(&path, initramfs(&agent)).with_context(|| format!("write {}", path.display()))
    })?;
    cache.prune(KIND, KEPT)?;
    Ok(folder.join("initrd"))
}

/// An archive of one program, to be put behind an image: the kernel unpacks both.
pub fn only(name: &str, program: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.add(
        name,
        Node::File {
            mode: 0o755,
            content: program,
        },
    );
    archive.finish()
}

/// The agent without its symbols: every byte is unpacked into the guest's memory at each boot.
fn stripped(agent: &Path) -> Result<Vec<u8>> {
    let scratch = Scratch::new()?;
    let lean = scratch.path().join("agent");
    command::read(
        Command::new("strip")
            .args(["--strip-all", "-o"])
            .arg(&lean)
            .arg(agent),
    )?;
    fs::read(&lean).with_context(|| format!("read {}", lean.display()))
}

/// An image for a test: `init` in the place of the agent, with the libraries that it is linked to, and `others`, each
/// where this machine has it.
pub fn for_test(init: &Path, others: &[&Path]) -> Result<Vec<u8>> {
    let mut archive = with_init(&stripped(init)?);
    let mut folders = BTreeSet::new();
    let libraries = libraries(init)?;
    for path in libraries
        .iter()
        .map(PathBuf::as_path)
        .chain(others.iter().copied())
    {
        let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let inside = path.strip_prefix("/").unwrap_or(path);
        let above: Vec<&Path> = inside.ancestors().skip(1).collect();
        for folder in above
            .into_iter()
            .rev()
            .filter(|folder| *folder != Path::new(""))
        {
            if folders.insert(folder.to_owned()) {
                archive.add(&folder.to_string_lossy(), Node::Folder { mode: 0o755 });
            }
        }
        let file = Node::File {
            mode: 0o755,
            content: &content,
        };
        archive.add(&inside.to_string_lossy(), file);
    }
    Ok(archive.finish())
}

/// What the loader would load, the loader itself included. Our own programs only: ldd may run what it looks at.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = command::read(Command::new("ldd").arg(program))?;
    let path = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(PathBuf::from)
    };
    Ok(listed.lines().filter_map(path).collect())
}

fn initramfs(agent: &[u8]) -> Vec<u8> {
    with_init(agent).finish()
}

/// The kernel opens /dev/console for PID 1 before anything is mounted; the other folders are mount points of the agent.
fn with_init(init: &[u8]) -> Archive {
    let mut archive = Archive::default();
    archive.add("dev", Node::Folder { mode: 0o755 });
    archive.add(
        "dev/console",
        Node::CharDevice {
            mode: 0o600,
            major: 5,
            minor: 1,
        },
    );
    archive.add(
        "init",
        Node::File {
            mode: 0o755,
            content: init,
        },
    );
    for folder in ["proc", "run", "sys"] {
        archive.add(folder, Node::Folder { mode: 0o755 });
    }
    archive.add("tmp", Node::Folder { mode: 0o1777 });
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_agent_gives_the_same_bytes_wherever_and_whenever_it_is_built() {
        let bytes: Vec<Vec<u8>> = ["one", "another"]
            .into_iter()
            .map(|name| {
                let scratch = Scratch::new().unwrap();
                let agent = scratch.path().join(name);
                fs::copy("/bin/true", &agent).unwrap();
                let cache = Cache::at(&scratch.path().join("cache")).unwrap();
                fs::read(ensure(&cache, &agent).unwrap()).unwrap()
            })
            .collect();

        assert_eq!(bytes[0], bytes[1]);
        assert_ne!(bytes[0], initramfs(b"another agent"));
    }

    /// The kernel's own unpacker is the judge in e2e; cpio is the nearest one without a guest.
    #[test]
    fn cpio_reads_back_what_was_written() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().join("initrd");
        fs::write(&path, initramfs(b"agent")).unwrap();
        let Ok(output) = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--file"])
            .arg(&path)
            .output()
        else {
            // Not a package of ours; the writer's own tests compare bytes.
            return;
        };

        let listing = String::from_utf8(output.stdout).unwrap();
        let found: Vec<(&str, &str)> = listing
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                (words[0], words[words.len() - 1])
            })
            .collect();
        assert!(output.status.success());
        assert_eq!(
            found,
            [
                ("drwxr-xr-x", "dev"),
                ("crw-------", "dev/console"),
                ("-rwxr-xr-x", "init"),
                ("drwxr-xr-x", "proc"),
                ("drwxr-xr-x", "run"),
                ("drwxr-xr-x", "sys"),
                ("drwxrwxrwt", "tmp"),
            ]
        );
    }
}
