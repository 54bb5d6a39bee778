#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outpour_fuzz::safetensors(data));
