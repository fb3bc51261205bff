//! What a run begins with and what befalls it, all drawn from its seed.

use rand::{Rng as _, rngs::SmallRng};
use servicenow_credential_operator::api::{Renewal, ServiceNowCredentialSpec, Target};

use crate::{
    instance::{Instance, Mode, Trouble},
    time::{DAY, HOUR, MINUTE, Micros, SECOND},
};

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Resources.
    pub resources: usize,
    /// How long it lasts, before everything is well again.
    pub lasts: Micros,
}

/// Something that befalls the fleet.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// An instance comes to something for so long.
    Trouble(usize, Trouble, Micros),
    /// A client is refused once.
    OneOff(usize, usize),
    /// The API server is away for so long.
    ApiAway(Micros),
    /// The API server fails calls now and then for so long.
    ApiFlaky(Micros),
    /// The operator is killed, now or at its next step; another begins after so long.
    Kill(bool, Micros),
    /// The operator is stopped in good order.
    HandOver,
    /// The machines' clocks are set by so much.
    SetClock(Micros),
    /// A watch tells nothing for so long.
    HoldWatch(bool, Micros),
    /// A watch breaks, and is there again after so long.
    BreakWatch(bool, Micros),
    /// A person does something to a resource.
    Person(usize, Deed),
    /// A client's secret is changed at the instance, and in the Secret so much later.
    Rotate(usize, Micros),
    /// A client Secret is deleted, and there again so much later.
    LoseClient(usize, Micros),
}

/// What a person does to a resource, or to its Secret.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    /// Asks for a renewal.
    Renew,
    /// Deletes the target.
    DeleteTarget,
    /// Edits the target.
    EditTarget,
    /// Writes another template.
    Template(u8),
    /// Gives the target another name.
    Rename(u8),
    /// Wants another margin.
    Margin(u8),
    /// Suspends it for so long.
    Suspend(Micros),
    /// Deletes it, and creates it again so much later.
    Recreate(Micros),
    /// Puts a Secret where the target shall be, and takes it away so much later.
    Foreign(Micros),
}

/// What a run consists of.
pub struct Plan {
    /// The instances, with their clients.
    pub instances: Vec<Instance>,
    /// For each resource its client.
    pub clients: Vec<(usize, usize)>,
    /// For each resource its renewal.
    pub margins: Vec<Option<Renewal>>,
    /// Several resources use one client.
    pub sharing: bool,
    /// Two replicas.
    pub standby: bool,
    /// What befalls it, in order.
    pub events: Vec<(Micros, Event)>,
}

fn between(rng: &mut SmallRng, least: Micros, most: Micros) -> Micros {
    rng.random_range(least..=most)
}

/// Short ones are more frequent than long ones.
fn skewed(rng: &mut SmallRng, most: Micros) -> Micros {
    let share: f64 = rng.random();
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let micros = (share.powi(4) * most as f64) as Micros;
    micros.max(SECOND)
}

/// Half an hour mostly; in some fleets a few minutes less, or hours.
fn lifetime(rng: &mut SmallRng, mixed: bool) -> Micros {
    match rng.random_range(0..20) {
        0 if mixed => between(rng, 10, 120) * SECOND,
        1 | 2 if mixed => between(rng, 2, 12) * HOUR,
        _ => 30 * MINUTE,
    }
}

fn mode(rng: &mut SmallRng) -> Mode {
    [Mode::ReuseSlide, Mode::ReuseRemaining, Mode::AlwaysNew][rng.random_range(0..3)]
}

/// The margins that people want.
pub fn margin(which: u8) -> Option<Renewal> {
    let before = |text: &str| Renewal {
        renew_before: Some(text.to_owned()),
        renew_before_percentage: None,
    };
    let percent = |percent| Renewal {
        renew_before: None,
        renew_before_percentage: Some(percent),
    };
    match which % 8 {
        0 => Some(before("10m")),
        1 => Some(before("1s")),
        2 => Some(percent(80)),
        3 => Some(percent(10)),
        _ => None,
    }
}

/// A spec of the kind that everybody writes.
pub fn spec(instance: usize, client: usize, margin: Option<Renewal>) -> ServiceNowCredentialSpec {
    let mut spec = ServiceNowCredentialSpec {
        instance: format!("sim{instance}"),
        renewal: margin,
        target: Some(Target::default()),
        ..ServiceNowCredentialSpec::default()
    };
    spec.client.secret_ref.name = format!("client-{instance}-{client}");
    spec
}

impl Plan {
    /// Draws everything.
    pub fn draw(rng: &mut SmallRng, size: Size) -> Self {
        let count = rng.random_range(1..=3);
        // Most have a client of their own; in some fleets a few share.
        let sharing = rng.random_range(0..4) == 0;
        let per_instance = if sharing {
            1 + size.resources / 10
        } else {
            size.resources
        };
        let mixed = rng.random_range(0..16) == 0;
        let instances: Vec<_> = (0..count)
            .map(|index| {
                let mode = mode(rng);
                let lifetimes: Vec<_> = (0..per_instance).map(|_| lifetime(rng, mixed)).collect();
                Instance::new(index, mode, lifetimes.into_iter())
            })
            .collect();
        let clients = (0..size.resources)
            .map(|resource| {
                let client = if sharing {
                    rng.random_range(0..per_instance)
                } else {
                    resource
                };
                (rng.random_range(0..count), client)
            })
            .collect();
        let margins = (0..size.resources).map(|_| margin(rng.random())).collect();
        let mut plan = Self {
            instances,
            clients,
            margins,
            sharing,
            standby: rng.random_range(0..3) == 0,
            events: Vec::new(),
        };
        plan.draw_events(rng, size);
        plan
    }

    fn draw_events(&mut self, rng: &mut SmallRng, size: Size) {
        // From something each quarter of a day to something each half hour.
        let pace = [6 * HOUR, 2 * HOUR, 30 * MINUTE][rng.random_range(0..3)];
        let mut at = between(rng, 0, pace);
        while at < size.lasts {
            let event = self.draw_event(rng, size);
            self.events.push((at, event));
            // Troubles come in company.
            at += if rng.random_range(0..4) == 0 {
                skewed(rng, MINUTE)
            } else {
                between(rng, 0, 2 * pace)
            };
        }
    }

    fn draw_event(&self, rng: &mut SmallRng, size: Size) -> Event {
        let instance = rng.random_range(0..self.instances.len());
        let resource = rng.random_range(0..size.resources);
        let watch = rng.random();
        match rng.random_range(0..30) {
            0..=5 => Event::Trouble(instance, trouble(rng), skewed(rng, 6 * HOUR)),
            6 => {
                let (instance, client) = self.clients[resource];
                Event::OneOff(instance, client)
            }
            7 => Event::ApiAway(skewed(rng, HOUR)),
            8 | 9 => Event::ApiFlaky(skewed(rng, HOUR)),
            10..=13 => Event::Kill(rng.random(), skewed(rng, 10 * MINUTE)),
            14 => Event::HandOver,
            15 => {
                let by = skewed(rng, DAY);
                Event::SetClock(if rng.random() { by } else { -by })
            }
            16 | 17 => Event::HoldWatch(watch, skewed(rng, 10 * MINUTE)),
            18 | 19 => Event::BreakWatch(watch, skewed(rng, 5 * MINUTE)),
            20 => Event::Rotate(resource, skewed(rng, HOUR)),
            21 => Event::LoseClient(resource, skewed(rng, 2 * HOUR)),
            _ => Event::Person(resource, deed(rng)),
        }
    }
}

fn trouble(rng: &mut SmallRng) -> Trouble {
    match rng.random_range(0..8) {
        0 | 1 => Trouble::Unavailable,
        2 => Trouble::Hangs,
        3 => Trouble::Hibernates,
        4 => Trouble::Limits(Some(between(rng, 0, 1800))),
        5 => Trouble::Limits(None),
        6 => Trouble::Refuses,
        _ if rng.random() => Trouble::Garbles,
        _ => Trouble::NotTrusted,
    }
}

fn deed(rng: &mut SmallRng) -> Deed {
    match rng.random_range(0..12) {
        0 | 1 => Deed::Renew,
        2 | 3 => Deed::DeleteTarget,
        4 => Deed::EditTarget,
        5 => Deed::Template(rng.random()),
        6 | 7 => Deed::Rename(rng.random()),
        8 => Deed::Margin(rng.random()),
        9 => Deed::Suspend(skewed(rng, 3 * HOUR)),
        10 => Deed::Recreate(skewed(rng, HOUR)),
        _ => Deed::Foreign(skewed(rng, HOUR)),
    }
}
