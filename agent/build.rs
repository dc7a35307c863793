//! Passes `layout.ld` to the linker of the released program `perennial`, so that the program takes less memory.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=layout.ld");
    let is = |variable, value: &str| env::var(variable).is_ok_and(|found| found == value);
    // GNU ld and lld, the default linkers on Linux, read such scripts. A linker that the builder of the program has
    // chosen may refuse them (mold does), and the program works without.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let chosen = env::var_os("RUSTC_LINKER").is_some() || flags.contains("link");
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && !chosen {
        let directory = env::var("CARGO_MANIFEST_DIR").expect("Cargo sets this variable");
        println!("cargo:rustc-link-arg-bin=perennial=-T{directory}/layout.ld");
    }
}
