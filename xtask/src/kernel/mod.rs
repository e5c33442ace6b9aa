//! The guest kernel: built from Debian's kernel source, our patches and our fragment, kept in the cache.
//!
//! The same source, patches, fragment, recipe and compiler give the same bytes; they are what the key is made from.

mod fragment;
mod patches;

use crate::{
    cache::{Cache, Key, KeyBuilder, Site},
    command, setup,
    workspace::Workspace,
};
use anyhow::{Context, Result, bail};
use fragment::Fragment;
use patches::Patch;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const PACKAGE: &str = "linux-source-6.1";
const FOLDER: &str = "linux-source-6.1";
const KIND: &str = "kernel";
/// Goes up with every change here that changes the kernel's bytes.
const RECIPE: &str = "1";
/// What a build prints with the fragment of today; only the progress line depends on it.
const STEPS_EXPECTED: u32 = 2_050;
/// What no x86 build reads, and is a third of the source: other architectures, one family of graphics drivers, self-tests.
/// Kconfig files stay: they name each other across architectures.
const LEFT_PACKED: &[&str] = &[
    "arch/[!x]*/boot",
    "arch/[!x]*/include",
    "arch/[!x]*/kernel",
    "arch/arm/mach-*",
    "drivers/gpu/drm/amd/include",
    "tools/testing",
    "tools/perf",
    "Documentation/devicetree",
    "Documentation/translations",
];

/// A built kernel in the cache.
pub struct Kernel {
    folder: PathBuf,
}

impl Kernel {
    /// An ELF file with a PVH entry; QEMU, Cloud Hypervisor and Firecracker boot it as it is.
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }
}

/// The kernel for this workspace's fragment; built if the cache does not have it.
pub fn ensure(workspace: &Workspace, cache: &Cache) -> Result<Kernel> {
    setup::ensure(&[setup::KERNEL])?;
    let path = workspace.root().join("guest/kernel.fragment");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let fragment = Fragment::parse(&text).with_context(|| format!("read {}", path.display()))?;
    let patches = patches::read(&workspace.root().join("guest/patches"))?;
    let key = key(&fragment, &patches)?;
    let folder = cache.obtain(KIND, &key, |site| build(site, &patches, &path, &fragment))?;
    Ok(Kernel { folder })
}

/// Comments are not part of it: explaining an option better builds no kernel.
fn key(fragment: &Fragment, patches: &[Patch]) -> Result<Key> {
    let first_line = |program: &str| -> Result<String> {
        let text = command::read(Command::new(program).arg("--version"))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    };
    let mut key = KeyBuilder::default()
        .with("recipe", RECIPE)
        .with("source", setup::package_version(PACKAGE)?)
        .with("fragment", fragment.canonical())
        .with("compiler", first_line("gcc")?)
        .with("linker", first_line("ld")?);
    for patch in patches {
        key = key.with(&patch.name, &patch.content);
    }
    Ok(key.finish())
}

fn build(site: &Site, patches: &[Patch], path: &Path, fragment: &Fragment) -> Result<()> {
    eprintln!(
        "guest kernel: not in the cache; building it takes about 12 minutes on two cores (log: {})",
        site.log.display()
    );
    // A log is of one build.
    fs::write(&site.log, "").with_context(|| format!("create {}", site.log.display()))?;
    let tree = unpack(site)?;
    let applied = patches::apply(patches, &tree, &site.log)?;
    configure(site, &tree, path, fragment)?;
    compile(site, &tree)?;
    collect(site, &tree)?;
    let note = site.out.join("patches");
    fs::write(&note, applied.join("\n")).with_context(|| format!("write {}", note.display()))
}

fn unpack(site: &Site) -> Result<PathBuf> {
    eprintln!("guest kernel: unpacking the source");
    let archive = format!("/usr/src/{PACKAGE}.tar.xz");
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--xz", "--file", &archive, "--directory"])
        .arg(&site.work)
        .args(["--wildcards", "--no-wildcards-match-slash"]);
    for path in LEFT_PACKED {
        tar.arg(format!("--exclude={FOLDER}/{path}"));
    }
    command::run_logged(&mut tar, &site.log, |_| {}, |_| {})?;
    Ok(site.work.join(FOLDER))
}

fn configure(site: &Site, tree: &Path, path: &Path, fragment: &Fragment) -> Result<()> {
    eprintln!("guest kernel: configuring");
    let quiet = |command: &mut Command| command::run_logged(command, &site.log, |_| {}, |_| {});
    quiet(make(tree).arg("allnoconfig"))?;
    quiet(
        clean(&mut Command::new("scripts/kconfig/merge_config.sh"))
            .current_dir(tree)
            .args(["-m", ".config"])
            .arg(path),
    )?;
    quiet(make(tree).arg("olddefconfig"))?;

    let config = fs::read_to_string(tree.join(".config")).context("read the merged .config")?;
    let lost = fragment.lost(&config);
    if !lost.is_empty() {
        bail!(
            "options of {} did not take effect: {}",
            path.display(),
            lost.join(", ")
        );
    }
    Ok(())
}

fn compile(site: &Site, tree: &Path) -> Result<()> {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let steps = std::cell::Cell::new(0u32);
    command::run_logged(
        make(tree).arg(format!("-j{jobs}")).arg("vmlinux"),
        &site.log,
        |line| steps.set(steps.get() + u32::from(is_step(line))),
        |elapsed| eprintln!("{}", progress(steps.get(), elapsed)),
    )
}

/// `  CC      kernel/fork.o` and its like, one per file made.
fn is_step(line: &str) -> bool {
    line.strip_prefix("  ").is_some_and(|rest| {
        rest.split_whitespace()
            .next()
            .is_some_and(|verb| verb.chars().all(|c| c.is_ascii_uppercase()))
    })
}

fn progress(steps: u32, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!(
        "guest kernel: {steps} of about {STEPS_EXPECTED} files, {}:{:02} elapsed",
        seconds / 60,
        seconds % 60
    )
}

fn collect(site: &Site, tree: &Path) -> Result<()> {
    let vmlinux = site.out.join("vmlinux");
    command::run_logged(
        Command::new("strip")
            .arg("-o")
            .arg(&vmlinux)
            .arg(tree.join("vmlinux")),
        &site.log,
        |_| {},
        |_| {},
    )?;
    for (from, to) in [(".config", "config"), ("System.map", "System.map")] {
        fs::copy(tree.join(from), site.out.join(to)).with_context(|| format!("keep {from}"))?;
    }
    Ok(())
}

fn make(tree: &Path) -> Command {
    let mut make = Command::new("make");
    clean(&mut make).current_dir(tree);
    make
}

/// An environment in which the caller's settings and the place of the build cannot change the bytes.
fn clean(command: &mut Command) -> &mut Command {
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        // Set, though empty: else a source tree inside somebody's git checkout gets a `+` to its version.
        .env("LOCALVERSION", "")
        .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
        .env("KBUILD_BUILD_USER", "hutch")
        .env("KBUILD_BUILD_HOST", "hutch")
        .env("KBUILD_BUILD_VERSION", "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiler_lines_are_steps_and_other_output_is_not() {
        for step in [
            "  CC      kernel/fork.o",
            "  HOSTCC  scripts/kallsyms",
            "  AR      built-in.a",
        ] {
            assert!(is_step(step), "{step}");
        }
        for other in [
            "",
            "make[1]: Entering directory",
            "  in function foo",
            "CC x.o",
        ] {
            assert!(!is_step(other), "{other}");
        }
    }

    #[test]
    fn the_progress_line_says_how_far_and_how_long() {
        let line = progress(7, Duration::from_secs(61));

        assert!(line.contains("7 of about"), "{line}");
        assert!(line.ends_with("1:01 elapsed"), "{line}");
    }

    #[test]
    fn the_fragment_of_this_workspace_is_well_formed() {
        let path = Workspace::find().root().join("guest/kernel.fragment");

        let fragment = Fragment::parse(&fs::read_to_string(path).unwrap()).unwrap();

        assert!(!fragment.lost("").is_empty());
    }
}
