//! One folder with everything that the daemon needs and does not find by itself in a build tree; `HUTCH_ASSETS` names it.

use crate::{
    build::{self, Binaries},
    cache::Cache,
    image, kernel, programs, setup,
    workspace::Workspace,
};
use anyhow::{Context, Result};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// Tells `hutch` and `hutchd` where the folder is.
pub const VARIABLE: &str = "HUTCH_ASSETS";

/// Everything built, and the folder that points to it.
pub struct Assets {
    pub folder: PathBuf,
    pub binaries: Binaries,
}

impl Assets {
    /// Where they are once they are built.
    pub fn of(workspace: &Workspace) -> Self {
        Self {
            folder: workspace.target().join("assets"),
            binaries: Binaries::of(workspace),
        }
    }
}

/// Sets up the machine and builds what is not built.
pub fn ensure(workspace: &Workspace) -> Result<Assets> {
    setup::ensure(setup::ALL)?;
    let cache = Cache::open()?;
    let kernel = kernel::ensure(workspace, &cache)?;
    let virtiofsd = programs::ensure(workspace, &cache, &programs::VIRTIOFSD)?;
    let binaries = build::all(workspace)?;
    let image = image::ensure(&cache, &binaries.agent)?;

    let folder = Assets::of(workspace).folder;
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    for (name, path) in [
        ("vmlinux", &kernel.vmlinux()),
        ("initrd.img", &image),
        ("virtiofsd", &virtiofsd),
        ("hutch", &binaries.hutch),
        ("hutchd", &binaries.hutchd),
        ("hutch-relay", &binaries.relay),
    ] {
        point(&folder.join(name), path)?;
    }
    Ok(Assets { folder, binaries })
}

/// With what stories need of other programs besides.
pub fn ensure_for_stories(workspace: &Workspace) -> Result<Assets> {
    let backend = programs::ensure(workspace, &Cache::open()?, &programs::VHOST_DEVICE_VSOCK)?;
    let assets = ensure(workspace)?;
    point(&assets.folder.join("vhost-device-vsock"), &backend)?;
    Ok(assets)
}

/// Makes `link` point to `path`, by a rename: a daemon that reads it meanwhile sees the old or the new, never neither.
fn point(link: &Path, path: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|target| target == *path) {
        return Ok(());
    }
    let fresh = link.with_extension(format!("new-{}", std::process::id()));
    symlink(path, &fresh)
        .and_then(|()| fs::rename(&fresh, link))
        .with_context(|| format!("point {} to {}", link.display(), path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_link_is_moved_to_a_newer_build_and_nothing_stays_beside_it() {
        let scratch = Scratch::new().unwrap();
        let link = scratch.path().join("vmlinux");

        point(&link, Path::new("/old")).unwrap();
        point(&link, Path::new("/new")).unwrap();
        point(&link, Path::new("/new")).unwrap();

        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/new"));
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }
}
