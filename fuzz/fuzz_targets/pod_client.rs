#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| perennial_tests::fuzz::pod_client(bytes));
