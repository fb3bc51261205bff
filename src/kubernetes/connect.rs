//! The way to the Kubernetes API: the kubeconfig, or the cluster that this runs in.
//!
//! A kubeconfig and what its plugins print are secrets, and the errors about them quote them: the
//! sentences here are our own, of names and places only.

use std::{
    env, fs, io,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Request, Uri, header::AUTHORIZATION};
use kube::{
    Client, Config, Error,
    client::{AuthError, Body, ClientBuilder},
    config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError, LoadDataError},
};
use secrecy::{ExposeSecret as _, SecretString};
use tower::{
    BoxError,
    util::{MapErrLayer, MapRequestLayer},
};

use crate::redact::one_line;

/// Connects with a context of the kubeconfig (`KUBECONFIG`, else the default file), its current one
/// unless another is named, or inside a cluster as the pod's ServiceAccount. The error is a sentence
/// for a person, and so is that of a request without an answer.
pub async fn connect(context: Option<&str>) -> Result<Client, String> {
    client(timed(configuration(context).await?))
}

/// Connects as [`connect`] does without a context, and a second time for requests each of which its
/// caller gives up in time: a timeout on every read costs a system call and two wakes each time.
pub async fn connect_twice() -> Result<(Client, Client), String> {
    let config = configuration(None).await?;
    Ok((client(timed(config.clone()))?, client(config)?))
}

/// A list or watch on a connection that died silently ends, and begins anew. The API server itself
/// ends a watch after 290 seconds, as kube asks it to.
fn timed(mut config: Config) -> Config {
    config.read_timeout = Some(Duration::from_secs(320));
    config.reset_reader_on_write = true;
    config
}

async fn configuration(context: Option<&str>) -> Result<Config, String> {
    let files = files();
    let mut config = match read(&files)? {
        Some(mut kubeconfig) => {
            if let Some(context) = context {
                kubeconfig.current_context = Some(context.to_owned());
            }
            from_kubeconfig(kubeconfig).await?
        }
        None => in_cluster(context, &files)?,
    };
    // Our own back-off and waits are the only ones: kube would repeat a refused write up to 15
    // times by itself.
    config.default_retry = false;
    Ok(config)
}

/// The files in which kubectl looks for the kubeconfig.
fn files() -> Vec<PathBuf> {
    let listed = env::var_os("KUBECONFIG").unwrap_or_default();
    let mut files: Vec<_> = env::split_paths(&listed).collect();
    files.retain(|file| !file.as_os_str().is_empty());
    if files.is_empty() {
        files.extend(env::home_dir().map(|home| home.join(".kube").join("config")));
    }
    files
}

/// Merges those of the files that exist, as kubectl does; `None` where none does.
fn read(files: &[PathBuf]) -> Result<Option<Kubeconfig>, String> {
    let mut merged: Option<Kubeconfig> = None;
    for file in files {
        let read = match Kubeconfig::read_from(file) {
            Err(KubeconfigError::ReadConfig(error, _))
                if error.kind() == io::ErrorKind::NotFound =>
            {
                continue;
            }
            read => read,
        };
        let read = read.and_then(|read| merged.take().unwrap_or_default().merge(read));
        merged = Some(read.map_err(|error| {
            let fault = fault(&error);
            format!("the kubeconfig {file:?} {fault}; correct it, or set KUBECONFIG to another")
        })?);
    }
    Ok(merged)
}

fn in_cluster(context: Option<&str>, files: &[PathBuf]) -> Result<Config, String> {
    let looked = format!("there is no kubeconfig (looked for {files:?})");
    match context {
        Some(context) => Err(format!(
            "no context {context:?}: {looked}; set KUBECONFIG to the file that has it"
        )),
        None => Config::incluster().map_err(|no_cluster| {
            format!(
                "no way to the Kubernetes API: {looked}, and this is not inside a cluster either \
                 ({no_cluster}); set KUBECONFIG, or run inside a cluster"
            )
        }),
    }
}

async fn from_kubeconfig(kubeconfig: Kubeconfig) -> Result<Config, String> {
    let proxy = proxy_of(&kubeconfig);
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| unusable(&error))?;
    // kube also takes HTTPS_PROXY, which is there for the instances and not for the API server.
    config.proxy_url = match proxy {
        Some(url) => Some(url.parse().map_err(|error| {
            format!("the proxy-url in the kubeconfig is not a URL: {error}; correct it")
        })?),
        None => None,
    };
    if let Some(token) = &config.auth_info.token {
        let token = token.expose_secret().trim_end_matches(['\r', '\n']);
        bearer(token).ok_or(
            "the token in the kubeconfig holds a line break or another character that cannot be \
             sent; correct it, or log in again",
        )?;
        config.auth_info.token = Some(SecretString::from(token));
    }
    Ok(config)
}

/// `proxy-url` of the current context's cluster.
fn proxy_of(kubeconfig: &Kubeconfig) -> Option<String> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|c| c.name == *current)?;
    let cluster = &context.context.as_ref()?.cluster;
    let cluster = kubeconfig.clusters.iter().find(|c| c.name == *cluster)?;
    let proxy = cluster.cluster.as_ref()?.proxy_url.clone()?;
    Some(proxy).filter(|proxy| !proxy.is_empty())
}

fn client(mut config: Config) -> Result<Client, String> {
    let way = Way::of(&config);
    let token = token_file(&mut config.auth_info)?;
    let builder = match unless_it_panics(|| ClientBuilder::try_from(config)) {
        Some(Ok(builder)) => builder,
        Some(Err(error)) => return Err(way.no_client(&error)),
        None => return Err(way.no_credentials(None)),
    };
    // The error itself goes no further, as a plugin's quotes what it printed.
    let said = MapErrLayer::new(move |error: BoxError| BoxError::from(way.no_answer(&*error)));
    let builder = builder.with_layer(&said);
    Ok(match token {
        Some(token) => {
            let signed = MapRequestLayer::new(move |request| token.sign(request));
            builder.with_layer(&signed).build()
        }
        None => builder.build(),
    })
}

/// kube panics over a plugin's token that cannot be sent, and shows it to nobody before. The hook
/// would print the panic.
fn unless_it_panics<T>(make: impl FnOnce() -> T) -> Option<T> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let made = panic::catch_unwind(AssertUnwindSafe(make));
    panic::set_hook(hook);
    made.ok()
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The token in a file that somebody else renews. kube sends the line break at its end along, which
/// no server sees; kubectl does not.
#[derive(Clone)]
struct TokenFile {
    file: PathBuf,
    last: Arc<Mutex<HeaderValue>>,
}

/// Takes `tokenFile` out, where kube would use it.
fn token_file(auth: &mut AuthInfo) -> Result<Option<TokenFile>, String> {
    let basic = auth.username.is_some() && auth.password.is_some();
    if auth.auth_provider.is_some() || basic || auth.token.is_some() {
        return Ok(None);
    }
    let Some(file) = auth.token_file.take() else {
        return Ok(None);
    };
    // It goes before a plugin.
    auth.exec = None;
    let file = PathBuf::from(file);
    let token = fs::read_to_string(&file).map_err(|error| {
        format!("the token file {file:?} cannot be read: {error}; correct tokenFile, or log in")
    })?;
    let last = bearer(token.trim()).ok_or_else(|| {
        format!("the token file {file:?} holds no token that can be sent; log in again")
    })?;
    let last = Arc::new(Mutex::new(last));
    Ok(Some(TokenFile { file, last }))
}

impl TokenFile {
    fn sign(&self, mut request: Request<Body>) -> Request<Body> {
        let read = fs::read_to_string(&self.file).ok();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = read.and_then(|token| bearer(token.trim())) {
            *last = token;
        }
        request.headers_mut().insert(AUTHORIZATION, last.clone());
        request
    }
}

/// What the sentences name.
#[derive(Clone)]
struct Way {
    server: String,
    proxy: Option<String>,
    plugin: Option<String>,
}

impl Way {
    fn of(config: &Config) -> Self {
        let exec = config.auth_info.exec.as_ref();
        Self {
            server: address(&config.cluster_url),
            proxy: config.proxy_url.as_ref().map(address),
            plugin: exec.and_then(|exec| exec.command.clone()),
        }
    }

    fn no_client(&self, error: &Error) -> String {
        match error {
            Error::Auth(error) => self.no_credentials(Some(error)),
            Error::InferKubeconfig(error) => unusable(error),
            Error::ProxyProtocolUnsupported { .. } => {
                "the proxy-url in the kubeconfig begins with none of http://, https:// and \
                 socks5://; correct it"
                    .to_owned()
            }
            Error::RustlsTls(_) => "the certificates or the key in the kubeconfig cannot be used; \
                                    check those of the context's user and cluster, or log in again"
                .to_owned(),
            _ => "the kubeconfig cannot be used; check the server and the user of the context"
                .to_owned(),
        }
    }

    /// `None` stands for a token that cannot be sent.
    fn no_credentials(&self, error: Option<&AuthError>) -> String {
        let Some(plugin) = &self.plugin else {
            return "the user of the kubeconfig's context has no credentials that can be sent; log \
                    in again, or choose another context"
                .to_owned();
        };
        let (happened, next) = match error {
            Some(AuthError::AuthExecStart(error)) => {
                (format!("cannot be run ({error})"), "install it")
            }
            Some(AuthError::AuthExecRun { out, .. }) => (
                format!("failed ({})", out.status),
                "run it by hand to see why",
            ),
            None | Some(AuthError::InvalidBearerToken(_)) => (
                "gave a token with a line break or another character that cannot be sent"
                    .to_owned(),
                "run it by hand to see its answer",
            ),
            Some(_) => (
                "gave no ExecCredential that can be read".to_owned(),
                "run it by hand to see its answer",
            ),
        };
        format!(
            "the credential plugin {plugin:?} of the kubeconfig {happened}; {next}, or choose \
             another context"
        )
    }

    fn no_answer(&self, error: &(dyn std::error::Error + 'static)) -> String {
        if let Some(error) = error.downcast_ref::<AuthError>() {
            return self.no_credentials(Some(error));
        }
        let mut cause = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let cause = one_line(&cause.to_string(), 200);
        let (through, check) = match &self.proxy {
            Some(proxy) => (format!(" through the proxy {proxy}"), ", its proxy-url"),
            None => (String::new(), ""),
        };
        format!(
            "the Kubernetes API at {} cannot be reached{through}: {cause}; check that server{check} \
             and its certificate-authority in the kubeconfig, or choose another context",
            self.server
        )
    }
}

/// Without user and password.
fn address(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or("http");
    let host = url.host().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

fn unusable(error: &KubeconfigError) -> String {
    format!(
        "the kubeconfig {}; correct it, set KUBECONFIG to another or choose another context",
        fault(error)
    )
}

/// What is wrong with a kubeconfig, without a word of what is in it except for names.
fn fault(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => match error.location() {
            Some(at) => format!(
                "cannot be read from line {}, column {} on",
                at.line(),
                at.column()
            ),
            None => "is no kubeconfig".to_owned(),
        },
        KubeconfigError::ReadConfig(error, _) => format!("cannot be read ({error})"),
        KubeconfigError::CurrentContextNotSet => "has no current-context".to_owned(),
        KubeconfigError::LoadContext(name) => format!("has no context {name:?}"),
        KubeconfigError::LoadClusterOfContext(name) => {
            format!("has no cluster {name:?}, which its context names")
        }
        KubeconfigError::MissingClusterUrl => "names no server of the context's cluster".to_owned(),
        KubeconfigError::ParseClusterUrl(error) => {
            format!("names a server that is not a URL ({error})")
        }
        KubeconfigError::ParseProxyUrl(error) => {
            format!("or HTTPS_PROXY names a proxy that is not a URL ({error})")
        }
        KubeconfigError::LoadCertificateAuthority(error) => data("certificate-authority", error),
        KubeconfigError::LoadClientCertificate(error) => data("client-certificate", error),
        KubeconfigError::LoadClientKey(error) => data("client-key", error),
        KubeconfigError::ParseCertificates(_) => {
            "has a certificate-authority that is not PEM".to_owned()
        }
        KubeconfigError::KindMismatch | KubeconfigError::ApiVersionMismatch => {
            "has another kind or apiVersion than those before it in KUBECONFIG".to_owned()
        }
        _ => "cannot be used".to_owned(),
    }
}

fn data(field: &str, error: &LoadDataError) -> String {
    match error {
        LoadDataError::ReadFile(error, file) => {
            format!("names {field} {file:?}, which cannot be read ({error})")
        }
        LoadDataError::DecodeBase64(_) => format!("has {field}-data that is not base64"),
        LoadDataError::NoBase64DataOrFile => format!("has no {field}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_is_read_anew_and_its_last_token_stays_while_it_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "first\n").unwrap();
        let mut auth = AuthInfo {
            token_file: Some(file.display().to_string()),
            ..AuthInfo::default()
        };
        let token = token_file(&mut auth).unwrap().unwrap();
        let sent = || token.sign(Request::new(Body::empty())).headers()[AUTHORIZATION].clone();
        assert_eq!(sent(), "Bearer first");
        fs::write(&file, "second\r\n").unwrap();
        assert_eq!(sent(), "Bearer second");
        fs::remove_file(&file).unwrap();
        assert_eq!(sent(), "Bearer second");
    }
}
