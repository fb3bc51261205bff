//! The way to the Kubernetes API: the kubeconfig, or the cluster that this runs in.

use std::time::Duration;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Connects with a context of the kubeconfig (`KUBECONFIG`, else the default file), its current one
/// unless another is named, or inside a cluster as the pod's ServiceAccount. The error is a sentence
/// for a person.
pub async fn connect(context: Option<&str>) -> Result<Client, String> {
    let mut config = match Kubeconfig::read() {
        Ok(mut kubeconfig) => {
            if let Some(context) = context {
                kubeconfig.current_context = Some(context.to_owned());
            }
            from_kubeconfig(kubeconfig).await?
        }
        Err(no_file) => Config::incluster().map_err(|no_cluster| {
            format!(
                "no way to the Kubernetes API: {no_file}, and not inside a cluster either \
                 ({no_cluster}); set KUBECONFIG, or run inside a cluster"
            )
        })?,
    };
    // Our own back-off and waits are the only ones: kube would repeat a refused write up to 15
    // times by itself.
    config.default_retry = false;
    // A list or watch on a connection that died silently ends, and begins anew. The API server
    // itself ends a watch after 290 seconds, as kube asks it to.
    config.read_timeout = Some(Duration::from_secs(320));
    config.reset_reader_on_write = true;
    let plugin = config.auth_info.exec.as_ref();
    let plugin = plugin.and_then(|exec| exec.command.clone());
    Client::try_from(config).map_err(|error| match plugin {
        Some(plugin) => format!(
            "the credential plugin {plugin:?} of the kubeconfig gave no credentials: {error}; install \
             it, or choose another context"
        ),
        None => format!("cannot set up the Kubernetes client: {error}"),
    })
}

async fn from_kubeconfig(kubeconfig: Kubeconfig) -> Result<Config, String> {
    let proxy = proxy_of(&kubeconfig);
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| {
            format!("the kubeconfig cannot be used: {error}; correct it or KUBECONFIG")
        })?;
    // kube also takes HTTPS_PROXY, which is there for the instances and not for the API server.
    config.proxy_url = match proxy {
        Some(url) => Some(url.parse().map_err(|error| {
            format!("the proxy-url in the kubeconfig is not a URL: {error}; correct it")
        })?),
        None => None,
    };
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
