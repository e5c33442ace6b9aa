//! cargo +nightly fuzz run exec
#![no_main]

#[path = "../properties/bundles.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &[u8]| properties::process(text));
