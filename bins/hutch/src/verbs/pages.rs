//! completions, man: generated from the arguments themselves.

use crate::args::{self, Cli};
use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use std::io;

pub fn completions(completions: &args::Completions) -> Result<u8> {
    let mut command = Cli::command();
    clap_complete::generate(completions.shell, &mut command, "hutch", &mut io::stdout());
    Ok(0)
}

pub fn man(man: &args::Man) -> Result<u8> {
    let about = || format!("write manual pages into {}", man.folder.display());
    clap_mangen::generate_to(Cli::command(), &man.folder).with_context(about)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page() {
        let folder = tempfile::tempdir().unwrap();

        man(&args::Man {
            folder: folder.path().to_owned(),
        })
        .unwrap();

        for verb in Cli::command().get_subcommands() {
            let page = folder.path().join(format!("hutch-{}.1", verb.get_name()));
            assert!(page.exists(), "{}", page.display());
        }
    }
}
