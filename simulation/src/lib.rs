//! The operator's brain in a simulated world: decisions, queue, broker and store are the very ones
//! that `run` uses; time, cluster, instances and bad days are made here, from one seed.
//!
//! | module | what it is for |
//! |---|---|
//! | [`plan`] | what a run begins with and what befalls it, drawn from its seed |
//! | [`cluster`] | resources and Secrets as the API server keeps them |
//! | [`instance`] | what an instance answers, in each token mode and on bad days |
//! | [`operator`] | one replica, driven as the controller drives it |
//! | [`run`] | the state of a run, and the heap of its events |
//! | `event` | what those events are |
//! | `turn` | one turn of the operator's loop, and the steps of its reconciles |
//! | `wire` | calls and requests on their way |
//! | `bad_days` | what befalls the fleet, and for how long that excuses the operator |
//! | `replicas` | replicas begin, lead and die |
//! | `secrets` | what is promised of a Secret |
//! | `ending` | how all becomes well in the end, and stays so |
//! | [`promises`] | what is promised, and what excuses the operator for how long |
//! | `alone` | for how long an instance is to be left alone after a failure |
//! | `whole` | what is promised of a resource at any time: its Secret is there, and Ready is true |
//! | `tamper` | faults in the operator, to show that the promises notice |
//!
//! The same seed is the same run: nothing but the seed is random, and no clock is read.

mod alone;
mod bad_days;
pub mod cluster;
mod ending;
mod event;
pub mod instance;
pub mod operator;
pub mod plan;
pub mod promises;
mod replicas;
pub mod run;
mod secrets;
mod tamper;
pub mod time;
mod turn;
mod whole;
mod wire;

pub use plan::Size;
pub use promises::Broken;
pub use run::{Run, Statistics};
pub use tamper::Tamper;

/// Runs a seed to its end.
///
/// # Errors
/// A promise was not kept.
pub fn simulate(seed: u64, size: Size) -> Result<Statistics, Broken> {
    let mut run = Run::new(seed, size, None, false);
    run.to_the_end(size.lasts)?;
    Ok(run.statistics())
}
