//! What the engine promises, one sentence each.

mod exec;
mod files;
mod hooks;
mod identity;
mod lifecycle;
mod limits;
mod mounts;
mod namespaces;
mod refusals;
mod seccomp;
mod spare;
mod terminal;

use crate::Case;

/// Makes the list of a module's cases: a sentence is the name of its function.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub const ALL: &[crate::Case] = &[$((stringify!($name), $name)),*];
    };
}
use cases;

pub const ALL: [&[Case]; 12] = [
    lifecycle::ALL,
    identity::ALL,
    files::ALL,
    mounts::ALL,
    namespaces::ALL,
    exec::ALL,
    terminal::ALL,
    seccomp::ALL,
    limits::ALL,
    refusals::ALL,
    hooks::ALL,
    spare::ALL,
];
