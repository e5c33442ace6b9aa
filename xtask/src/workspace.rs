//! Where the source tree and its build results are.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The tree that this xtask belongs to. cargo says it at run time; the compiled-in path is for a binary that is started
    /// by hand.
    pub fn find() -> Self {
        let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = xtask
            .parent()
            .expect("xtask is a folder of the workspace")
            .to_owned();
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn target(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(path) => self.root.join(path),
            None => self.root.join("target"),
        }
    }

    /// cargo, as it would run from the user's shell: what `cargo run` sets for us would make build scripts run again.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        command.current_dir(&self.root);
        command
    }
}
