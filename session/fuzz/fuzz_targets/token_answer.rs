#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_session::fuzzing::run("token_answer", data));
