//! Seeds of bad days: a fixed set, and those that once failed.

use simulation::{
    Size, simulate,
    time::{DAY, Micros},
};

fn size(resources: usize, days: f64) -> Size {
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let lasts = (days * DAY as f64) as Micros;
    Size { resources, lasts }
}

fn keeps_all_promises(seed: u64, size: Size) {
    if let Err(broken) = simulate(seed, size) {
        panic!(
            "seed {seed} with {size:?}: not kept at {} us: {}: {}",
            broken.at, broken.promise, broken.seen
        );
    }
}

#[test]
fn all_promises_are_kept_whatever_befalls_the_fleet() {
    for seed in 0..24 {
        keeps_all_promises(seed, size(8, 1.0));
    }
}

#[test]
fn all_promises_are_kept_by_seeds_that_once_failed() {
    let lines = include_str!("../seeds.txt").lines();
    let seeds = lines.filter(|line| !line.starts_with('#'));
    std::thread::scope(|scope| {
        for line in seeds {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (seed, resources, days) = (fields[0], fields[1], fields[2]);
            let size = size(resources.parse().unwrap(), days.parse().unwrap());
            let seed = seed.parse().unwrap();
            scope.spawn(move || keeps_all_promises(seed, size));
        }
    });
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..3 {
        let digest = || {
            simulate(seed, size(8, 1.0))
                .map(|counted| counted.digest)
                .unwrap()
        };
        assert_eq!(digest(), digest());
    }
}
