//! cargo +nightly fuzz run limits
#![no_main]

#[path = "../properties/bundles.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &[u8]| properties::limits(text));
