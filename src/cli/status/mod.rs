//! `status`: the fleet at a glance.

mod row;
mod table;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, ValueEnum};
use futures::{StreamExt as _, pin_mut};
use jiff::Timestamp;
use kube::{
    Client,
    runtime::watcher::{self, Event},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use self::{
    row::{Row, sort},
    table::{Room, table},
};
use super::{
    CommandError, names, note, print, reach,
    terminal::{self, BAD, brief, coloured, json},
};
use crate::{
    Clock, SystemClock,
    decide::{Credential, Name, ownership::timestamp},
    kubernetes::watch,
};

/// Arguments of `status`.
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// One resource. Default: all of the namespace.
    #[arg(value_name = "NAME", value_parser = names::resource)]
    name: Option<String>,

    #[command(flatten)]
    reach: reach::Reach,

    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "name"])]
    all_namespaces: bool,

    /// Follow: a live table on a terminal, else a line for each change.
    #[arg(short, long)]
    watch: bool,

    /// How to print: a table, or JSON (with --watch one object in each line).
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// The fleet as it is known.
type Fleet = BTreeMap<Name, Credential>;

/// Prints the fleet, once or on and on.
pub(super) async fn status(args: StatusArgs) -> Result<(), CommandError> {
    let (client, namespace) = args.reach.connect().await?;
    let within = (!args.all_namespaces).then_some(namespace.as_str());
    if args.watch {
        let events = watch::credentials(client.clone(), within, None, |_| None);
        return follow(&args, events, async || {
            nothing(&client, &args, within).await
        })
        .await;
    }
    let found = match &args.name {
        // Whoever may get one resource need not be allowed to list them.
        Some(name) => Vec::from_iter(reach::find(&client, &namespace, name).await?),
        None => watch::list_credentials(client.clone(), within)
            .await
            .map_err(|error| reach::refused(&error))?,
    };
    let rows = rows(found.iter());
    if rows.is_empty() {
        nothing(&client, &args, within).await?;
        return match args.output {
            Output::Json => print("[]\n"),
            Output::Table => Ok(()),
        };
    }
    match args.output {
        Output::Json => print(&(json(&rows, true)? + "\n")),
        Output::Table => print(&coloured(&table(&rows, SystemClock.now(), room(&args)))),
    }
}

/// There is nothing to show. That is an error where a name was given that nobody has, and else a
/// note.
async fn nothing(
    client: &Client,
    args: &StatusArgs,
    within: Option<&str>,
) -> Result<(), CommandError> {
    let place = match within {
        None => "in this cluster".to_owned(),
        Some(namespace) => {
            if let Some(unknown) = reach::unknown_namespace(client, namespace).await {
                return Err(unknown);
            }
            if let Some(name) = &args.name {
                return Err(CommandError::failed(reach::nobody(namespace, name)));
            }
            format!("in namespace {namespace:?}")
        }
    };
    note(&format!("there is no ServiceNowCredential {place}"));
    Ok(())
}

fn is_meant(args: &StatusArgs, credential: &Credential) -> bool {
    let name = args.name.as_deref();
    name.is_none_or(|name| *credential.name.name == *name)
}

fn rows<'a>(credentials: impl Iterator<Item = &'a Credential>) -> Vec<Row> {
    let mut rows: Vec<_> = credentials.map(Row::of).collect();
    sort(&mut rows, SystemClock.now());
    rows
}

/// The room on a terminal; elsewhere nothing is cut.
fn room(args: &StatusArgs) -> Room {
    let size = terminal::size();
    Room {
        width: size.map(|(width, _)| width),
        height: size.filter(|_| args.watch).map(|(_, height)| height),
        namespaces: args.all_namespaces,
    }
}

/// Leaves the text behind as it was, with a table of its own in front of it (xterm's alternate
/// screen), and no cursor.
struct Screen;

impl Screen {
    fn enter() -> Result<Self, CommandError> {
        print("\x1b[?1049h\x1b[?25l")?;
        Ok(Self)
    }

    /// Draws over what is there, so that nothing flickers.
    fn draw(&self, text: &str) -> Result<(), CommandError> {
        // A line's end on the last line would push the first one out.
        let lines = coloured(text.trim_end()).replace('\n', "\x1b[K\n");
        print(&format!("\x1b[H{lines}\x1b[K\x1b[J"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = print("\x1b[?25h\x1b[?1049l");
    }
}

/// Follows the fleet until somebody has seen enough.
async fn follow(
    args: &StatusArgs,
    events: impl futures::Stream<Item = watcher::Result<Event<Credential>>>,
    nothing: impl AsyncFn() -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let live = args.output == Output::Table && terminal::can_redraw();
    let listen = |kind| {
        signal(kind)
            .map_err(|error| CommandError::failed(format!("cannot listen for signals: {error}")))
    };
    let mut interrupted = listen(SignalKind::interrupt())?;
    let mut terminated = listen(SignalKind::terminate())?;
    let mut resized = listen(SignalKind::window_change())?;
    pin_mut!(events);
    let (mut fleet, mut relisted) = (Fleet::new(), Fleet::new());
    let (mut screen, mut listed) = (None, false);
    // Since when what is known may be old.
    let mut away: Option<Timestamp> = None;
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interrupted.recv() => return Ok(()),
            _ = terminated.recv() => return Ok(()),
            _ = tick.tick(), if live => {}
            _ = resized.recv(), if live => {}
            event = events.next() => match event {
                None => return Err(CommandError::failed("the watch of the resources ended")),
                Some(Err(error)) => match reach::refused_watch(&error) {
                    Some(refused) => return Err(refused),
                    None if !listed => {
                        let why = format!("the resources cannot be watched: {error}");
                        return Err(CommandError::failed(why));
                    }
                    // It is begun anew; what is known stays until then, and is told to be old.
                    None => {
                        if away.is_none() && !live {
                            note("the Kubernetes API cannot be reached; this goes on when it can");
                        }
                        away = away.or(Some(SystemClock.now()));
                    }
                },
                Some(Ok(Event::Init)) => {
                    relisted.clear();
                    continue;
                }
                Some(Ok(Event::InitApply(one))) => {
                    relisted.insert(one.name.clone(), one);
                    continue;
                }
                Some(Ok(Event::InitDone)) => {
                    let before = std::mem::replace(&mut fleet, std::mem::take(&mut relisted));
                    away = None;
                    if !std::mem::replace(&mut listed, true)
                        && !fleet.values().any(|one| is_meant(args, one))
                    {
                        nothing().await?;
                    }
                    if !live {
                        let gone = before.values().filter(|one| !fleet.contains_key(&one.name));
                        let mut gone = gone.filter(|one| is_meant(args, one));
                        gone.try_for_each(|one| tell_gone(args, one))?;
                        let mut changed: Vec<_> = fleet
                            .values()
                            .filter(|one| is_news(before.get(&one.name), one))
                            .filter(|one| is_meant(args, one))
                            .map(Row::of)
                            .collect();
                        sort(&mut changed, SystemClock.now());
                        changed.iter().try_for_each(|row| tell(args, row))?;
                    } else if screen.is_none() {
                        screen = Some(Screen::enter()?);
                    }
                }
                Some(Ok(Event::Apply(one))) => {
                    let before = fleet.insert(one.name.clone(), one.clone());
                    if !live && is_meant(args, &one) && is_news(before.as_ref(), &one) {
                        tell(args, &Row::of(&one))?;
                    }
                }
                Some(Ok(Event::Delete(one))) => {
                    fleet.remove(&one.name);
                    if !live && is_meant(args, &one) {
                        tell_gone(args, &one)?;
                    }
                }
            },
        }
        if let Some(screen) = &screen {
            let rows = rows(fleet.values().filter(|one| is_meant(args, one)));
            let (now, mut room) = (SystemClock.now(), room(args));
            let old = away.map(|since| stale(since, now)).unwrap_or_default();
            room.height = room.height.map(|height| height - old.lines().count());
            screen.draw(&(old + &table(&rows, now, room)))?;
        }
    }
}

/// What stands above a table that nobody brings up to date.
fn stale(since: Timestamp, now: Timestamp) -> String {
    let ago = brief(now.duration_since(since));
    format!("{BAD}The Kubernetes API cannot be reached: this is as it was {ago} ago.{BAD:#}\n")
}

/// Whether a person who follows the fleet wants to hear of it.
fn is_news(before: Option<&Credential>, now: &Credential) -> bool {
    before.is_none_or(|before| Row::of(before) != Row::of(now))
}

/// A resource is no more.
fn tell_gone(args: &StatusArgs, gone: &Credential) -> Result<(), CommandError> {
    match args.output {
        Output::Table => print(&format!("{} deleted\n", gone.name)),
        Output::Json => {
            let (namespace, name) = (&*gone.name.namespace, &*gone.name.name);
            let gone = serde_json::json!({"namespace": namespace, "name": name, "deleted": true});
            print(&format!("{gone}\n"))
        }
    }
}

/// One resource in one line.
fn tell(args: &StatusArgs, row: &Row) -> Result<(), CommandError> {
    if args.output == Output::Json {
        return print(&(json(row, false)? + "\n"));
    }
    let time = |at: Option<_>| at.map_or_else(|| "-".to_owned(), timestamp);
    let advice = row.advice.as_deref().unwrap_or_default();
    let line = format!(
        "{} {}/{} Ready={} Synced={} expires={} renews={} {advice}",
        time(Some(SystemClock.now())),
        row.namespace,
        row.name,
        row.ready.reason,
        row.synced.reason,
        time(row.expires_at),
        time(row.renewal_time),
    );
    print(&(line.trim_end().replace(char::is_control, " ") + "\n"))
}
