#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_dockerfile::fuzzing::run("words", data));
