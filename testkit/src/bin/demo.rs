//! The demo as a program; `make demo` runs it.

use std::{any::Any, io::Write as _, panic::AssertUnwindSafe, path::PathBuf, process::ExitCode};

use clap::Parser;
use futures::FutureExt as _;
use testkit::demo::{End, Failed, Settings, play};
use tokio::signal::unix::{SignalKind, signal};

/// Shows the operator at work: on a real Kubernetes API, with a simulated ServiceNow instance whose
/// tokens live for 30 seconds.
///
/// Ends by itself after three renewals of each example. Exits with 0 when all went as promised, 1
/// when it did not, 130 when it was stopped before that. Nothing is left running.
#[derive(Parser)]
struct Arguments {
    /// Stay up after the last renewal, until Ctrl-C.
    #[arg(long)]
    keep: bool,

    /// The operator's program. Default: the one beside this program.
    #[arg(long, value_name = "FILE")]
    operator: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A panic is told once, as the sentence that it carries, and after everything was stopped.
    std::panic::set_hook(Box::new(|_| {}));
    match run(arguments) {
        Ok(End::Shown) => ExitCode::SUCCESS,
        Ok(End::Interrupted) => {
            say("stopped before the end");
            ExitCode::from(130)
        }
        Err(Failed(sentence)) => {
            say(&format!("error: {sentence}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<End, Failed> {
    let settings = Settings {
        operator: operator(arguments.operator)?,
        keep: arguments.keep,
    };
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failed(format!("cannot start threads: {error}")))?;
    let played = runtime.block_on(async {
        let stop = stop_requested()?;
        AssertUnwindSafe(play(&settings, stop))
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Err(Failed(sentence(panic.as_ref()))))
    });
    // Waits for no build that was under way when the program was stopped.
    runtime.shutdown_background();
    played
}

fn operator(given: Option<PathBuf>) -> Result<PathBuf, Failed> {
    const NAME: &str = "servicenow-credential-operator";
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join(NAME));
    match given.or_else(beside) {
        Some(path) if path.is_file() => Ok(path),
        _ => Err(Failed(format!(
            "the program {NAME} is not there: build it with `cargo build --workspace --bins`, or \
             name it with --operator"
        ))),
    }
}

fn stop_requested() -> Result<impl Future<Output = ()>, Failed> {
    let listen =
        |kind| signal(kind).map_err(|error| Failed(format!("cannot listen for signals: {error}")));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

fn sentence(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("the demo has a bug")
        .to_owned()
}

fn say(text: &str) {
    // Standard error may be closed; there is nobody else to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}
