//! spec: a config.json to start from, as runc writes it.

use crate::args;
use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::{RootBuilder, Spec};
use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

pub fn spec(spec: &args::Spec) -> Result<u8> {
    if spec.rootless {
        bail!("--rootless is not supported: a sandbox is made by root");
    }
    let folder = spec.bundle.clone().unwrap_or_else(|| PathBuf::from("."));
    let path = folder.join("config.json");
    let mut text = serde_json::to_string_pretty(&starter()?).context("config.json")?;
    text.push('\n');
    write_new(&path, &text)?;
    Ok(0)
}

/// What oci-spec takes for usual, with a terminal and a root that may be written, as runc has it.
pub fn starter() -> Result<Spec> {
    let mut spec = Spec::default();
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(true)
        .build()?;
    spec.set_root(Some(root));
    if let Some(process) = spec.process_mut() {
        process.set_terminal(Some(true));
    }
    spec.set_hostname(Some("hutch".to_owned()));
    Ok(spec)
}

fn write_new(path: &Path, text: &str) -> Result<()> {
    // runc's words.
    let exists = || format!("File {} exists. Remove it first", path.display());
    let mut file = match File::options().write(true).create_new(true).open(path) {
        Err(why) if why.kind() == std::io::ErrorKind::AlreadyExists => bail!("{}", exists()),
        opened => opened.with_context(|| format!("write {}", path.display()))?,
    };
    file.write_all(text.as_bytes())
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_that_is_there_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let flags = args::Spec {
            bundle: Some(folder.path().to_owned()),
            rootless: false,
        };

        assert_eq!(spec(&flags).unwrap(), 0);
        assert!(spec(&flags).unwrap_err().to_string().contains("exists"));
    }
}
