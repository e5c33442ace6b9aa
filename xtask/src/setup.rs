//! Installs what a machine lacks: Debian packages, by name, and only those that are missing.
//!
//! Root gets them installed; anybody else gets the one command to type.

use crate::command;
use anyhow::{Context, Result, bail};
use std::{collections::BTreeSet, process::Command};

/// Packages, and what needs them.
pub struct Group {
    pub need: &'static str,
    pub packages: &'static [&'static str],
}

/// Perl (essential), tar and dpkg are part of every Debian; libelf is for objtool, which x86 kernels need.
pub const KERNEL: Group = Group {
    need: "build the guest kernel",
    packages: &[
        "linux-source-6.1",
        "bc",
        "binutils",
        "bison",
        "flex",
        "gcc",
        "libc6-dev",
        "libelf-dev",
        "make",
        "patch",
        "xz-utils",
    ],
};

pub const PROGRAMS: Group = Group {
    need: "build the agent and virtiofsd",
    packages: &["gcc", "libc6-dev", "libcap-ng-dev", "libseccomp-dev"],
};

pub const RUN: Group = Group {
    need: "run guests",
    // qemu-system-data has qboot.rom; qemu-system-x86 alone depends on it, but we open the file ourselves.
    packages: &[
        "busybox-static",
        "e2fsprogs",
        "erofs-utils",
        "iproute2",
        "qemu-system-data",
        "qemu-system-x86",
    ],
};

pub const CONFORMANCE: Group = Group {
    need: "compare with runc",
    packages: &["procps", "runc"],
};

/// Podman asks conmon to hold its containers; catatonit is its init.
pub const PODMAN: Group = Group {
    need: "run containers from Podman",
    packages: &["catatonit", "conmon", "podman"],
};

pub const ALL: &[Group] = &[KERNEL, PROGRAMS, RUN, CONFORMANCE, PODMAN];

/// Makes sure that the groups' packages are there.
pub fn ensure(groups: &[Group]) -> Result<()> {
    let missing = missing(groups)?;
    if missing.is_empty() {
        return Ok(());
    }
    for (need, packages) in &missing {
        eprintln!("missing, to {need}: {}", packages.join(" "));
    }
    let packages: BTreeSet<&str> = missing
        .iter()
        .flat_map(|(_, packages)| packages.iter().copied())
        .collect();
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "packages are missing; install them with:\n  sudo {}",
            command::line(&install(&packages))
        );
    }
    fetch_and_install(&packages)
}

/// What is missing of each group.
fn missing(groups: &[Group]) -> Result<Vec<(&'static str, Vec<&'static str>)>> {
    let wanted: BTreeSet<&str> = groups
        .iter()
        .flat_map(|group| group.packages.iter().copied())
        .collect();
    // dpkg-query fails if it has never heard of one of them, and still lists the others.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(&wanted)
        .output()
        .with_context(|| {
            let names: Vec<&str> = wanted.iter().copied().collect();
            format!(
                "ask dpkg for installed packages; elsewhere than on Debian, install what these hold: {}",
                names.join(" ")
            )
        })?;
    let installed = installed(&String::from_utf8_lossy(&output.stdout));
    Ok(groups
        .iter()
        .map(|group| {
            let missing: Vec<&str> = group
                .packages
                .iter()
                .copied()
                .filter(|package| !installed.contains(*package))
                .collect();
            (group.need, missing)
        })
        .filter(|(_, missing)| !missing.is_empty())
        .collect())
}

fn installed(listing: &str) -> BTreeSet<String> {
    listing
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .map(str::to_owned)
        .collect()
}

fn fetch_and_install(packages: &BTreeSet<&str>) -> Result<()> {
    let known = Command::new("apt-cache")
        .args(["show", "--quiet", "--no-all-versions"])
        .args(packages)
        .output()
        .context("ask apt for packages")?
        .status
        .success();
    if known && command::run(&mut install(packages)).is_ok() {
        return Ok(());
    }
    // No package lists yet, or lists that name versions which are gone.
    command::run(apt().arg("update"))?;
    command::run(&mut install(packages))
}

fn install(packages: &BTreeSet<&str>) -> Command {
    let mut command = apt();
    command
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages);
    command
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null());
    command
}

/// The version of an installed package.
pub fn package_version(package: &str) -> Result<String> {
    command::read(Command::new("dpkg-query").args([
        "--show",
        "--showformat",
        "${Version}",
        package,
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_installed_counts_as_there() {
        let listing = "bc installed\nflex config-files\nbison not-installed\n";

        assert_eq!(installed(listing), BTreeSet::from(["bc".to_owned()]));
    }

    #[test]
    fn the_command_to_type_names_every_package_once() {
        let command = install(&BTreeSet::from(["bc", "flex"]));

        assert_eq!(
            command::line(&command),
            "apt-get install --yes --no-install-recommends bc flex"
        );
    }

    #[test]
    fn a_package_that_nobody_has_is_missing_and_dpkg_is_there() {
        const GROUP: Group = Group {
            need: "test",
            packages: &["dpkg", "no-such-package-of-ours"],
        };

        let missing = missing(&[GROUP]).unwrap();

        assert_eq!(missing, [("test", vec!["no-such-package-of-ours"])]);
    }
}
