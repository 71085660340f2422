//! libFuzzer around one target of conclave-harness, named by `CONCLAVE_FUZZ_TARGET`. Its seeds are written to
//! `CONCLAVE_FUZZ_CORPUS` first, which is the corpus that libFuzzer is given.
#![no_main]

use std::{fs, path::Path, sync::OnceLock};

use conclave_harness::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<Target> = OnceLock::new();

fn prepare() {
    let name = std::env::var("CONCLAVE_FUZZ_TARGET").expect("CONCLAVE_FUZZ_TARGET names the target");
    let target = conclave_harness::target(&name);
    if let Ok(corpus) = std::env::var("CONCLAVE_FUZZ_CORPUS") {
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            fs::write(Path::new(&corpus).join(format!("seed-{number}")), seed).expect("a seed is written");
        }
    }
    TARGET.set(target).expect("it is set once");
}

fuzz_target!(init: prepare(), |data: &[u8]| {
    (TARGET.get().expect("prepared").run)(data);
});
