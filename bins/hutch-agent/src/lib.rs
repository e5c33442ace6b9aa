//! The library of the guest's first process.

pub mod engine;
