#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_worker::fuzzing::run("token_answer", data));
