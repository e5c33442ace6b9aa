//! cargo +nightly fuzz run config
#![no_main]

#[path = "../properties/specs.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &[u8]| properties::config(text));
