//! The tree as the rules see it: every text file that lands, by path.

use super::source::Source;
use anyhow::{Context, Result};
use std::{collections::BTreeMap, fs, path::Path};

/// Not what lands, or made by cargo. In a worktree `.git` is a file.
const LEFT_OUT: &[&str] = &[".git", "Cargo.lock", "target"];

pub struct Tree {
    pub sources: Vec<Source>,
    /// Every text file, Rust or not.
    pub texts: BTreeMap<String, String>,
}

impl Tree {
    pub fn read(root: &Path) -> Result<Self> {
        let mut texts = BTreeMap::new();
        read_folder(root, "", &mut texts)?;
        Self::of(texts)
    }

    pub fn of(texts: BTreeMap<String, String>) -> Result<Self> {
        let sources = texts
            .iter()
            .filter(|(path, _)| path.ends_with(".rs"))
            .map(|(path, text)| Source::parse(path, text))
            .collect::<Result<_>>()?;
        Ok(Self { sources, texts })
    }
}

fn read_folder(folder: &Path, prefix: &str, texts: &mut BTreeMap<String, String>) -> Result<()> {
    let doing = || format!("read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(doing)? {
        let entry = entry.with_context(doing)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if LEFT_OUT.contains(&name.as_str()) {
            continue;
        }
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().with_context(doing)?;
        if kind.is_dir() {
            read_folder(&entry.path(), &format!("{path}/"), texts)?;
            continue;
        }
        if !kind.is_file() {
            continue;
        }
        let bytes = fs::read(entry.path()).with_context(|| format!("read {path}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            texts.insert(path, text);
        }
    }
    Ok(())
}
