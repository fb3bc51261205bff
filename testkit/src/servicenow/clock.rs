//! The instance's clock, the only place here that reads the time of day.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

/// The time at the simulated instance. Clones show and move the same time.
///
/// It runs with the computer's clock until [`Clock::freeze`] or [`Clock::advance`] says otherwise, so
/// that a test about expiry neither sleeps nor depends on how fast the machine is.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<Mutex<Setting>>);

#[derive(Clone, Copy, Debug, Default)]
struct Setting {
    frozen_at: Option<Timestamp>,
    ahead: Duration,
}

impl Clock {
    /// A clock that runs with the computer's.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still at `moment` and moves by [`Clock::advance`] only.
    pub fn frozen(moment: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Setting {
            frozen_at: Some(moment),
            ahead: Duration::ZERO,
        })))
    }

    /// The time at the instance.
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the clock everyone else takes the time from"
    )]
    pub fn now(&self) -> Timestamp {
        let Setting { frozen_at, ahead } = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        later(frozen_at.unwrap_or_else(Timestamp::now), ahead)
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let mut setting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        setting.ahead = setting.ahead.saturating_add(by);
    }

    /// Stops the clock at the present moment; it then moves by [`Clock::advance`] only.
    pub fn freeze(&self) {
        let moment = self.now();
        let mut setting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *setting = Setting {
            frozen_at: Some(moment),
            ahead: Duration::ZERO,
        };
    }
}

/// `moment` plus `by`, stopping at the last moment there is: a lifetime may be absurdly long.
pub(super) fn later(moment: Timestamp, by: Duration) -> Timestamp {
    moment.checked_add(by).unwrap_or(Timestamp::MAX)
}
