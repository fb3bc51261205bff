//! A request that is prepared before its moment: its connection is open, and nothing is sent.
//!
//! The HTTP client connects only when there is a request. So the request is begun, and the layer
//! around its connector keeps the connection back, once it is made, until the request may go.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle};
use tower::{BoxError, Layer, Service, layer::layer_fn};

use super::answer::RawAnswer;
use crate::decide::Failure;

tokio::task_local! {
    /// Becomes true when the request of this task may go.
    static MAY_GO: watch::Receiver<bool>;
}

/// A request whose connection is being opened. Dropping it gives the connection up.
pub struct Prepared {
    begun: Instant,
    may_go: watch::Sender<bool>,
    answer: JoinHandle<Result<RawAnswer, Failure>>,
}

impl Prepared {
    /// Sends it; `None` where it came to nothing before its moment, so that it has to be sent the
    /// ordinary way.
    pub async fn send(mut self) -> Option<Result<RawAnswer, Failure>> {
        if self.is_over() {
            return None;
        }
        let _ = self.may_go.send(true);
        (&mut self.answer).await.ok()
    }

    /// Its connection could not be made, or was given up; or its moment has passed, and the other
    /// side may have given it up.
    pub fn is_over(&self) -> bool {
        self.answer.is_finished() || self.begun.elapsed() > HeldBack::LONGEST
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

/// Begins a request in a task of its own, which may not go yet.
pub(super) fn hold_back(
    request: impl Future<Output = Result<RawAnswer, Failure>> + Send + 'static,
) -> Prepared {
    let (may_go, wait) = watch::channel(false);
    Prepared {
        begun: Instant::now(),
        may_go,
        answer: tokio::spawn(MAY_GO.scope(wait, request)),
    }
}

/// A connector that gives its connection out when the request of its task may go.
#[derive(Clone)]
pub(super) struct HeldBack<C>(C);

impl HeldBack<()> {
    /// A request is held back for less than this.
    pub(super) const LONGEST: Duration = Duration::from_secs(5);

    pub(super) fn layer<C>() -> impl Layer<C, Service = HeldBack<C>> + Clone {
        layer_fn(HeldBack)
    }
}

impl<C, R> Service<R> for HeldBack<C>
where
    C: Service<R, Error = BoxError>,
    C::Future: Send + 'static,
    C::Response: Send,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, destination: R) -> Self::Future {
        let connecting = self.0.call(destination);
        let may_go = MAY_GO.try_with(Clone::clone);
        Box::pin(async move {
            let connection = connecting.await?;
            may_go?.wait_for(|may_go| *may_go).await?;
            Ok(connection)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, sync::Arc};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use zeroize::Zeroizing;

    use crate::{
        api::{ClientAuthentication, Instance},
        servicenow::{Endpoint, SharingKey},
    };

    fn key(port: u16) -> Arc<SharingKey> {
        let instance = format!("http://127.0.0.1:{port}");
        Arc::new(SharingKey::client_credentials(
            &Instance::parse(&instance).unwrap(),
            ClientAuthentication::Basic,
            Zeroizing::new("id".to_owned()),
            Zeroizing::new("secret".to_owned()),
            &[],
        ))
    }

    fn endpoint() -> Endpoint {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Endpoint::new(std::time::Duration::from_secs(15)).unwrap()
    }

    #[tokio::test]
    async fn a_prepared_request_has_its_connection_and_sends_nothing_before_its_moment() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let key = key(listener.local_addr().unwrap().port());
        let prepared = endpoint().prepare(key);
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut byte = [0];
        // Everything else has its turn, again and again, before this says that nothing has come.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let nothing = connection.try_read(&mut byte).map_err(|error| error.kind());
        assert_eq!(nothing, Err(ErrorKind::WouldBlock));
        let instance = async {
            let mut request = Vec::new();
            while !request.ends_with(b"grant_type=client_credentials") {
                request.push(connection.read_u8().await.unwrap());
            }
            let body = r#"{"access_token":"t","token_type":"Bearer","expires_in":9}"#;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
            let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
            connection.write_all(answer.as_bytes()).await.unwrap();
        };
        let (answer, ()) = tokio::join!(prepared.send(), instance);
        assert_eq!(answer.unwrap().unwrap().status, 200);
    }

    #[tokio::test]
    async fn a_connection_whose_moment_has_passed_is_not_used() {
        let mut prepared = super::hold_back(std::future::pending());
        assert!(!prepared.is_over());
        prepared.begun -= super::HeldBack::LONGEST;
        assert!(prepared.send().await.is_none());
    }

    #[tokio::test]
    async fn what_could_not_be_prepared_is_left_to_an_ordinary_request() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let key = key(closed.local_addr().unwrap().port());
        drop(closed);
        let mut prepared = endpoint().prepare(key);
        let refused = (&mut prepared.answer).await.unwrap();
        assert!(refused.is_err());
        assert!(prepared.is_over());
    }
}
