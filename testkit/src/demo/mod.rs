//! The demo: a real Kubernetes API, a simulated ServiceNow instance with short-lived tokens, the
//! operator as a process, and a view of what it does.
//!
//! | module | subject |
//! |---|---|
//! | `stage` | sets everything up, with the manifests that people copy |
//! | `look` | what the resources and their Secrets say at one moment |
//! | `table_api` | uses a token, to prove that it works |
//! | `story` | follows the looks, tells each change, and knows when the promise is kept or broken |
//! | `screen` | lines for a terminal or a file |
//!
//! A token is never shown, nor a part of it: only its SHA-256.

mod look;
mod screen;
mod stage;
mod story;
mod table_api;

use std::{future::Future, path::PathBuf, pin::pin, time::Duration};

use screen::Screen;
use stage::Stage;
use story::Story;

/// What the demo is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's program.
    pub operator: PathBuf,
    /// Stay up after the last renewal, until stopped.
    pub keep: bool,
}

/// Why the demo did not show what it promises: one sentence, and what helps to find the cause.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String);

impl Failed {
    fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

/// How the demo ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything was shown.
    Shown,
    /// It was stopped before that.
    Interrupted,
}

/// The lifetime of the instance's tokens: long enough to be read, short enough to be awaited.
const LIFETIME: Duration = Duration::from_secs(30);
/// How often each resource is to be renewed before the demo ends.
const RENEWALS: usize = 3;

/// Plays the demo until it is over, or until `stop` is done. Nothing is left running, whatever the
/// end.
///
/// # Errors
///
/// If something does not happen that should, or not in time.
pub async fn play(settings: &Settings, stop: impl Future<Output = ()>) -> Result<End, Failed> {
    let mut screen = Screen::new();
    let mut stop = pin!(stop);
    let stage = tokio::select! {
        stage = Stage::set(settings, &mut screen) => stage?,
        () = &mut stop => return Ok(End::Interrupted),
    };
    let mut story = Story::new(&stage);
    let end = tokio::select! {
        told = story.tell(&mut screen, settings.keep) => told.map(|()| End::Shown),
        () = &mut stop => Ok(if story.is_told() { End::Shown } else { End::Interrupted }),
    };
    screen.clear();
    if end.is_err() {
        screen.line(&stage.end_of_log());
    }
    let stopped = stage.strike(&mut screen).await;
    let end = end?;
    stopped?;
    if end == End::Shown && !settings.keep {
        story::suggest(&mut screen);
    }
    Ok(end)
}
