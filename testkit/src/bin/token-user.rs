//! A workload as the README asks for one: it reads its token from a mounted file for each request.
#![allow(
    clippy::print_stdout,
    reason = "its lines on standard output are its log, as in every container"
)]

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr as _,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use jiff::Timestamp;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use testkit::servicenow::Clock;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsConnector;

/// Calls a Table API once in each interval with the token that a file holds at that moment, and prints a
/// line of JSON for each call. Ends on SIGTERM.
#[derive(Parser)]
struct Arguments {
    /// The folder that the Secret is mounted to, with the keys `token` and `expires_at`.
    #[arg(long, value_name = "FOLDER")]
    secret: PathBuf,
    /// Host of the instance, by name or address, at port 443.
    #[arg(long)]
    host: String,
    /// The authority of the instance's certificate (PEM).
    #[arg(long, value_name = "FILE")]
    ca_file: PathBuf,
    /// Seconds between two calls.
    #[arg(long, default_value = "1")]
    every: u64,
}

/// What one call may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", json!({"fatal": error.to_string()}));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> io::Result<()> {
    let connector = connector(&arguments.ca_file)?;
    let clock = Clock::system();
    // The first process of a container gets no signal that it does not ask for.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ticks = interval(Duration::from_secs(arguments.every));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => println!("{}", call(arguments, &connector, &clock).await),
            _ = terminate.recv() => return Ok(()),
        }
    }
}

fn connector(ca_file: &Path) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).map_err(io::Error::other)? {
        let certificate = certificate.map_err(io::Error::other)?;
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn call(arguments: &Arguments, connector: &TlsConnector, clock: &Clock) -> Value {
    let now = clock.now();
    let held = match Held::read(&arguments.secret) {
        Ok(held) => held,
        Err(error) => return json!({"at": now.to_string(), "error": error.to_string()}),
    };
    let answer = timeout(PATIENCE, status(&arguments.host, connector, &held.token)).await;
    let mut line = json!({
        "at": now.to_string(),
        "token": held.name(),
        "remaining": held.expires_at.duration_since(now).as_secs_f64(),
    });
    match answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(status) => line["status"] = status.into(),
        Err(error) => line["error"] = error.to_string().into(),
    }
    line
}

/// What the files hold at one moment.
struct Held {
    token: String,
    expires_at: Timestamp,
}

impl Held {
    /// The kubelet turns one link to bring all files of a Secret up to date at once. So it is followed
    /// once, for both files to be of the same time.
    fn read(folder: &Path) -> io::Result<Self> {
        let folder = fs::canonicalize(folder.join("..data"))?;
        let expires_at = fs::read_to_string(folder.join("expires_at"))?;
        Ok(Self {
            token: fs::read_to_string(folder.join("token"))?,
            expires_at: Timestamp::from_str(expires_at.trim()).map_err(io::Error::other)?,
        })
    }

    /// Tells one token from another in a log.
    fn name(&self) -> String {
        let digest = Sha256::digest(&self.token);
        digest[..4].iter().map(|b| format!("{b:02x}")).collect()
    }
}

async fn status(host: &str, connector: &TlsConnector, token: &str) -> io::Result<u16> {
    let stream = TcpStream::connect((host, 443)).await?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut stream = connector.connect(name, stream).await?;
    // HTTP/1.0, so that the answer ends with the connection (RFC 9112, section 9.3).
    let request = format!(
        "GET /api/now/table/incident?sysparm_limit=1 HTTP/1.0\r\nHost: {host}\r\n\
         Accept: application/json\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        // Servers close without a goodbye of TLS; the status line is there or not.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
        _ => {}
    }
    let status = answer.get(9..12).and_then(|code| str::from_utf8(code).ok());
    status
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
