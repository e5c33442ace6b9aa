//! cargo +nightly fuzz run process
#![no_main]

#[path = "../properties/specs.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &[u8]| properties::process(text));
