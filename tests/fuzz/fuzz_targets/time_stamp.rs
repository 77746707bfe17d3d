#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| passerelle_targets::run("time_stamp", data));
