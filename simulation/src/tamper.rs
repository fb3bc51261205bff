//! Faults in the operator, to show that the promises notice.

use std::sync::Arc;

use servicenow_credential_operator::{decide::Class, servicenow::SharingKey};

use crate::{
    cluster::News,
    event::Event,
    run::{Done, Run},
    time::{HOUR, SECOND},
};

/// A fault in the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tamper {
    /// It never renews.
    NeverRenews,
    /// It asks again as soon as it has an answer.
    AsksTwice,
    /// It does that once in six hours.
    AsksTwiceNowAndThen,
    /// Whoever begins to lead asks for all tokens anew.
    AsksAnewAfterARestart,
    /// It looks again at once, whatever it decided.
    NeverSleeps,
    /// It writes what is there already.
    WritesTwice,
    /// It takes no notice of a hold.
    IgnoresHolds,
    /// It asks an instance that is down, or limits, every second.
    ProbesEverySecond,
    /// It does not hear of Secrets that are deleted.
    MissesDeletions,
}

impl Run {
    /// An answer is in, and the operator may make a mistake.
    pub(crate) fn tampered(
        &mut self,
        index: usize,
        epoch: u32,
        key: Arc<SharingKey>,
        failed: Option<Class>,
    ) -> Done {
        let held = failed.is_some_and(Class::is_of_origin);
        let tamper = self.tamper;
        match tamper {
            Some(Tamper::AsksTwice) => self.send(index, epoch, key),
            Some(Tamper::AsksTwiceNowAndThen) if failed.is_none() && self.is_now_and_then() => {
                self.send(index, epoch, key)
            }
            Some(Tamper::IgnoresHolds) if held => self.send(index, epoch, key),
            Some(Tamper::ProbesEverySecond) if held => {
                let again = move |run: &mut Self| match run.operator(index, epoch) {
                    Some(_) => run.send(index, epoch, key),
                    None => Ok(()),
                };
                self.after(SECOND, Event::Over(Box::new(again)));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn is_now_and_then(&mut self) -> bool {
        let now_and_then = self.now >= self.tampered_at + 6 * HOUR;
        if now_and_then {
            self.tampered_at = self.now;
        }
        now_and_then
    }

    /// A replica can do its work from now on, and may make a mistake.
    pub(crate) fn tampered_at_start(&mut self, index: usize) -> Done {
        if self.tamper != Some(Tamper::AsksAnewAfterARestart) {
            return Ok(());
        }
        let epoch = self.epochs[index];
        for key in self.keys.values().cloned().collect::<Vec<_>>() {
            self.send(index, epoch, key)?;
        }
        Ok(())
    }

    /// News that do not reach the operator.
    pub(crate) fn is_missed(&self, news: &News) -> bool {
        self.tamper == Some(Tamper::MissesDeletions) && matches!(news, News::SecretGone(..))
    }
}
