//! A proxy between one program and the API server, which a test drives: it writes down what the
//! program writes, stops the world right before or after one of these writes, shows the past, holds
//! watches back, breaks them, and answers writes with errors.
//!
//! It speaks plain HTTP on the loopback interface and passes everything on with the credentials of
//! the program's own kubeconfig, so the program's rights are what they were.

use std::{
    collections::HashSet,
    fmt,
    future::pending,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt as _, stream};
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use super::{certificates::write, kubeconfig::client_without_retries};

/// More than any object of a test.
const LARGEST_BODY: usize = 16 << 20;

/// A running proxy. Dropping it ends it, and every connection through it.
pub struct ApiProxy {
    shared: Arc<Shared>,
    kubeconfig: PathBuf,
    server: JoinHandle<()>,
    _folder: TempDir,
}

/// A write, by what stays the same from one run of a scenario to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Write {
    /// `POST`, `PUT`, `PATCH` or `DELETE`.
    pub verb: String,
    /// The resource's plural, with the subresource after a slash.
    pub resource: String,
    /// The object's name; empty for an event, whose name is made up.
    pub name: String,
    /// The how-manieth of its kind, from 1.
    pub occurrence: usize,
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            verb,
            resource,
            name,
            occurrence,
        } = self;
        write!(f, "{verb} {resource} {name} #{occurrence}")
    }
}

/// Where a write is when the world stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// It has not reached the API server.
    Before,
    /// It is done, and nobody has heard of it.
    Unanswered,
    /// It is done and answered.
    Answered,
}

/// What the proxy does with what comes.
#[derive(Default)]
struct Setting {
    writes: Vec<Write>,
    stop_at: Option<(Write, Moment)>,
    hold_watches_at: Option<Write>,
    /// Lists show the state at this resourceVersion.
    past: Option<String>,
    /// Paths whose next watch is answered that its history is gone.
    expired: HashSet<String>,
    watched: HashSet<String>,
    /// Answers for writes of these resources, instead of passing them on, as often as they stand here.
    refusals: Vec<(String, Refusal)>,
}

/// An error that the API server may answer a write with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 409: the object has changed meanwhile.
    Conflict,
    /// 429, with this `Retry-After` in seconds where there is one.
    TooManyRequests(Option<u32>),
    /// 500 with a timeout, after the write was carried out.
    TimeoutAfterTheWrite,
}

/// What those who wait listen to.
#[derive(Clone, Copy, Default)]
struct Course {
    /// Nothing is passed on or answered any more.
    stopped: bool,
    /// Events of watches are held back.
    watches_held: bool,
    /// Watches that began under a lower number end.
    watches_broken: usize,
}

struct Shared {
    upstream: Client,
    setting: Mutex<Setting>,
    course: watch::Sender<Course>,
}

impl Shared {
    fn setting(&self) -> MutexGuard<'_, Setting> {
        self.setting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ApiProxy {
    /// A proxy for whoever uses this kubeconfig.
    ///
    /// # Panics
    ///
    /// If the kubeconfig cannot be used or there is no free port.
    pub async fn start(kubeconfig: &Path) -> Self {
        let upstream = client_without_retries(kubeconfig)
            .await
            .unwrap_or_else(|error| panic!("the proxy cannot reach the API server: {error:?}"));
        let shared = Arc::new(Shared {
            upstream,
            setting: Mutex::default(),
            course: watch::Sender::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.unwrap_or_else(|error| panic!("no port for the proxy: {error}"));
        let address = listener.local_addr();
        let address = address.unwrap_or_else(|error| panic!("no port for the proxy: {error}"));
        let folder = tempfile::Builder::new().prefix("snowcred-proxy-").tempdir();
        let folder = folder.unwrap_or_else(|error| panic!("no folder for the proxy: {error}"));
        let kubeconfig = folder.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: proxy\n\
             clusters: [{{name: proxy, cluster: {{server: \"http://{address}\"}}}}]\n\
             users: [{{name: proxy, user: {{}}}}]\n\
             contexts: [{{name: proxy, context: {{cluster: proxy, user: proxy}}}}]\n"
        );
        write(&kubeconfig, &text).unwrap_or_else(|error| panic!("no kubeconfig: {error:?}"));
        let router = Router::new()
            .fallback(serve)
            .with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            // Ends with the proxy only.
            let _ = axum::serve(listener, router).await;
        });
        Self {
            shared,
            kubeconfig,
            server,
            _folder: folder,
        }
    }

    /// The kubeconfig that leads through the proxy.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The writes that came, the oldest first.
    pub fn writes(&self) -> Vec<Write> {
        self.shared.setting().writes.clone()
    }

    /// Stops the world at a write that is to come: nothing is passed on or answered from then on.
    pub fn stop_at(&self, write: Write, moment: Moment) {
        self.shared.setting().stop_at = Some((write, moment));
    }

    /// Waits until the world has stopped.
    pub async fn stopped(&self) {
        let mut course = self.shared.course.subscribe();
        until(&mut course, |course| course.stopped).await;
    }

    /// Lets the world go on. What was held stays without an answer.
    pub fn go_on(&self) {
        self.shared.setting().stop_at = None;
        self.shared.course.send_modify(|course| {
            course.stopped = false;
            course.watches_broken += 1;
        });
    }

    /// Shows lists as they were at this resourceVersion, or as they are.
    pub fn show_past(&self, resource_version: Option<String>) {
        self.shared.setting().past = resource_version;
    }

    /// Holds the events of watches back, or delivers them.
    pub fn hold_watches(&self, held: bool) {
        self.shared
            .course
            .send_modify(|course| course.watches_held = held);
    }

    /// Holds the events of watches back from the moment that this write comes.
    pub fn hold_watches_at(&self, write: Write) {
        self.shared.setting().hold_watches_at = Some(write);
    }

    /// Waits until watches are held back.
    pub async fn watches_held(&self) {
        let mut course = self.shared.course.subscribe();
        until(&mut course, |course| course.watches_held).await;
    }

    /// Ends every watch. Where the history is lost, the next watches are answered 410 (Gone), so that
    /// their owner has to list anew and never sees what lay between.
    pub fn break_watches(&self, history_lost: bool) {
        if history_lost {
            let mut setting = self.shared.setting();
            setting.expired = setting.watched.clone();
        }
        self.shared
            .course
            .send_modify(|course| course.watches_broken += 1);
    }

    /// Answers the next writes to this resource (such as `secrets` or
    /// `servicenowcredentials/status`) with these errors, one each.
    pub fn refuse(&self, resource: &str, refusals: &[Refusal]) {
        let resource = |refusal: &Refusal| (resource.to_owned(), *refusal);
        let mut setting = self.shared.setting();
        setting.refusals.extend(refusals.iter().map(resource));
    }

    /// How many announced errors have not been answered yet.
    pub fn refusals_left(&self) -> usize {
        self.shared.setting().refusals.len()
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let mut course = shared.course.subscribe();
    let stopped = || shared.course.borrow().stopped;
    if stopped() {
        return pending().await;
    }
    tokio::select! {
        response = answer(&shared, request) => if stopped() { pending().await } else { response },
        // Those who wait for an answer when the world stops never get one.
        () = until(&mut course, |course| course.stopped) => pending().await,
    }
}

async fn answer(shared: &Shared, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST_BODY).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    if parts.method == Method::GET {
        return read(shared, &parts.uri, &parts.headers).await;
    }
    let (write, refusal) = take_down(shared, &parts.method, &parts.uri, &body);
    match refusal {
        Some(Refusal::TimeoutAfterTheWrite) => {
            pass_on(shared, parts.method, &parts.uri, &parts.headers, body).await;
            return status(StatusCode::INTERNAL_SERVER_ERROR, "Timeout", None);
        }
        Some(Refusal::Conflict) => return status(StatusCode::CONFLICT, "Conflict", None),
        Some(Refusal::TooManyRequests(after)) => {
            return status(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", after);
        }
        None => {}
    }
    let hold = shared.setting().hold_watches_at.take_if(|at| *at == write);
    if hold.is_some() {
        shared
            .course
            .send_modify(|course| course.watches_held = true);
    }
    let stop = shared.setting().stop_at.clone();
    let moment = stop
        .filter(|(at, _)| *at == write)
        .map(|(_, moment)| moment);
    let stop = || shared.course.send_modify(|course| course.stopped = true);
    if moment == Some(Moment::Before) {
        stop();
        return pending().await;
    }
    let response = pass_on(shared, parts.method, &parts.uri, &parts.headers, body).await;
    match moment {
        Some(Moment::Unanswered) => {
            stop();
            pending().await
        }
        Some(Moment::Answered) => answered_then_stopped(shared, response),
        _ => response,
    }
}

/// The whole answer, and the end of everything once it is out.
fn answered_then_stopped(shared: &Shared, response: Response) -> Response {
    let stop = StopWhenDropped(shared.course.clone());
    response.map(|body| {
        Body::from_stream(body.into_data_stream().inspect(move |_| {
            // The stream owns it, and is dropped when the last piece is sent.
            let _ = &stop;
        }))
    })
}

struct StopWhenDropped(watch::Sender<Course>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.send_modify(|course| course.stopped = true);
    }
}

/// Counts a write, and says whether it is to be refused.
fn take_down(
    shared: &Shared,
    method: &Method,
    uri: &Uri,
    body: &Bytes,
) -> (Write, Option<Refusal>) {
    let (resource, name) = named(uri.path(), body);
    let mut setting = shared.setting();
    let mut write = Write {
        verb: method.to_string(),
        resource,
        name,
        occurrence: 1,
    };
    let alike = |one: &&Write| {
        (&one.verb, &one.resource, &one.name) == (&write.verb, &write.resource, &write.name)
    };
    write.occurrence += setting.writes.iter().filter(alike).count();
    setting.writes.push(write.clone());
    let refusal = setting
        .refusals
        .iter()
        .position(|(resource, _)| *resource == write.resource);
    let refusal = refusal.map(|at| setting.refusals.remove(at).1);
    (write, refusal)
}

/// Resource and name of `/api/v1/namespaces/NS/RESOURCE[/NAME[/SUBRESOURCE]]` and its like.
fn named(path: &str, body: &Bytes) -> (String, String) {
    let after = path
        .split_once("/namespaces/")
        .map_or("", |(_, after)| after);
    let mut words = after.split('/').skip(1);
    let resource = words.next().unwrap_or_default();
    let in_path = words.next().map(ToOwned::to_owned);
    let resource = match words.next() {
        Some(subresource) => format!("{resource}/{subresource}"),
        None => resource.to_owned(),
    };
    let in_body = || {
        let body: Value = serde_json::from_slice(body).ok()?;
        Some(body["metadata"]["name"].as_str()?.to_owned())
    };
    let name = match resource.as_str() {
        "events" => String::new(),
        _ => in_path.or_else(in_body).unwrap_or_default(),
    };
    (resource, name)
}

async fn read(shared: &Shared, uri: &Uri, headers: &HeaderMap) -> Response {
    let query = uri.query().unwrap_or_default();
    if query.split('&').any(|pair| pair == "watch=true") {
        return watch_on(shared, uri, headers).await;
    }
    let past = shared.setting().past.clone();
    let is_list = named(uri.path(), &Bytes::new()).1.is_empty();
    match past {
        Some(version) if is_list => {
            let kept = query
                .split('&')
                .filter(|pair| !pair.starts_with("resourceVersion") && !pair.is_empty());
            let mut pairs: Vec<_> = kept.map(ToOwned::to_owned).collect();
            pairs.push(format!(
                "resourceVersion={version}&resourceVersionMatch=Exact"
            ));
            let there = format!("{}?{}", uri.path(), pairs.join("&"));
            let there = there.parse().unwrap_or_else(|_| uri.clone());
            pass_on(shared, Method::GET, &there, headers, Bytes::new()).await
        }
        _ => pass_on(shared, Method::GET, uri, headers, Bytes::new()).await,
    }
}

async fn watch_on(shared: &Shared, uri: &Uri, headers: &HeaderMap) -> Response {
    let expired = {
        let mut setting = shared.setting();
        setting.watched.insert(uri.path().to_owned());
        setting.expired.remove(uri.path())
    };
    if expired {
        return status(StatusCode::GONE, "Expired", None);
    }
    let begun = shared.course.borrow().watches_broken;
    let response = pass_on(shared, Method::GET, uri, headers, Bytes::new()).await;
    let (parts, body) = response.into_parts();
    let events = body.into_data_stream();
    let course = shared.course.subscribe();
    let events = stream::unfold(
        (events, course),
        move |(mut events, mut course)| async move {
            let over = |course: &Course| course.watches_broken != begun;
            let held = course.clone();
            let event = tokio::select! {
                biased;
                () = until(&mut course, over) => None,
                event = unless_held(&mut events, held) => event,
            };
            Some((event?, (events, course)))
        },
    );
    Response::from_parts(parts, Body::from_stream(events))
}

async fn unless_held(
    events: &mut axum::body::BodyDataStream,
    mut course: watch::Receiver<Course>,
) -> Option<Result<Bytes, axum::Error>> {
    let flows = |course: &Course| !course.watches_held && !course.stopped;
    let event = events.next().await;
    until(&mut course, flows).await;
    event
}

async fn until(course: &mut watch::Receiver<Course>, holds: impl Fn(&Course) -> bool) {
    // An error says that the proxy is gone, and with it whoever waits here.
    let _ = course.wait_for(|course| holds(course)).await;
}

async fn pass_on(
    shared: &Shared,
    method: Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: Bytes,
) -> Response {
    let mut request = Request::new(kube::client::Body::from(body.to_vec()));
    *request.method_mut() = method;
    *request.uri_mut() = uri.clone();
    for (name, value) in headers {
        if ![
            header::HOST,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
        ]
        .contains(name)
        {
            request.headers_mut().insert(name, value.clone());
        }
    }
    match shared.upstream.send(request).await {
        Ok(response) => {
            let (mut parts, body) = response.into_parts();
            parts.headers.remove(header::TRANSFER_ENCODING);
            Response::from_parts(parts, Body::new(body))
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// An error as the API server words it.
fn status(code: StatusCode, reason: &str, retry_after: Option<u32>) -> Response {
    let mut body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": format!("{reason}, says the proxy"),
        "reason": reason,
        "code": code.as_u16(),
    });
    if let Some(seconds) = retry_after {
        body["details"] = json!({"retryAfterSeconds": seconds});
    }
    let mut response = (code, axum::Json(body)).into_response();
    if let Some(seconds) = retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
