//! hutchd: the daemon. This file reads arguments; everything else is in its own module.

mod api;
mod bundle;
mod config;
mod convert;
mod logs;
mod status;

use anyhow::Result;
fn main() -> Result<()> {
    Ok(())
}
