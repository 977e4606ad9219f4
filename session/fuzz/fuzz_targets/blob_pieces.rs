#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_session::fuzzing::run("blob_pieces", data));
