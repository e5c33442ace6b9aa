//! What the command line reads of a bundle. The daemon judges it.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The daemon takes no more; reading stops a little above it.
const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A bundle, as far as the command line looks at it.
pub struct Bundle {
    pub folder: PathBuf,
    pub config_json: Vec<u8>,
    config: Value,
}

impl Bundle {
    /// # Errors
    /// The folder or its config.json is missing, too large, or not JSON.
    pub fn read(folder: &Path) -> Result<Self> {
        let folder =
            fs::canonicalize(folder).with_context(|| format!("bundle {}", folder.display()))?;
        if !folder.is_dir() {
            bail!("bundle {}: Not a directory", folder.display());
        }
        let path = folder.join("config.json");
        // runc's words for the case that callers know.
        let about = || format!("JSON specification file {}", path.display());
        let found = fs::metadata(&path).with_context(about)?;
        if !found.is_file() {
            bail!("{}: not a file", about());
        }
        if found.len() > CONFIG_BYTES_MAX {
            bail!(
                "{}: {} bytes; at most {CONFIG_BYTES_MAX} are read",
                about(),
                found.len()
            );
        }
        let config_json = fs::read(&path).with_context(about)?;
        let config = serde_json::from_slice(&config_json).with_context(about)?;
        Ok(Self {
            folder,
            config_json,
            config,
        })
    }

    /// The process wants a terminal.
    pub fn terminal(&self) -> bool {
        let terminal = self.config.pointer("/process/terminal");
        terminal.and_then(Value::as_bool).unwrap_or(false)
    }

    pub fn cgroups_path(&self) -> String {
        let path = self.config.pointer("/linux/cgroupsPath");
        path.and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// The init's process object: what an exec inherits.
    pub fn process(&self) -> Option<&Value> {
        self.config.get("process")
    }
}
