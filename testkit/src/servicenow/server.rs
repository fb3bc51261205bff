//! Accepting connections. Not `axum::serve`: a reset and a stop in the middle of an answer need the socket.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// The client certificate that was shown for the connection, as DER, in each request's extensions.
#[derive(Clone, Default)]
pub(super) struct ClientCertificate(pub(super) Option<Vec<u8>>);

/// The connection a request came over, in its extensions.
#[derive(Clone, Default)]
pub(super) struct Wire(Arc<Notify>);

impl Wire {
    /// Resets the TCP connection. Never returns, for there is nobody left to answer.
    pub(super) async fn reset<T>(&self) -> T {
        self.0.notify_one();
        std::future::pending().await
    }
}

/// Serves until `stop` resolves; then the port is closed and so is every connection.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    mut stop: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    connections.spawn(converse(tcp, tls.clone(), router.clone()));
                }
                // No descriptors left, for example: they come back when connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// A task of its own, so that a client which stops in the handshake delays nobody.
async fn converse(tcp: TcpStream, tls: Option<TlsAcceptor>, router: Router) {
    match tls {
        None => exchange(tcp, ClientCertificate::default(), router).await,
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(tcp).await {
                let shown = stream.get_ref().1.peer_certificates();
                let shown = shown.and_then(|chain| chain.first());
                let shown = ClientCertificate(shown.map(|shown| shown.to_vec()));
                exchange(stream, shown, router).await;
            }
        }
    }
}

async fn exchange<S: Socket>(stream: S, shown: ClientCertificate, router: Router) {
    let wire = Wire::default();
    let router = router.layer(Extension(wire.clone()));
    let service = TowerToHyperService::new(router.layer(Extension(shown)));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // An error here is the client's going away, or a fault's cutting the answer short.
        _ = &mut connection => {}
        () = wire.0.notified() => {
            let stream = connection.into_parts().io.into_inner();
            // Without the lingering, closing sends RST; should it fail, the client sees a plain close.
            let _ = stream.tcp().set_zero_linger();
        }
    }
}

/// A stream whose TCP socket can be reached.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn tcp(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Socket for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}
