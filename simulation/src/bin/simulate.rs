//! Runs seeds of the simulation, and says what came of them.
#![allow(
    clippy::print_stdout,
    reason = "this is a program for the command line"
)]

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use clap::Parser;
use mimalloc::MiMalloc;
use rustix::time::{ClockId, clock_gettime};
use simulation::{
    Broken, Run, Size, Statistics, simulate,
    time::{DAY, Micros, SECOND},
};

/// A third of a run is what objects cost that live for one step.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Runs the operator's brain through seeds of bad days, and checks its promises at every step.
#[derive(Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// One seed alone, with its trace.
    #[arg(long)]
    trace: Option<u64>,
    /// Days of each run.
    #[arg(long, default_value_t = 3.65)]
    days: f64,
    /// Resources of each run.
    #[arg(long, default_value_t = 100)]
    resources: usize,
    /// Runs at once.
    #[arg(long, default_value_t = thread::available_parallelism().map_or(1, usize::from))]
    jobs: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let size = Size {
        resources: arguments.resources,
        lasts: (arguments.days * DAY as f64) as Micros,
    };
    if let Some(seed) = arguments.trace {
        return trace(seed, size);
    }
    let (next, total) = (AtomicU64::new(0), Mutex::new(Total::default()));
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= arguments.seeds {
                        return;
                    }
                    let seed = arguments.from + seed;
                    let began = processor_time();
                    let end = simulate(seed, size);
                    let took = processor_time() - began;
                    if let Ok(mut total) = total.lock() {
                        total.add(seed, end, took);
                    }
                }
            });
        }
    });
    let Ok(total) = total.into_inner() else {
        return ExitCode::FAILURE;
    };
    total.print(size, begun.elapsed().as_secs_f64());
    if total.broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Seconds that this thread has had a processor: what else the machine does is not the run's.
#[allow(clippy::cast_precision_loss)]
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn trace(seed: u64, size: Size) -> ExitCode {
    let mut run = Run::new(seed, size, None, true);
    let end = run.to_the_end(size.lasts);
    for line in run.trace() {
        println!("{line}");
    }
    match end {
        Ok(()) => {
            println!(
                "seed {seed}: all promises were kept; {:?}",
                run.statistics()
            );
            ExitCode::SUCCESS
        }
        Err(broken) => {
            tell(seed, &broken);
            ExitCode::FAILURE
        }
    }
}

fn tell(seed: u64, broken: &Broken) {
    #[allow(clippy::cast_precision_loss)]
    let at = broken.at as f64 / SECOND as f64;
    println!(
        "seed {seed}: NOT KEPT at {at:.3} s: {}: {}",
        broken.promise, broken.seen
    );
}

#[derive(Default)]
struct Total {
    seeds: u64,
    broken: u64,
    seconds: f64,
    sum: Statistics,
}

impl Total {
    fn add(&mut self, seed: u64, end: Result<Statistics, Broken>, took: f64) {
        self.seeds += 1;
        self.seconds += took;
        match end {
            Ok(statistics) => {
                self.sum.requests += statistics.requests;
                self.sum.renewals += statistics.renewals;
                self.sum.secret_writes += statistics.secret_writes;
                self.sum.status_writes += statistics.status_writes;
                self.sum.rounds += statistics.rounds;
                self.sum.kills += statistics.kills;
                self.sum.leaders += statistics.leaders;
                self.sum.stalest = self.sum.stalest.max(statistics.stalest);
            }
            Err(broken) => {
                self.broken += 1;
                tell(seed, &broken);
            }
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn print(&self, size: Size, took: f64) {
        let days = size.lasts as f64 / DAY as f64 * self.seeds as f64;
        let fleet_years = days * size.resources as f64 / 100.0 / 365.0;
        let sum = &self.sum;
        println!("seeds                          {}", self.seeds);
        println!("fleet-years (100 resources)    {fleet_years:.2}");
        println!("promises not kept              {}", self.broken);
        println!("token requests                 {}", sum.requests);
        println!("renewals                       {}", sum.renewals);
        println!(
            "requests for each renewal      {:.3}",
            sum.requests as f64 / sum.renewals as f64
        );
        println!("writes of Secrets              {}", sum.secret_writes);
        println!("writes of statuses             {}", sum.status_writes);
        println!("reconciles                     {}", sum.rounds);
        println!("operators killed               {}", sum.kills);
        println!("times that a replica led       {}", sum.leaders);
        println!("wall time                      {took:.1} s");
        println!(
            "a fleet-month on one core      {:.2} s",
            self.seconds / (fleet_years * 12.0)
        );
        println!(
            "one renewal on one core        {:.1} microseconds",
            self.seconds * 1e6 / sum.renewals as f64
        );
    }
}
