#![no_main]

#[path = "../src/expansion.rs"]
mod expansion;

libfuzzer_sys::fuzz_target!(|data: &[u8]| expansion::check(data));
