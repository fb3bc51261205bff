//! Which resource is looked at next: a set of woken names, ordered by urgency, and one timer for
//! each name. A name is never worked on twice at once; a wake that comes meanwhile is kept.

use std::collections::{BTreeMap, BTreeSet};

use foldhash::HashMap;
use jiff::Timestamp;

use crate::{decide::Name, servicenow::Urgency};

/// The names that wait, run or sleep.
pub struct Queue {
    /// Names worked on at once.
    places: usize,
    running: usize,
    entries: HashMap<Name, Entry>,
    ready: BTreeSet<(Urgency, u64, Name)>,
    timers: BTreeMap<(Timestamp, Name), Urgency>,
    woken: u64,
    winding_up: bool,
}

#[derive(Default)]
struct Entry {
    ready: Option<(Urgency, u64)>,
    timer: Option<Timestamp>,
    running: bool,
    again: Option<Urgency>,
}

impl Queue {
    /// Nobody yet; so many are worked on at once.
    pub fn new(places: usize) -> Self {
        Self {
            places,
            running: 0,
            entries: HashMap::default(),
            ready: BTreeSet::new(),
            timers: BTreeMap::new(),
            woken: 0,
            winding_up: false,
        }
    }

    /// Wakes a name now.
    pub fn wake(&mut self, name: &Name, urgency: Urgency) {
        let entry = self.entries.entry(name.clone()).or_default();
        if entry.running {
            entry.again = Some(entry.again.map_or(urgency, |again| again.min(urgency)));
            return;
        }
        // Who is woken again keeps the place, or gets a better one.
        if let Some((known, place)) = entry.ready {
            if known <= urgency {
                return;
            }
            self.ready.remove(&(known, place, name.clone()));
        }
        self.woken += 1;
        entry.ready = Some((urgency, self.woken));
        self.ready.insert((urgency, self.woken, name.clone()));
    }

    /// Sets the one timer of a name, or clears it.
    pub fn schedule(&mut self, name: &Name, at: Option<Timestamp>, urgency: Urgency) {
        let entry = self.entries.entry(name.clone()).or_default();
        if let Some(old) = entry.timer.take() {
            self.timers.remove(&(old, name.clone()));
        }
        if let Some(at) = at.filter(|_| !self.winding_up) {
            entry.timer = Some(at);
            self.timers.insert((at, name.clone()), urgency);
        }
    }

    /// The next name to work on, which is running from then on; `None` where there is none, or no
    /// place for it.
    pub fn take(&mut self, now: Timestamp) -> Option<Name> {
        while let Some(((at, _), _)) = self.timers.first_key_value() {
            if *at > now {
                break;
            }
            if let Some(((_, name), urgency)) = self.timers.pop_first() {
                if let Some(entry) = self.entries.get_mut(&name) {
                    entry.timer = None;
                }
                self.wake(&name, urgency);
            }
        }
        let (urgency, ..) = self.ready.first()?;
        let room = match urgency {
            // As many again are kept for whoever is in a hurry. The API server is no faster with
            // more at once: they would only wait for each other there.
            Urgency::Renewal(_) => self.places.div_ceil(2),
            Urgency::Expiring(_) | Urgency::New => self.places,
        };
        if self.running >= room {
            return None;
        }
        let (_, _, name) = self.ready.pop_first()?;
        let entry = self.entries.entry(name.clone()).or_default();
        entry.ready = None;
        entry.running = true;
        self.running += 1;
        Some(name)
    }

    /// A name is done with; a wake that came meanwhile takes its turn now.
    pub fn finish(&mut self, name: &Name) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if std::mem::take(&mut entry.running) {
            self.running -= 1;
        }
        match entry.again.take() {
            Some(urgency) => self.wake(name, urgency),
            None if entry.timer.is_none() && entry.ready.is_none() => {
                self.entries.remove(name);
            }
            None => {}
        }
    }

    /// How many are worked on.
    pub fn running(&self) -> usize {
        self.running
    }

    /// When the next timer goes off.
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Whether a name waits for its turn.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// From now on nothing begins by itself: what is ready and every timer is forgotten, and only
    /// who is woken from now on has a turn.
    pub fn wind_up(&mut self) {
        self.winding_up = true;
        self.timers.clear();
        self.ready.clear();
        for entry in self.entries.values_mut() {
            (entry.timer, entry.ready, entry.again) = (None, None, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        Name::new("ns", name)
    }

    fn second(s: i64) -> Timestamp {
        Timestamp::from_second(s).unwrap()
    }

    #[test]
    fn new_resources_go_before_renewals_begun_or_not_but_not_before_expiring_tokens() {
        let mut queue = Queue::new(16);
        queue.wake(&name("late"), Urgency::Renewal(second(900)));
        queue.wake(&name("soon"), Urgency::Renewal(second(500)));
        queue.wake(&name("begun"), Urgency::Renewal(second(900)).begun());
        queue.wake(&name("new"), Urgency::New);
        queue.wake(&name("expiring"), Urgency::Expiring(second(600)));
        queue.wake(&name("answered"), Urgency::New.begun());
        let order: Vec<_> = std::iter::from_fn(|| queue.take(second(0))).collect();
        let expected = ["answered", "expiring", "new", "begun", "soon", "late"];
        assert_eq!(order, expected.map(name));
    }

    #[test]
    fn renewals_in_good_time_leave_half_of_the_places_to_those_in_a_hurry() {
        let mut queue = Queue::new(4);
        for calm in ["a", "b", "c"] {
            queue.wake(&name(calm), Urgency::Renewal(second(900)));
        }
        assert_eq!(queue.take(second(0)), Some(name("a")));
        assert_eq!(queue.take(second(0)), Some(name("b")));
        assert_eq!(queue.take(second(0)), None);
        for hurried in ["d", "e", "f"] {
            queue.wake(&name(hurried), Urgency::New);
        }
        assert_eq!(queue.take(second(0)), Some(name("d")));
        assert_eq!(queue.take(second(0)), Some(name("e")));
        assert_eq!((queue.take(second(0)), queue.running()), (None, 4));
        queue.finish(&name("a"));
        assert_eq!(queue.take(second(0)), Some(name("f")));
        for done in ["b", "d", "e"] {
            queue.finish(&name(done));
        }
        assert_eq!(queue.take(second(0)), Some(name("c")));
        let mut alone = Queue::new(1);
        alone.wake(&name("calm"), Urgency::Renewal(second(900)));
        assert_eq!(alone.take(second(0)), Some(name("calm")));
    }

    #[test]
    fn a_name_is_never_worked_on_twice_at_once_and_no_wake_is_lost() {
        let mut queue = Queue::new(4);
        queue.wake(&name("a"), Urgency::New);
        assert_eq!(queue.take(second(0)), Some(name("a")));
        queue.wake(&name("a"), Urgency::New);
        queue.wake(&name("a"), Urgency::New);
        assert_eq!(queue.take(second(0)), None);
        queue.finish(&name("a"));
        assert_eq!(queue.take(second(0)), Some(name("a")));
        queue.finish(&name("a"));
        assert_eq!(queue.take(second(0)), None);
    }

    #[test]
    fn a_more_urgent_wake_gets_a_better_place() {
        let mut queue = Queue::new(4);
        queue.wake(&name("a"), Urgency::New);
        queue.wake(&name("b"), Urgency::Renewal(second(9)));
        queue.wake(&name("b"), Urgency::Expiring(second(9)));
        queue.wake(&name("b"), Urgency::New);
        let order: Vec<_> = std::iter::from_fn(|| queue.take(second(0))).collect();
        assert_eq!(order, ["b", "a"].map(name));
    }

    #[test]
    fn after_winding_up_only_who_is_woken_has_a_turn() {
        let mut queue = Queue::new(4);
        queue.wake(&name("ready"), Urgency::New);
        queue.schedule(&name("later"), Some(second(1)), Urgency::New);
        queue.wind_up();
        queue.schedule(&name("later"), Some(second(1)), Urgency::New);
        assert_eq!(queue.take(second(9)), None);
        queue.wake(&name("answered"), Urgency::New);
        assert_eq!(queue.take(second(9)), Some(name("answered")));
    }

    #[test]
    fn a_timer_goes_off_once_and_a_later_one_takes_its_place() {
        let mut queue = Queue::new(4);
        queue.schedule(&name("a"), Some(second(5)), Urgency::New);
        queue.schedule(&name("a"), Some(second(9)), Urgency::New);
        assert_eq!(queue.take(second(8)), None);
        assert_eq!(queue.next_timer(), Some(second(9)));
        assert_eq!(queue.take(second(9)), Some(name("a")));
        queue.finish(&name("a"));
        assert_eq!(queue.take(second(99)), None);
        assert_eq!(queue.next_timer(), None);
    }
}
