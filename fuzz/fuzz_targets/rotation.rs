//! Any bytes are a life, and no life breaks a law.

#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial_tests::laws;
use perennial_tests::script::Script;

fuzz_target!(|bytes: &[u8]| {
    let script = Script::decode(bytes);
    let trace = script.run();
    if let Err(broken) = laws::check(&trace) {
        panic!("{broken}\n{trace}\n{script:#?}");
    }
});
