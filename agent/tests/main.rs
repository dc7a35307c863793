//! Tests of the command `perennial` with real processes, sockets and files.

mod acceptance;
mod any_signer;
mod bad_input;
mod both;
mod ca_bundle;
mod check;
// With this feature, the command reads the offset of its wall clock from a file.
#[cfg(feature = "test-clock")]
mod clock;
mod cluster;
mod damage;
mod field_pairs;
mod foreign;
mod hands_off;
mod hook;
mod hostile_names;
mod journal;
mod key_memory;
mod limits;
mod list;
mod log;
mod metrics;
mod node_object;
mod operators;
mod planted;
mod proxies;
mod reload;
mod restart;
mod secrets;
mod service;
mod status;
mod story;
mod stuck;
mod support;
mod trust;
mod trust_bundles;
mod verify;

#[test]
fn every_test_file_is_listed_in_main_rs() {
    let modules = include_str!("main.rs");
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).unwrap();
    for name in files.map(|file| file.unwrap().file_name().into_string().unwrap()) {
        let module = name.trim_end_matches(".rs");
        assert!(name == "main.rs" || modules.contains(&format!("\nmod {module};\n")), "{name} is not tested");
    }
}
