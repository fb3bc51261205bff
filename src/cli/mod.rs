//! The command line: what is asked for, and the words for what went wrong.

mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
}

/// Parses the command line and does what it says. Exits with 0 when it worked, 1 when it did not,
/// and 2 when it was asked wrongly.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Both the Kubernetes client and the instances' client take the process-wide provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Crd => print(&crate::api::crd_yaml()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(error.code)
        }
    }
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
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CommandError::failed(
            format!("cannot write to standard output: {error}"),
        )),
        _ => Ok(()),
    }
}

#[allow(clippy::print_stderr, reason = "this is the command line")]
fn complain(sentence: &str) {
    eprintln!("error: {sentence}");
}
