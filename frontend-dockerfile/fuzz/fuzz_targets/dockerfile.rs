#![no_main]

#[path = "../src/dockerfile.rs"]
mod dockerfile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| dockerfile::check(data));
