//! Changes of ours to the kernel's source; each says at its head what it is for.
//!
//! Debian's source moves on by itself. A patch that does not fit it any more is left out, and that is said: what it is for
//! may be mended there, and a story of `cargo xtask e2e` shows whether it is.

use crate::command;
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const ENDING: &str = "patch";

/// One file of `guest/patches`.
pub struct Patch {
    path: PathBuf,
    pub name: String,
    pub content: Vec<u8>,
}

/// All of them, in the order of their names.
pub fn read(folder: &Path) -> Result<Vec<Patch>> {
    let reading = || format!("read kernel patches in {}", folder.display());
    let mut patches = Vec::new();
    for entry in fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            patches.push(Patch {
                name: path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                content: fs::read(&path).with_context(reading)?,
                path,
            });
        }
    }
    patches.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(patches)
}

/// Changes the tree; the names of those that fit.
pub fn apply(patches: &[Patch], tree: &Path, log: &Path) -> Result<Vec<String>> {
    let mut applied = Vec::new();
    for patch in patches {
        let patching = |words: &[&str]| {
            let mut command = Command::new("patch");
            command.args([
                "--strip=1",
                "--forward",
                "--fuzz=0",
                "--no-backup-if-mismatch",
            ]);
            command
                .args(words)
                .arg("--directory")
                .arg(tree)
                .arg("--input")
                .arg(&patch.path);
            command::run_logged(&mut command, log, |_| {}, |_| {})
        };
        if patching(&["--dry-run"]).is_err() {
            eprintln!(
                "guest kernel: {} does not fit this source, and is left out",
                patch.name
            );
            continue;
        }
        patching(&[])?;
        applied.push(patch.name.clone());
    }
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{scratch::Scratch, workspace::Workspace};

    #[test]
    fn a_patch_that_fits_is_applied_and_one_that_does_not_is_left_out() {
        let scratch = Scratch::new().unwrap();
        let (folder, tree) = (scratch.path().join("patches"), scratch.path().join("tree"));
        for made in [&folder, &tree] {
            fs::create_dir(made).unwrap();
        }
        fs::write(tree.join("file"), "one\ntwo\n").unwrap();
        let patch =
            |from: &str| format!("Why.\n\n--- a/file\n+++ b/file\n@@ -2 +2 @@\n-{from}\n+three\n");
        fs::write(folder.join("1-fits.patch"), patch("two")).unwrap();
        fs::write(folder.join("2-does-not.patch"), patch("four")).unwrap();
        fs::write(folder.join("notes.txt"), "no patch").unwrap();

        let patches = read(&folder).unwrap();
        let applied = apply(&patches, &tree, &scratch.path().join("log")).unwrap();

        assert_eq!(patches.len(), 2);
        assert_eq!(applied, ["1-fits"]);
        assert_eq!(
            fs::read_to_string(tree.join("file")).unwrap(),
            "one\nthree\n"
        );
        let names: Vec<_> = fs::read_dir(&tree).unwrap().collect();
        assert_eq!(names.len(), 1, "no leftovers of patching: {names:?}");
    }

    #[test]
    fn every_patch_of_this_workspace_says_why_before_it_changes_anything() {
        let patches = read(&Workspace::find().root().join("guest/patches")).unwrap();

        assert!(!patches.is_empty());
        for patch in patches {
            let text = String::from_utf8(patch.content).unwrap();
            let why = text.split("\n--- ").next().unwrap();
            assert!(why.len() > 100, "{}: {why}", patch.name);
        }
    }
}
