//! What to check, from the command line's options, the files that they name, and prompts.

use std::{
    env,
    fs::File,
    future::pending,
    io::{self, ErrorKind, IsTerminal as _, Read as _, Write as _, stdin},
    path::{Path, PathBuf},
    thread,
};

use futures::future::select_all;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use super::{
    CheckArgs,
    subject::{Subject, User},
    voice::Voice,
};
use crate::{
    api::{Client, ClientSecretRef, ServiceNowCredentialSpec, Verify},
    cli::{CommandError, block_on},
    decide::observed::CheckedSpec,
    servicenow::{SharingKey, Tls, stored},
};

/// The variable that may hold the client's secret.
const SECRET_VARIABLE: &str = "SNOWCRED_CLIENT_SECRET";

/// What the options say to check. Nobody is asked for a secret before the rest is known to be
/// right.
pub(super) fn subject(args: &CheckArgs) -> Result<Subject, CommandError> {
    let spec = spec(args)?;
    let instance = spec
        .instance()
        .map_err(|error| CommandError::usage(format!("--instance: {error}")))?;
    let client_id = args.client_id.as_ref().map(SecretString::expose_secret);
    let client_id = stored::trimmed(client_id.unwrap_or_default())
        .map_err(|wrong| CommandError::usage(format!("--client-id {wrong}")))?;
    let tls = tls(args.ca_file.as_deref())?;
    let user = named_user(args)?;
    let (client_secret, source) = client_secret(args.client_secret_file.as_deref())?;
    let key = SharingKey::client_credentials(
        instance,
        spec.authentication(),
        client_id,
        client_secret,
        &spec.scopes,
    );
    Ok(Subject {
        instance: instance.clone(),
        key: key.over(tls),
        verify_path: args.verify_path.clone(),
        user: user.map(with_password).transpose()?,
        source,
        voice: Voice::Options,
    })
}

/// The options as a spec: the same rules hold for both.
fn spec(args: &CheckArgs) -> Result<CheckedSpec, CommandError> {
    let verify = args.verify_path.clone().map(|path| Verify { path });
    let spec = CheckedSpec::from(ServiceNowCredentialSpec {
        instance: args.instance.clone().unwrap_or_default(),
        client: Client {
            // There is none; its name is checked with the rest.
            secret_ref: ClientSecretRef {
                name: "none".to_owned(),
                ..ClientSecretRef::default()
            },
            authentication: args.authentication.map(Into::into),
        },
        scopes: args.scopes.clone(),
        verify,
        ..ServiceNowCredentialSpec::default()
    });
    match spec.violation() {
        Some(violation) => Err(CommandError::usage(Voice::Options.say(violation))),
        None => Ok(spec),
    }
}

fn tls(ca_file: Option<&Path>) -> Result<Tls, CommandError> {
    let Some(file) = ca_file else {
        return Ok(Tls::default());
    };
    Tls::default().trusting(&read(file)?).map_err(|wrong| {
        CommandError::failed(format!(
            "the file {file:?} of --ca-file {wrong}; name a file with CA certificates in PEM"
        ))
    })
}

/// The client's secret, and where it is from.
fn client_secret(file: Option<&Path>) -> Result<(Zeroizing<String>, String), CommandError> {
    let (text, source) = if let Some(file) = file {
        (read_text(file)?, format!("the file {file:?}"))
    } else if let Some(value) = env::var_os(SECRET_VARIABLE) {
        let value = value.into_string().map_err(|_| not_text(SECRET_VARIABLE))?;
        (Zeroizing::new(value), SECRET_VARIABLE.to_owned())
    } else {
        let instead = format!("name a file as --client-secret-file, or set {SECRET_VARIABLE}");
        (prompt("client secret", &instead)?, "the prompt".to_owned())
    };
    let secret =
        stored::trimmed(&text).map_err(|wrong| unusable("client secret", &source, wrong))?;
    let trimmed = secret.len() != text.len();
    Ok((secret, with_note(source, trimmed)))
}

/// Says of where a value is from that white space around it was left out, if it was.
pub(super) fn with_note(source: String, trimmed: bool) -> String {
    if !trimmed {
        return source;
    }
    source + "; the white space around it was taken off, as the operator does"
}

/// The user to compare with, if one is given.
pub(super) fn user(args: &CheckArgs) -> Result<Option<User>, CommandError> {
    named_user(args)?.map(with_password).transpose()
}

/// A user's name, and the password where a file holds it.
type NamedUser = (Zeroizing<String>, Option<Zeroizing<String>>);

/// The user to compare with, as far as nobody has to be asked.
fn named_user(args: &CheckArgs) -> Result<Option<NamedUser>, CommandError> {
    let Some(name) = &args.username else {
        return Ok(None);
    };
    let name = stored::trimmed(name.expose_secret())
        .map_err(|wrong| CommandError::usage(format!("--username {wrong}")))?;
    let password = |file: &PathBuf| password(&read_text(file)?, &format!("the file {file:?}"));
    let password = args.password_file.as_ref().map(password).transpose()?;
    Ok(Some((name, password)))
}

/// The user with a password, asked for where no file holds it.
fn with_password((name, held): NamedUser) -> Result<User, CommandError> {
    let password = match held {
        Some(password) => password,
        None => {
            let asked = prompt("password of the user", "name a file as --password-file")?;
            password(&asked, "the prompt")?
        }
    };
    Ok((name, password))
}

fn password(text: &str, source: &str) -> Result<Zeroizing<String>, CommandError> {
    stored::password(text).map_err(|wrong| unusable("password", source, wrong))
}

/// Asks a person; what is typed is not shown.
fn prompt(what: &str, instead: &str) -> Result<Zeroizing<String>, CommandError> {
    if !stdin().is_terminal() {
        return Err(CommandError::usage(format!(
            "there is no {what}, and no terminal to ask at; {instead}"
        )));
    }
    let question = format!("The {what} (what you type is not shown): ");
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    terminal
        .and_then(|terminal| ask(terminal, &question))
        .map_err(|error| {
            CommandError::failed(format!("cannot ask for the {what}: {error}; {instead}"))
        })
}

/// Asks for a line. The terminal shows nothing of it from before the question on: whoever answers at
/// once, or pastes, may not be shown either.
fn ask(mut terminal: File, question: &str) -> io::Result<Zeroizing<String>> {
    let shows = tcgetattr(&terminal)?;
    leave_as_it_was(terminal.try_clone()?, shows.clone())?;
    let mut hides = shows.clone();
    hides.local_modes.remove(LocalModes::ECHO);
    hides
        .local_modes
        .insert(LocalModes::ECHONL | LocalModes::ICANON);
    hides.input_modes.insert(InputModes::ICRNL);
    // A shell that gets the terminal back meanwhile would show what is typed after that.
    for key in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT] {
        hides.special_codes[key] = 0;
    }
    tcsetattr(&terminal, OptionalActions::Now, &hides)?;
    let asked = terminal.write_all(question.as_bytes());
    let answer = asked.and_then(|()| line(&mut terminal));
    // What was typed or pasted beyond the line is nothing for the next one who reads.
    tcsetattr(&terminal, OptionalActions::Flush, &shows)?;
    answer
}

/// What is typed up to the key that ends a line, which is what a terminal gives at a time.
fn line(terminal: &mut File) -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; LINE_LIMIT]);
    let count = terminal.read(&mut bytes[..])?;
    let typed = str::from_utf8(&bytes[..count])
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "what was typed is not UTF-8"))?;
    let answer = typed.strip_suffix('\n').ok_or(ErrorKind::UnexpectedEof)?;
    Ok(Zeroizing::new(answer.to_owned()))
}

/// What a terminal of Linux takes for one line, `MAX_CANON` and more (termios(3)).
const LINE_LIMIT: usize = 4096;

/// Whoever interrupts a prompt, or ends it, gets back a terminal that shows what is typed: without a
/// handler, the signal ends the process before the prompt has set it right.
#[allow(
    clippy::exit,
    reason = "the handler stays, and whoever interrupts the rest means it, too"
)]
fn leave_as_it_was(terminal: File, shows: Termios) -> io::Result<()> {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
    // The handlers are there from here on, before anybody can be asked.
    for kind in kinds {
        drop(signal(kind)?);
    }
    // The prompt keeps this thread busy.
    thread::spawn(move || {
        block_on(async {
            let told = kinds.map(|kind| Box::pin(told(kind)));
            let (kind, ..) = select_all(told).await;
            let _ = tcsetattr(&terminal, OptionalActions::Now, &shows);
            // As a shell says it of whom the signal ended.
            std::process::exit(128 + kind.as_raw_value());
        })
    });
    Ok(())
}

/// Waits for a signal.
async fn told(kind: SignalKind) -> SignalKind {
    match signal(kind) {
        Ok(mut signals) => signals.recv().await,
        Err(_) => pending().await,
    };
    kind
}

/// More than any secret or bundle of authorities holds.
const FILE_LIMIT: u64 = 1024 * 1024;

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = File::open(file)
        .and_then(|opened| opened.take(FILE_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            CommandError::failed(format!(
                "cannot read the file {file:?}: {error}; check its path and its permissions"
            ))
        })?;
    if read as u64 > FILE_LIMIT {
        return Err(CommandError::failed(format!(
            "the file {file:?} is larger than 1 MiB, as no secret and no bundle of certificates is; \
             check its path"
        )));
    }
    Ok(bytes)
}

fn read_text(file: &Path) -> Result<Zeroizing<String>, CommandError> {
    let bytes = read(file)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| not_text(&format!("the file {file:?}")))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn not_text(source: &str) -> CommandError {
    CommandError::failed(format!(
        "{source} does not hold UTF-8 text. {}",
        stored::AS_SHOWN
    ))
}

fn unusable(what: &str, source: &str, wrong: &str) -> CommandError {
    CommandError::failed(format!(
        "the {what} from {source} {wrong}. {}",
        stored::AS_SHOWN
    ))
}
