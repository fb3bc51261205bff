//! The ServiceNow simulator as a program; its `--help` says everything.

use std::{
    fs, io::Write, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration,
};

use clap::{Parser, ValueEnum};
use testkit::servicenow::{
    Client, ClientCertificates, ClientSettings, Identity, MissingUser, Options, Simulator, Tls,
    TokenMode, control, time_text::parse_duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

const CONTROL_HELP: &str = r#"CONTROL API (JSON, on the port of --control)
  PUT    /mode           {"mode": "always-new"}
  PUT    /fault          {"fault": "hang"}              until DELETE /fault
                         {"fault": "hang", "times": 3}  for the next three token requests
  DELETE /fault
  PUT    /table-fault    {"fault": {"missing-scope": "incident_read"}} or {"fault": null}
  PUT    /property       {"enabled": false}             that of the client credentials grant
  PUT    /clients/{id}   {"secret": "s", "lifetime": "30s", "scopes": ["a"], "active": true,
                          "applicationUser": null, "userActive": true, "tokenFormat": "opaque"}
                         what is absent stays; a new client needs a secret
  DELETE /clients/{id}
  PUT    /users/{name}   {"password": "p"}              for the password grant
  GET    /stats          counts; DELETE sets them to 0
  GET    /requests       every request, without secrets
  POST   /revoke         {"token": "t"} or {"all": true}
  POST   /tokens/valid   {"token": "t"}                 {"valid": true, "expiresAt": "2030-…"}
  POST   /clock/advance  {"by": "5m"}
  POST   /down, /up      refuse connections, take them again

FAULTS
  "hibernation-page" "login-page" "bad-gateway" "maintenance" "hang" "reset" "truncated-json"
  "truncated-body" "no-access-token" "access-denied" "unauthorized-client" "echo-authorization"
  {"rate-limited": {"retryAfter": {"seconds": 30}}}     or {"http-date": "30s"}, {"raw": "soon"},
                                                        or without "retryAfter"
  {"slow-drip": {"pause": "1s"}}   {"delay": "2s"}   {"huge-body": 10485760}
  {"redirect": {"location": "https://example.com/"}}    {"invalid-request": [400, "{}"]}
  {"expires-in": "missing"}        or "string", "zero", "negative", "enormous", {"value": 1.5}
  {"token-type": "mac"}            {"access-token": "two\nlines"}
  Of the Table API: "no-auth-profile" "api-acl" "insufficient-rights" {"missing-scope": "s"}
  {"rate-limited": {"retryAfter": {"seconds": 30}}}

CLIENT FILE
  [{"id": "a", "secret": "s", "lifetime": "30s", "scopes": ["x"], "applicationUser": "robot"}]
  Only id and secret are required; the other fields are those of PUT /clients/{id}.

EXAMPLE
  servicenow-simulator --listen 127.0.0.1:8443 --tls --ca-file ca.pem --client demo:s3cret &
  curl --cacert ca.pem -u demo:s3cret -d grant_type=client_credentials \
    https://localhost:8443/oauth_token.do"#;

/// Plays a ServiceNow instance: token endpoint, Table API, and every bad day.
///
/// Prints one line `simulator <origin>` when it is ready, and one line `control <origin>` where there is
/// a control API. Ends on SIGINT or SIGTERM.
#[derive(Parser)]
#[command(version, after_long_help = CONTROL_HELP)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Serve HTTPS with a certificate of an authority generated now; see --ca-file.
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key"])]
    tls: bool,

    /// Write the generated authority's certificate (PEM) to this file.
    #[arg(long, value_name = "FILE", requires = "tls")]
    ca_file: Option<PathBuf>,

    /// Serve HTTPS with this certificate chain (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The private key (PEM) of --tls-cert.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Ask every client for a certificate of one of these authorities (PEM). Needs TLS.
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,

    /// Name by which clients reach the simulator: in the generated certificate, and the first one in
    /// the printed origin. Repeatable.
    #[arg(long, value_name = "NAME")]
    host_name: Vec<String>,

    /// OAuth client. Everyone on this computer can read it; --client-file is more discreet. Repeatable.
    #[arg(long, value_name = "ID:SECRET")]
    client: Vec<String>,

    /// JSON file with a list of OAuth clients.
    #[arg(long, value_name = "FILE")]
    client_file: Option<PathBuf>,

    /// Lifetime of access tokens, for clients that do not set their own.
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_duration)]
    lifetime: Duration,

    /// What happens when a token is asked for again before its expiry.
    #[arg(long, value_enum, default_value = "reuse-slide")]
    mode: Mode,

    /// Answer 400 unauthorized_client, as some releases do, where a client has no application user.
    #[arg(long)]
    name_missing_user: bool,

    /// Address of the control API; port 0 takes a free one. Without it there is no control API.
    #[arg(long, value_name = "ADDRESS")]
    control: Option<SocketAddr>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// Another token; older ones stay valid until their own expiry.
    AlwaysNew,
    /// The same token, and its expiry moves to a full lifetime from now.
    ReuseSlide,
    /// The same token, and expires_in counts down.
    ReuseRemaining,
}

impl From<Mode> for TokenMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::AlwaysNew => Self::AlwaysNew,
            Mode::ReuseSlide => Self::ReuseSlide,
            Mode::ReuseRemaining => Self::ReuseRemaining,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            // Standard error may be closed; there is nobody else to tell.
            let _ = writeln!(std::io::stderr(), "error: {sentence}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let clients = clients(&arguments)?;
    let control_at = arguments.control;
    let ca_file = arguments.ca_file.clone();
    let listen = arguments.listen;
    let simulator = Simulator::start_with(options(arguments)?)
        .await
        .map_err(|error| format!("failed to start on {listen}: {error}"))?;
    for client in clients {
        simulator.add_client(client);
    }
    if let (Some(file), Some(pem)) = (ca_file, simulator.ca_pem()) {
        fs::write(&file, pem)
            .map_err(|error| format!("failed to write {}: {error}", file.display()))?;
    }
    serve(Arc::new(simulator), control_at).await
}

/// Announces the origins and stays until a signal comes.
async fn serve(simulator: Arc<Simulator>, control_at: Option<SocketAddr>) -> Result<(), String> {
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| format!("failed to await SIGINT: {error}"))?;
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| format!("failed to await SIGTERM: {error}"))?;
    announce("simulator", &simulator.origin())?;
    if let Some(address) = control_at {
        let failed = |error| format!("failed to serve the control API on {address}: {error}");
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        announce(
            "control",
            &format!("http://{}", listener.local_addr().map_err(failed)?),
        )?;
        let router = control::router(Arc::clone(&simulator));
        tokio::spawn(async move { axum::serve(listener, router).await });
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    simulator.go_down().await;
    Ok(())
}

/// One line on standard output, at once, for the script that waits for it.
fn announce(what: &str, origin: &str) -> Result<(), String> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{what} {origin}")
        .and_then(|()| output.flush())
        .map_err(|error| format!("failed to write to standard output: {error}"))
}

fn options(arguments: Arguments) -> Result<Options, String> {
    let tls = match (arguments.tls, arguments.tls_cert, arguments.tls_key) {
        (true, _, _) => Tls::Generated,
        (false, Some(certificate), Some(key)) => Tls::Given(Identity {
            certificate_pem: read(&certificate)?,
            key_pem: read(&key)?,
        }),
        (false, _, _) => Tls::Off,
    };
    let client_certificates = match arguments.client_ca {
        Some(_) if matches!(tls, Tls::Off) => {
            return Err("--client-ca needs --tls or --tls-cert".to_owned());
        }
        Some(file) => ClientCertificates::Given(read(&file)?),
        None => ClientCertificates::NotAsked,
    };
    Ok(Options {
        listen: arguments.listen,
        tls,
        client_certificates,
        host_names: arguments.host_name,
        mode: arguments.mode.into(),
        missing_user: if arguments.name_missing_user {
            MissingUser::UnauthorizedClient
        } else {
            MissingUser::AccessDenied
        },
        ..Options::default()
    })
}

fn clients(arguments: &Arguments) -> Result<Vec<Client>, String> {
    let lifetime = arguments.lifetime;
    let mut clients = Vec::new();
    for argument in &arguments.client {
        let (id, secret) = id_and_secret(argument)?;
        clients.push(Client::new(id, secret).with_lifetime(lifetime));
    }
    if let Some(file) = &arguments.client_file {
        let listed: Vec<ClientSettings> = serde_json::from_str(&read(file)?)
            .map_err(|error| format!("{} is not a list of clients: {error}", file.display()))?;
        for settings in listed {
            let (Some(id), Some(secret)) = (&settings.id, &settings.secret) else {
                return Err(format!(
                    "a client in {} lacks its id or secret",
                    file.display()
                ));
            };
            let mut client = Client::new(id, secret).with_lifetime(lifetime);
            settings.apply(&mut client);
            clients.push(client);
        }
    }
    Ok(clients)
}

fn read(file: &PathBuf) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("failed to read {}: {error}", file.display()))
}

/// The secret may hold colons, the id may not, as in HTTP Basic. Not clap's work, for clap repeats a bad
/// value, and this one may be a secret.
fn id_and_secret(argument: &str) -> Result<(&str, &str), String> {
    argument
        .split_once(':')
        .filter(|(id, secret)| !id.is_empty() && !secret.is_empty())
        .ok_or_else(|| "--client takes ID:SECRET, neither of them empty".to_owned())
}
