//! Replicas of the operator: they begin, lead and die.

use rand::Rng as _;

use crate::{
    bad_days::CAUGHT_UP,
    event::Event,
    operator::{Operator, Watch},
    run::{Done, Run},
    time::{Micros, SECOND},
};

impl Run {
    pub(crate) fn leader(&self) -> Option<usize> {
        (0..2).find(|index| self.operators[*index].as_ref().is_some_and(|o| o.leads))
    }

    /// A replica begins, and leads if nobody else does.
    pub(crate) fn start(&mut self, index: usize) -> Done {
        if self.operators[index].is_some() {
            return Ok(());
        }
        let alone = self.leader().is_none() && !self.handing_over;
        let mut operator = Operator::new(self.now);
        operator.leads = alone;
        if alone {
            operator.core.lead();
            self.statistics.leaders += 1;
        }
        self.operators[index] = Some(operator);
        let epoch = self.epochs[index];
        for (wait, watch) in [(300_000, Watch::Resources), (800_000, Watch::Secrets)] {
            self.after(wait, Event::Relist(index, epoch, watch));
        }
        Ok(())
    }

    /// A standby leads from now on.
    pub(crate) fn lead(&mut self, index: usize, epoch: u32) -> Done {
        self.handing_over = false;
        let Some(operator) = self.operator(index, epoch) else {
            return Ok(());
        };
        operator.leads = true;
        operator.core.lead();
        self.statistics.leaders += 1;
        self.works_again(index);
        self.turn(index, epoch)
    }

    /// A leader has its lists: from now on it can do its work.
    pub(crate) fn works_again(&mut self, index: usize) {
        let listed = self.operators[index]
            .as_ref()
            .is_some_and(|o| o.core.is_listed());
        if listed && std::mem::take(&mut self.leaderless) {
            self.promises.everything.end(self.now + CAUGHT_UP);
        }
    }

    /// A replica dies; what it has sent arrives.
    pub(crate) fn kill(&mut self, index: usize, wait: Micros) {
        self.note(|| format!("-- replica {index} dies"));
        let led = self.operators[index].as_ref().is_some_and(|o| o.leads);
        self.operators[index] = None;
        self.epochs[index] += 1;
        self.statistics.kills += 1;
        // What could not be written before it died is not remembered.
        let unwritten = self.promises.everything.until() > self.now;
        self.promises.died(unwritten);
        if led {
            if !std::mem::replace(&mut self.leaderless, true) {
                self.promises.everything.begin();
            }
            let other = 1 - index;
            if self.operators[other].is_some() {
                self.handing_over = true;
                let epoch = self.epochs[other];
                // The Lease is free then, or was given back.
                let takes = self.rng.random_range(SECOND / 5..15 * SECOND);
                self.after(takes, Event::Lead(other, epoch));
            }
        }
        self.after(wait, Event::Start(index));
    }
}
