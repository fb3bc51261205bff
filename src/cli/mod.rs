//! The command line: what is asked for, and the words for what went wrong.

mod check;
mod names;
mod reach;
mod renew;
mod run;
mod status;
mod terminal;

use std::{env, path::Path, process::ExitCode};

use clap::{Command as Definition, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use tokio::runtime::Runtime;

/// Keeps a valid ServiceNow OAuth bearer token in a Kubernetes Secret, renewed before it expires.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controller until SIGTERM.
    Run(Box<run::RunArgs>),
    /// Print the CustomResourceDefinition, to apply with kubectl.
    Crd,
    /// Ask an instance for a token from here, and say what came back and, if it refused, why.
    Check(Box<check::CheckArgs>),
    /// Show the fleet at a glance: lifetimes, renewals, failures and what to do about them.
    Status(status::StatusArgs),
    /// Ask for a renewal now.
    Renew(renew::RenewArgs),
    /// Print the completions of a shell.
    Completion {
        /// The shell.
        shell: Shell,
    },
}

/// Reached through a link of this name, the program is a plugin of kubectl (Kubernetes
/// documentation, "Extend kubectl with plugins").
const PLUGIN: &str = "kubectl-snowcred";

/// The command line, under the name by which it was reached.
fn definition() -> Definition {
    let reached = env::args_os().next().unwrap_or_default();
    let file = Path::new(&reached).file_stem();
    let definition = Cli::command();
    if file.is_some_and(|name| name == PLUGIN) {
        definition.name(PLUGIN).bin_name("kubectl snowcred")
    } else {
        definition
    }
}

/// Parses the command line and does what it says. Exits with 0 when it worked, 1 when it did not,
/// and 2 when it was asked wrongly.
pub fn main() -> ExitCode {
    let matches = definition().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    // Both the Kubernetes client and the instances' client take the process-wide provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Crd => print(&crate::api::crd_yaml()),
        Command::Check(args) => block_on(check::check(*args)),
        Command::Status(args) => block_on(status::status(args)),
        Command::Renew(args) => block_on(renew::renew(args)),
        Command::Completion { shell } => complete(shell),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.sentence.is_empty() {
                complain(&error.to_string());
            }
            ExitCode::from(error.code)
        }
    }
}

/// One thread is enough for a person, and for a fleet: the API server is the limit long before it
/// is, and more would spend a quarter of their time on waking each other.
fn runtime() -> Result<Runtime, CommandError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::failed(format!("cannot start: {error}")))
}

/// Runs a command for a person.
fn block_on(command: impl Future<Output = Result<(), CommandError>>) -> Result<(), CommandError> {
    runtime()?.block_on(command)
}

fn complete(shell: Shell) -> Result<(), CommandError> {
    let mut definition = definition();
    let name = definition.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut definition, &name, &mut script);
    print(&in_one_spelling(&String::from_utf8_lossy(&script), &name))
}

/// In bash, clap_complete 4.6 spells the hyphens of a program's name in two ways, and completes nothing
/// behind a command (clap-rs/clap#6421).
fn in_one_spelling(script: &str, name: &str) -> String {
    let spelt = |hyphen| name.replace('-', hyphen) + "__subcmd__";
    script.replace(&spelt("__subcmd__"), &spelt("__"))
}

/// Why a command did not do what it was asked: one sentence, and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
struct CommandError {
    sentence: String,
    code: u8,
}

impl CommandError {
    /// It did not work.
    fn failed(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            code: 1,
        }
    }

    /// It did not work, and all has been said.
    fn silent() -> Self {
        Self::failed("")
    }

    /// Whoever reads has had enough, which is nobody's fault.
    fn enough() -> Self {
        Self {
            sentence: String::new(),
            code: 0,
        }
    }

    /// It was asked wrongly.
    fn usage(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            code: 2,
        }
    }
}

fn print(text: &str) -> Result<(), CommandError> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => CommandError::enough(),
        _ => CommandError::failed(format!("cannot write to standard output: {error}")),
    })
}

/// Prints, to nobody if nobody reads any more: what is to be done is done, and the exit code says
/// what came of it.
fn tell(text: &str) -> Result<(), CommandError> {
    print(text).or_else(|error| if error.code == 0 { Ok(()) } else { Err(error) })
}

fn complain(sentence: &str) {
    note(&format!("error: {sentence}"));
}

/// Says what is good to know beside the output.
fn note(sentence: &str) {
    use std::io::Write as _;
    // Where nobody reads it, the exit code says enough.
    let _ = writeln!(std::io::stderr(), "{sentence}");
}
