//! The corpus of config.json as the daemon reads it, as a plain test.

#[path = "../../../fuzz/corpora.rs"]
mod corpora;
#[path = "../../../fuzz/properties/bundles.rs"]
mod properties;

#[test]
fn every_config_of_the_corpus_is_judged_and_none_breaks_the_daemon() {
    corpora::each("config", properties::config);
}
