//! The decoder of the wire with any bytes: what holds of it is in `tests/support/decoder.rs`.
#![no_main]

#[path = "../../tests/support/decoder.rs"]
mod decoder;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| decoder::holds(bytes));
