//! Which resource is looked at next: a set of woken names, ordered by urgency, and one timer for
//! each name. A name is never worked on twice at once; that a wake came meanwhile is kept.

use std::collections::BTreeSet;

use foldhash::HashMap;
use jiff::Timestamp;

use crate::{decide::Name, servicenow::Urgency};

/// The names that wait, run or sleep.
pub struct Queue {
    /// Names worked on at once.
    places: usize,
    running: usize,
    /// Of those, renewals in good time.
    calm: usize,
    entries: HashMap<Name, Entry>,
    ready: BTreeSet<(Urgency, u64, Name)>,
    timers: BTreeSet<(Timestamp, Name)>,
    woken: u64,
    winding_up: bool,
}

#[derive(Default)]
struct Entry {
    ready: Option<(Urgency, u64)>,
    timer: Option<Timestamp>,
    running: Option<Urgency>,
    again: bool,
}

impl Queue {
    /// Nobody yet; so many are worked on at once, and half as many renewals in good time.
    pub fn new(places: usize) -> Self {
        Self {
            places,
            running: 0,
            calm: 0,
            entries: HashMap::default(),
            ready: BTreeSet::new(),
            timers: BTreeSet::new(),
            woken: 0,
            winding_up: false,
        }
    }

    /// Wakes a name now.
    pub fn wake(&mut self, name: &Name, urgency: Urgency) {
        let entry = self.entries.entry(name.clone()).or_default();
        if entry.running.is_some() {
            entry.again = true;
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
    pub fn schedule(&mut self, name: &Name, at: Option<Timestamp>) {
        let entry = self.entries.entry(name.clone()).or_default();
        if let Some(old) = entry.timer.take() {
            self.timers.remove(&(old, name.clone()));
        }
        if let Some(at) = at.filter(|_| !self.winding_up) {
            entry.timer = Some(at);
            self.timers.insert((at, name.clone()));
        }
    }

    /// The names whose timer has gone off: they are to be woken.
    pub fn due(&mut self, now: Timestamp) -> Vec<Name> {
        let mut due = Vec::new();
        while let Some((at, _)) = self.timers.first()
            && *at <= now
            && let Some((_, name)) = self.timers.pop_first()
        {
            if let Some(entry) = self.entries.get_mut(&name) {
                entry.timer = None;
            }
            due.push(name);
        }
        due
    }

    /// The next name to work on, which is running from then on; `None` where there is none, or no
    /// place for it.
    pub fn take(&mut self) -> Option<Name> {
        let (urgency, ..) = self.ready.first()?;
        // The API server is no faster with more at once: whoever is in a hurry would only wait there.
        let no_room = is_calm(urgency) && self.calm >= self.places.div_ceil(2);
        if no_room || self.running >= self.places {
            return None;
        }
        let (urgency, _, name) = self.ready.pop_first()?;
        let entry = self.entries.entry(name.clone()).or_default();
        (entry.ready, entry.running) = (None, Some(urgency));
        self.running += 1;
        self.calm += usize::from(is_calm(&urgency));
        Some(name)
    }

    /// A name is done with. Returns whether it was woken meanwhile, and is to be woken now.
    pub fn finish(&mut self, name: &Name) -> bool {
        let Some(entry) = self.entries.get_mut(name) else {
            return false;
        };
        if let Some(urgency) = entry.running.take() {
            self.running -= 1;
            self.calm -= usize::from(is_calm(&urgency));
        }
        let again = std::mem::take(&mut entry.again);
        if !again && entry.timer.is_none() && entry.ready.is_none() {
            self.entries.remove(name);
        }
        again
    }

    /// How many are worked on.
    pub fn running(&self) -> usize {
        self.running
    }

    /// When the next timer goes off.
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether a name has its turn, or waits for it.
    pub fn is_busy(&self) -> bool {
        self.running > 0 || !self.ready.is_empty()
    }

    /// From now on nothing begins by itself: what is ready and every timer is forgotten, and only
    /// who is woken from now on has a turn.
    pub fn wind_up(&mut self) {
        self.winding_up = true;
        self.timers.clear();
        self.ready.clear();
        for entry in self.entries.values_mut() {
            (entry.timer, entry.ready, entry.again) = (None, None, false);
        }
    }
}

fn is_calm(urgency: &Urgency) -> bool {
    matches!(urgency, Urgency::Renewal(_))
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
        let order: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
        let expected = ["answered", "expiring", "new", "begun", "soon", "late"];
        assert_eq!(order, expected.map(name));
    }

    #[test]
    fn renewals_in_good_time_leave_half_of_the_places_to_those_in_a_hurry() {
        let mut queue = Queue::new(4);
        for calm in ["a", "b", "c"] {
            queue.wake(&name(calm), Urgency::Renewal(second(900)));
        }
        assert_eq!(queue.take(), Some(name("a")));
        assert_eq!(queue.take(), Some(name("b")));
        assert_eq!(queue.take(), None);
        for hurried in ["d", "e", "f"] {
            queue.wake(&name(hurried), Urgency::New);
        }
        assert_eq!(queue.take(), Some(name("d")));
        assert_eq!(queue.take(), Some(name("e")));
        assert_eq!((queue.take(), queue.running()), (None, 4));
        queue.finish(&name("a"));
        assert_eq!(queue.take(), Some(name("f")));
        queue.finish(&name("b"));
        assert_eq!(queue.take(), Some(name("c")));
        let mut alone = Queue::new(1);
        alone.wake(&name("calm"), Urgency::Renewal(second(900)));
        assert_eq!(alone.take(), Some(name("calm")));
    }

    #[test]
    fn a_name_is_never_worked_on_twice_at_once_and_no_wake_is_lost() {
        let mut queue = Queue::new(4);
        queue.wake(&name("a"), Urgency::New);
        assert_eq!(queue.take(), Some(name("a")));
        queue.wake(&name("a"), Urgency::New);
        queue.wake(&name("a"), Urgency::New);
        assert_eq!(queue.take(), None);
        assert!(queue.finish(&name("a")), "it is to be woken");
        queue.wake(&name("a"), Urgency::New);
        assert_eq!(queue.take(), Some(name("a")));
        assert!(!queue.finish(&name("a")));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn a_more_urgent_wake_gets_a_better_place() {
        let mut queue = Queue::new(4);
        queue.wake(&name("a"), Urgency::New);
        queue.wake(&name("b"), Urgency::Renewal(second(9)));
        queue.wake(&name("b"), Urgency::Expiring(second(9)));
        queue.wake(&name("b"), Urgency::New);
        let order: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
        assert_eq!(order, ["b", "a"].map(name));
    }

    #[test]
    fn after_winding_up_only_who_is_woken_has_a_turn() {
        let mut queue = Queue::new(4);
        queue.wake(&name("ready"), Urgency::New);
        queue.schedule(&name("later"), Some(second(1)));
        queue.wind_up();
        queue.schedule(&name("later"), Some(second(1)));
        assert_eq!((queue.due(second(9)), queue.take()), (vec![], None));
        queue.wake(&name("answered"), Urgency::New);
        assert_eq!(queue.take(), Some(name("answered")));
    }

    #[test]
    fn a_timer_goes_off_once_and_a_later_one_takes_its_place() {
        let mut queue = Queue::new(4);
        queue.schedule(&name("a"), Some(second(5)));
        queue.schedule(&name("a"), Some(second(9)));
        assert_eq!(queue.due(second(8)), []);
        assert_eq!(queue.next_timer(), Some(second(9)));
        assert_eq!(queue.due(second(9)), [name("a")]);
        assert_eq!(queue.due(second(99)), []);
        assert_eq!(queue.next_timer(), None);
    }
}
