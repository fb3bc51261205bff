//! `check`: asks an instance for a token from here, and says step by step what came back. Where the
//! instance refuses, a few requests that differ in one thing tell which cause is the likeliest.
//!
//! | module | what it is for |
//! |---|---|
//! | [`subject`] | what is checked, whether options or a resource say so |
//! | [`options`] | a subject from the command line's options, files and prompts |
//! | [`from`] | a subject from a resource of the cluster |
//! | [`attempt`] | the requests that may be made, and which comes next |
//! | [`ask`] | making them |
//! | [`diagnosis`] | what the answers of an instance that refuses come to |
//! | [`report`] | what was found, for programs |
//! | [`text`] | the same for people |
//! | [`voice`] | messages about a resource, said of the command line |

mod ask;
mod attempt;
mod diagnosis;
mod from;
mod network;
mod options;
mod report;
mod subject;
#[cfg(test)]
mod tests;
mod text;
mod voice;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use secrecy::SecretString;

use self::report::{Report, Step};
use super::{
    CommandError, tell,
    terminal::{self, coloured, json},
};
use crate::api::ClientAuthentication;

/// Arguments of `check`. The secrets are no arguments: other users of a machine see those.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// The instance: its name, such as dev12345, or an https origin.
    #[arg(long, required_unless_present = "from")]
    instance: Option<String>,

    /// The id of the OAuth client.
    #[arg(long, value_name = "ID", required_unless_present = "from")]
    client_id: Option<SecretString>,

    /// A file with the client's secret. Without it: the variable SNOWCRED_CLIENT_SECRET, or a
    /// hidden prompt on a terminal.
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,

    /// A scope to ask for; may be repeated. Default: none, and the instance decides.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,

    /// How the client's id and secret are sent: in the Authorization header, or in the form.
    /// Default: Basic.
    #[arg(long, value_enum, ignore_case = true)]
    authentication: Option<Authentication>,

    /// A user of the instance: if it refuses the client, the password grant is tried with this
    /// user, to tell a wrong client from a grant that is switched off.
    #[arg(long, value_name = "NAME")]
    username: Option<SecretString>,

    /// A file with that user's password. Without it: a hidden prompt on a terminal.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,

    /// Use the token once on this path, such as /api/now/table/sys_user?sysparm_limit=1.
    #[arg(long, value_name = "PATH")]
    verify_path: Option<String>,

    /// A file with certificate authorities in PEM to trust besides the public ones.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// Check a resource of the cluster instead, with the objects that it names.
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        conflicts_with_all = [
            "instance", "client_id", "client_secret_file", "scopes", "authentication",
            "verify_path", "ca_file",
        ]
    )]
    from: Option<String>,

    /// The kubeconfig's context for --from. Default: its current one.
    #[arg(long, requires = "from")]
    context: Option<String>,

    /// How to print: text, or one JSON object.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,

    /// Print the token, too.
    #[arg(long)]
    show_token: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// The words of `spec.client.authentication`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Authentication {
    #[value(name = "Basic")]
    Basic,
    #[value(name = "Body")]
    Body,
}

impl From<Authentication> for ClientAuthentication {
    fn from(authentication: Authentication) -> Self {
        match authentication {
            Authentication::Basic => Self::Basic,
            Authentication::Body => Self::Body,
        }
    }
}

/// Checks, and says what came of it; fails where no token was obtained, or one that does not work.
pub(super) async fn check(args: CheckArgs) -> Result<(), CommandError> {
    let subject = match &args.from {
        Some(resource) => from::subject(resource, &args).await?,
        None => options::subject(&args)?,
    };
    let teller = Teller {
        output: args.output,
        width: terminal::size().map(|(width, _)| width),
    };
    let mut report = ask::ask(&subject, |step| teller.step(step)).await?;
    if !args.show_token {
        report.token = None;
    }
    teller.end(&report)?;
    if report.ok {
        Ok(())
    } else {
        Err(CommandError::silent())
    }
}

/// Tells a person each step as it is made, and a program all at the end.
struct Teller {
    output: Output,
    width: Option<usize>,
}

impl Teller {
    fn step(&self, step: &Step) -> Result<(), CommandError> {
        match self.output {
            Output::Text => tell(&coloured(&text::step(step, self.width))),
            Output::Json => Ok(()),
        }
    }

    fn end(&self, report: &Report) -> Result<(), CommandError> {
        match self.output {
            Output::Text => tell(&coloured(&text::ending(report, self.width))),
            Output::Json => tell(&(json(report, true)? + "\n")),
        }
    }
}
