//! Where the commands for people find their resources: the kubeconfig's context and namespace, as
//! kubectl has them.

use clap::Args;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Error,
    core::{Status, response::reason::NOT_FOUND},
    runtime::watcher,
};

use super::{CommandError, names};
use crate::{
    decide::Credential,
    kubernetes::{connect, watch},
};

/// Which cluster and which namespace.
#[derive(Args, Clone, Debug)]
pub(super) struct Reach {
    /// The namespace. Default: that of the kubeconfig's context.
    #[arg(short, long, value_parser = names::namespace)]
    pub(super) namespace: Option<String>,

    /// The kubeconfig's context. Default: its current one.
    #[arg(long)]
    context: Option<String>,
}

impl Reach {
    /// A client, and the namespace that was meant.
    pub(super) async fn connect(&self) -> Result<(Client, String), CommandError> {
        let client = client(self.context.as_deref()).await?;
        let default = client.default_namespace().to_owned();
        let namespace = self.namespace.clone().unwrap_or(default);
        Ok((client, namespace))
    }
}

/// A client for a context of the kubeconfig, or for its current one.
pub(super) async fn client(context: Option<&str>) -> Result<Client, CommandError> {
    connect(context).await.map_err(CommandError::failed)
}

/// Whether a call failed because there is no such resource.
pub(super) fn is_unknown(error: &Error, name: &str) -> bool {
    let Error::Api(status) = error else {
        return false;
    };
    let details = status.details.as_ref();
    status.code == 404 && details.is_some_and(|details| details.name == name)
}

/// There is no such resource, and how to see which there are.
pub(super) fn nobody(namespace: &str, name: &str) -> String {
    format!(
        "there is no ServiceNowCredential {name:?} in namespace {namespace:?}; see which there are \
         with: kubectl get servicenowcredentials --all-namespaces"
    )
}

/// Says that a namespace does not exist; nothing where it does, or where nobody may look.
pub(super) async fn unknown_namespace(client: &Client, namespace: &str) -> Option<CommandError> {
    let found = Api::<Namespace>::all(client.clone())
        .get_opt(namespace)
        .await;
    matches!(found, Ok(None)).then(|| {
        CommandError::failed(format!(
            "there is no namespace {namespace:?}; see which there are with: kubectl get namespaces"
        ))
    })
}

/// Reads one resource, if there is one of that name.
pub(super) async fn find(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<Credential>, CommandError> {
    match watch::resources(client.clone(), Some(namespace))
        .get(name)
        .await
    {
        Ok(object) => Ok(Some(watch::credential(object, |_| None))),
        Err(error) if is_unknown(&error, name) => Ok(None),
        Err(error) => Err(refused(&error)),
    }
}

/// Reads one resource.
pub(super) async fn read(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Credential, CommandError> {
    let found = find(client, namespace, name).await?;
    found.ok_or_else(|| CommandError::failed(nobody(namespace, name)))
}

/// What a failure of a watch means to the person who follows it; `None` where it passes.
pub(super) fn refused_watch(error: &watcher::Error) -> Option<CommandError> {
    let refused = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error,
        _ => return None,
    };
    matches!(refused, Error::Api(status) if [401, 403, 404].contains(&status.code))
        .then(|| self::refused(refused))
}

/// What a refused call means to the person who made it.
pub(super) fn refused(error: &Error) -> CommandError {
    CommandError::failed(match error {
        Error::Api(status) => refused_with(status),
        Error::Service(sentence) => sentence.to_string(),
        // These may quote what was answered.
        Error::SerdeError(_) | Error::FromUtf8(_) => no_api("with what cannot be read"),
        _ => "the Kubernetes API broke off its answer; try again".to_owned(),
    })
}

fn refused_with(status: &Status) -> String {
    // An API server that does not know the group has no Status for it, only these words.
    let unknown_group = status.code == 404 && status.message == "404 page not found";
    match status.code {
        401 => {
            "the cluster does not know these credentials (401); log in again, or check the user \
                of the context"
                .to_owned()
        }
        404 if status.reason == NOT_FOUND || unknown_group => {
            "the CustomResourceDefinition servicenowcredentials.snowcred.dev is not installed in \
             this cluster; apply crds/servicenowcredentials.yaml with kubectl, or choose another \
             context"
                .to_owned()
        }
        // kube's own reason for an answer that is no Status, whose message is all that was answered.
        code if status.reason == "Failed to parse error data" || status.message.is_empty() => {
            no_api(&format!("with {code} and no word of Kubernetes"))
        }
        403 => format!(
            "{}; ask whoever runs the cluster for that right, or choose another context",
            status.message
        ),
        _ => status.message.clone(),
    }
}

fn no_api(answered: &str) -> String {
    format!(
        "what answers in place of the Kubernetes API is none: it answered {answered}; check the \
         server of the context's cluster in the kubeconfig, and what stands in front of it"
    )
}
