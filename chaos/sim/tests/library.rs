//! Clients of the library in whole runs.

use conclave_sim::{profile::by_name, run, trace::Trace};

fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("SIM_SEEDS").unwrap_or_else(|_| "0..6".to_owned());
    let (from, until) = text.split_once("..").expect("SIM_SEEDS is FROM..UNTIL");
    from.parse().expect("a seed")..until.parse().expect("a seed")
}

#[test]
fn clients_of_the_library_see_nothing_broken() {
    conclave_sim::quiet_panics();
    let name = std::env::var("SIM_PROFILE").unwrap_or_else(|_| "default".to_owned());
    let profile = by_name(&name).expect("a profile");
    let mut total = conclave_sim::summary::Summary::default();
    let mut bad = 0;
    let began = std::time::Instant::now();
    for seed in seeds() {
        let outcome = run(seed, profile, None, Trace::default());
        if let Some(violation) = outcome.violation {
            println!("seed {seed}: {} at {} us: {}", violation.what, violation.at, violation.why);
            bad += 1;
        }
        total.add(&outcome.summary);
    }
    println!("{:.1} simulated s in {:.1} s", total.simulated_us as f64 / 1e6, began.elapsed().as_secs_f64());
    println!("{:#?}\n{:#?}\n{:#?}", total.counts, total.exercised, total.exercised_runs);
    assert_eq!(bad, 0);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let profile = by_name("default").expect("a profile");
    for seed in 0..3 {
        let [one, other] = [(); 2].map(|()| run(seed, profile, Some(120), Trace::default()).summary);
        assert_eq!((one.trace, one.polls), (other.trace, other.polls), "seed {seed}");
    }
}
