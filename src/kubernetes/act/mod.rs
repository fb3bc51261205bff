//! Every read of one object and every write: the only place that changes anything in the cluster.

mod resource;
mod target;
mod workload;

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Client, Error, Resource,
    api::{GetParams, Request},
};
use serde::de::DeserializeOwned;

use super::{
    error::{Call, code, failure, said, timed_out},
    lean::Identified,
    lease::Fence,
};
use crate::{api::Reason, decide::Failure};

/// One call of the API may take this long: longer than a busy API server needs, shorter than what
/// a person waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// A change of an object that changes at the same time is tried so often.
const TRIES: usize = 4;

/// Only the metadata of a Secret comes back from a write: nothing secret travels or is decoded.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// The Kubernetes API.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    reporter: String,
    fence: Fence,
}

impl Cluster {
    /// Acts through this client while the fence is open, and gives each request up in time;
    /// events name `reporter` as the instance that sent them.
    pub fn new(client: Client, reporter: String, fence: Fence) -> Self {
        Self {
            client,
            reporter,
            fence,
        }
    }

    /// Nothing is written or asked for after this process has ceased to lead.
    pub(crate) fn may_begin(&self) -> Result<(), Failure> {
        if self.fence.is_open() {
            return Ok(());
        }
        Err(Failure::new(
            Reason::InternalError,
            "This replica of the operator leads no more; the one that does goes on.",
        ))
    }

    /// Reads a Secret.
    pub(crate) async fn read_secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Secret>, Failure> {
        self.read("secrets", namespace, name).await
    }

    /// Reads a ConfigMap.
    pub(crate) async fn read_config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ConfigMap>, Failure> {
        self.read("configmaps", namespace, name).await
    }

    /// Reads an object. It is decoded here, because kube logs a body that it cannot decode.
    async fn read<K>(
        &self,
        resource: &'static str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<K>, Failure>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let call = Call {
            verb: "get",
            resource,
            namespace,
            name,
        };
        let request = Request::new(K::url_path(&(), Some(namespace)))
            .get(name, &GetParams::default())
            .map_err(|error| failure(&Error::BuildRequest(error), call))?;
        match bounded(self.client.request_text(request)).await {
            None => Err(timed_out(call)),
            Some(Err(error)) if code(&error) == Some(404) => Ok(None),
            Some(Err(error)) => Err(failure(&error, call)),
            Some(Ok(text)) => {
                let text = zeroize::Zeroizing::new(text);
                let object = serde_json::from_str(&text)
                    .map_err(|error| failure(&Error::SerdeError(error), call))?;
                Ok(Some(object))
            }
        }
    }

    async fn request_metadata(
        &self,
        mut request: http::Request<Vec<u8>>,
    ) -> Option<Result<ObjectMeta, Error>> {
        let accept = http::HeaderValue::from_static(METADATA_ONLY);
        request.headers_mut().insert(http::header::ACCEPT, accept);
        let text = bounded(self.client.request_text(request)).await?;
        Some(text.and_then(|text| {
            serde_json::from_str::<Identified<Secret>>(&text)
                .map(|object| object.metadata)
                .map_err(Error::SerdeError)
        }))
    }

    /// Sends a write of an object; `None` where that was replaced, changed or deleted since it was
    /// seen.
    async fn send(
        &self,
        request: http::Request<Vec<u8>>,
        call: Call<'_>,
    ) -> Result<Option<ObjectMeta>, Failure> {
        self.may_begin()?;
        match self.request_metadata(request).await {
            None => Err(timed_out(call)),
            Some(Err(error)) if has_changed(&error) => Ok(None),
            Some(Err(error)) => Err(failure(&error, call)),
            Some(Ok(metadata)) => Ok(Some(metadata)),
        }
    }
}

/// Waits for a call for as long as it may take.
async fn bounded<T>(call: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(CALL_TIMEOUT, call).await.ok()
}

/// The Secret was created, replaced, changed or deleted since it was seen.
fn has_changed(error: &Error) -> bool {
    let uid_differs =
        || matches!(error, Error::Api(status) if status.message.contains("metadata.uid"));
    match code(error) {
        Some(404) => !said(error).contains("namespaces"),
        Some(409) => true,
        // An apply or a patch with another object's uid.
        Some(422) => uid_differs(),
        _ => false,
    }
}

fn changing(kind: &str, name: &str) -> Failure {
    Failure::new(
        Reason::InternalError,
        format!(
            "The {kind} {name:?} changed again and again while it was written. It is tried again \
             shortly; if this lasts, find out who else writes it."
        ),
    )
}
