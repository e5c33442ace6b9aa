//! Programs of others that a guest needs beside it on the host: built from crates.io, kept in the cache.

use crate::{
    cache::{Cache, KeyBuilder},
    command, setup,
    workspace::Workspace,
};
use anyhow::Result;
use std::{cell::Cell, path::PathBuf, process::Command};

const KIND: &str = "programs";
/// Goes up with every change of how they are built.
const RECIPE: &str = "1";

/// A crate whose binary has its name.
pub struct Program {
    name: &'static str,
    version: &'static str,
}

/// Gives a folder of the host to a guest. The one in Debian's QEMU package is the old one in C, and three to four times slower.
pub const VIRTIOFSD: Program = Program {
    name: "virtiofsd",
    version: "1.14.0",
};

/// Gives a guest a vsock where the host has none: the channel `hybrid-vsock`, which is nobody's default. Stories need it.
pub const VHOST_DEVICE_VSOCK: Program = Program {
    name: "vhost-device-vsock",
    version: "0.3.0",
};

/// Runs the fuzz targets, where there is a nightly toolchain.
pub const CARGO_FUZZ: Program = Program {
    name: "cargo-fuzz",
    version: "0.13.2",
};

/// By what one types.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Name {
    Virtiofsd,
    VhostDeviceVsock,
}

impl Name {
    pub fn program(self) -> &'static Program {
        match self {
            Self::Virtiofsd => &VIRTIOFSD,
            Self::VhostDeviceVsock => &VHOST_DEVICE_VSOCK,
        }
    }
}

/// The program's path; built if the cache does not have it.
pub fn ensure(workspace: &Workspace, cache: &Cache, program: &Program) -> Result<PathBuf> {
    setup::ensure(&[setup::PROGRAMS])?;
    let rustc = command::read(Command::new("rustc").arg("--version").arg("--verbose"))?;
    let key = KeyBuilder::default()
        .with("recipe", RECIPE)
        .with("name", program.name)
        .with("version", program.version)
        .with("compiler", rustc)
        .finish();
    let folder = cache.obtain(KIND, &key, |site| {
        eprintln!("{}: not in the cache; building it", program.name);
        let crates = Cell::new(0u32);
        let mut cargo = workspace.cargo();
        cargo
            .args(["install", "--locked", "--no-track", "--root"])
            .arg(&site.out)
            .args(["--version", program.version, program.name])
            .env("CARGO_TARGET_DIR", &site.work)
            .env_remove("RUSTFLAGS")
            .env("CARGO_TERM_COLOR", "never")
            // Outside our tree, so that our own cargo configuration has no say.
            .current_dir(&site.work);
        command::run_logged(
            &mut cargo,
            &site.log,
            |line| crates.set(crates.get() + u32::from(line.trim_start().starts_with("Compiling"))),
            |elapsed| {
                eprintln!(
                    "{}: {} crates, {} s elapsed",
                    program.name,
                    crates.get(),
                    elapsed.as_secs()
                );
            },
        )
    })?;
    Ok(folder.join("bin").join(program.name))
}
