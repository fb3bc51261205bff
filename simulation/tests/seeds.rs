//! Seeds of bad days: a fixed set, and those that once failed.

use simulation::{Size, simulate, time::DAY};

fn size(resources: usize, days: i64) -> Size {
    Size {
        resources,
        lasts: days * DAY,
    }
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
        keeps_all_promises(seed, size(8, 1));
    }
}

#[test]
fn all_promises_are_kept_by_seeds_that_once_failed() {
    let seeds = include_str!("../seeds.txt").lines();
    for line in seeds.filter(|line| !line.starts_with('#')) {
        let mut fields = line.split_whitespace();
        let mut number = || -> u64 {
            let field = fields.next().and_then(|field| field.parse().ok());
            field.unwrap_or_else(|| panic!("no number in {line:?}"))
        };
        let (seed, resources, days) = (number(), number(), number());
        let resources = usize::try_from(resources).unwrap();
        keeps_all_promises(seed, size(resources, i64::try_from(days).unwrap()));
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..3 {
        let digest = || {
            simulate(seed, size(8, 1))
                .map(|counted| counted.digest)
                .unwrap()
        };
        assert_eq!(digest(), digest());
    }
}
