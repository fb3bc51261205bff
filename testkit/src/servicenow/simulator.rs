//! The running simulator: starting, stopping, and where it is.

use std::{io, net::SocketAddr};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Mutex, oneshot},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{
    fault::Faults,
    instance::{Instance, Shared},
    journal::Journal,
    options::{Options, Tls},
    routes,
    server::serve,
    tls::{self, Authority, Identity},
    tokens::Tokens,
};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A running ServiceNow instance. Dropping it stops it.
pub struct Simulator {
    pub(super) instance: Shared,
    origin: String,
    address: SocketAddr,
    authority: Option<Authority>,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    port: Mutex<Port>,
}

/// What the instance does with its port: one of the two, except in the moment of changing.
struct Port {
    server: Option<Server>,
    /// Bound and not listening: connections are refused, and nobody else takes the port meanwhile.
    reserved: Option<TcpSocket>,
}

/// The server's task; dropping it stops the server.
struct Server {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Simulator {
    /// Starts plain HTTP on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// Where no port can be had, for a test cannot go on without it.
    pub async fn start() -> Self {
        Self::start_with(Options::default())
            .await
            .expect("the simulator should get a port of 127.0.0.1")
    }

    /// Starts HTTPS on a free port of 127.0.0.1 under an authority of its own, [`Simulator::ca_pem`].
    ///
    /// # Panics
    /// Where no port can be had, for a test cannot go on without it.
    pub async fn start_tls() -> Self {
        let options = Options {
            tls: Tls::Generated,
            ..Options::default()
        };
        Self::start_with(options)
            .await
            .expect("the simulator should get a port of 127.0.0.1")
    }

    /// Starts as `options` say.
    ///
    /// # Errors
    /// Where the address cannot be had or a certificate or key is not usable.
    pub async fn start_with(options: Options) -> io::Result<Self> {
        let (authority, acceptor) = tls::prepare(&options)?;
        let listener = bound(options.listen)?.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let origin = origin(&options, address);
        let instance = Shared::new(Instance {
            clock: options.clock,
            clients: Default::default(),
            users: Default::default(),
            tokens: Tokens::default(),
            mode: options.mode,
            property_enabled: true,
            missing_user: options.missing_user,
            faults: Faults::default(),
            table_fault: None,
            journal: Journal::default(),
        });
        let router = routes::router(instance.clone(), acceptor.is_some());
        let server = Server::spawn(listener, acceptor.clone(), router.clone());
        let port = Mutex::new(Port {
            server: Some(server),
            reserved: None,
        });
        Ok(Self {
            instance,
            origin,
            address,
            authority,
            acceptor,
            router,
            port,
        })
    }

    /// Scheme, host and port, such as `http://127.0.0.1:40123` or `https://localhost:40123`.
    pub fn origin(&self) -> String {
        self.origin.clone()
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The generated authority's certificate.
    pub fn ca_pem(&self) -> Option<&str> {
        self.authority.as_ref().map(Authority::pem)
    }

    /// A client certificate of the generated authority, or none where there is no such authority.
    ///
    /// # Errors
    /// Where the certificate cannot be made.
    pub fn issue_client_certificate(&self, common_name: &str) -> io::Result<Option<Identity>> {
        self.authority
            .as_ref()
            .map(|authority| authority.issue_for_client(common_name))
            .transpose()
    }

    /// Closes the port and every connection: from now on connections are refused. The instance keeps
    /// what it knows.
    ///
    /// # Panics
    /// Where the system does not let the port be held.
    pub async fn go_down(&self) {
        let mut port = self.port.lock().await;
        if let Some(server) = port.server.take() {
            // Bound before the other is closed: nobody else can take the port in between.
            let reserved = bound(self.address).expect("the simulator should keep its port");
            server.stop().await;
            port.reserved = Some(reserved);
        }
    }

    /// Listens again on the same port.
    ///
    /// # Panics
    /// Where the port cannot be listened on again.
    pub async fn come_up(&self) {
        let mut port = self.port.lock().await;
        if let Some(socket) = port.reserved.take() {
            let listener = socket
                .listen(BACKLOG)
                .expect("the simulator should listen on the port it kept");
            port.server = Some(Server::spawn(
                listener,
                self.acceptor.clone(),
                self.router.clone(),
            ));
        }
    }
}

impl Server {
    fn spawn(listener: TcpListener, acceptor: Option<TlsAcceptor>, router: Router) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self {
            stop,
            task: tokio::spawn(serve(listener, acceptor, router, stopped)),
        }
    }

    /// Returns when the port and every connection are closed.
    async fn stop(self) {
        // The task may have ended with its runtime; then there is nobody to tell and nothing open.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Connections of the time before may still linger on the port.
    socket.set_reuseaddr(true)?;
    // A second socket may hold the port, so that it is never free.
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// A generated certificate also names `127.0.0.1`, but real instances have names, so HTTPS has one.
fn origin(options: &Options, address: SocketAddr) -> String {
    let port = address.port();
    match (options.host_names.first(), &options.tls) {
        (Some(host), Tls::Off) => format!("http://{host}:{port}"),
        (Some(host), _) => format!("https://{host}:{port}"),
        (None, Tls::Off) if address.ip().is_unspecified() => format!("http://localhost:{port}"),
        (None, Tls::Off) => format!("http://{address}"),
        (None, _) => format!("https://localhost:{port}"),
    }
}
