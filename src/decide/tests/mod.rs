//! `decide` by tables, by properties, and together with the broker and the store in a small world.

mod afterwards;
mod conditions;
mod failures;
mod hostile;
mod months;
mod objects;
mod on_record;
mod operating;
mod policies;
mod properties;
mod put_backs;
mod renewals;
mod restarts;
mod scene;
mod specs;
mod target;
mod together;
mod world;
