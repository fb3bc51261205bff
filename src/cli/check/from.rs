//! What to check, from a resource of the cluster and the objects that it names.

use super::{
    CheckArgs,
    options::{user, with_note},
    subject::Subject,
    voice::Voice,
};
use crate::{
    cli::{CommandError, names, reach},
    kubernetes::{Cluster, Fence, read_references},
};

/// What the resource `NAMESPACE/NAME` says to check.
pub(super) async fn subject(resource: &str, args: &CheckArgs) -> Result<Subject, CommandError> {
    let voice = Voice::Resource;
    let parts = resource.split_once('/');
    let Some((namespace, name)) = parts.filter(|(namespace, name)| {
        names::namespace(namespace).is_ok() && names::resource(name).is_ok()
    }) else {
        return Err(CommandError::usage(format!(
            "--from {resource:?} names no resource: write its namespace and its name, as in \
             team-a/itsm"
        )));
    };
    let client = reach::client(args.context.as_deref()).await?;
    let credential = reach::read(&client, namespace, name).await?;
    let spec = credential.spec.as_ref().map_err(|error| {
        CommandError::failed(format!(
            "the spec of {resource} cannot be read: {error}; correct it with kubectl edit"
        ))
    })?;
    if let Some(violation) = spec.violation() {
        return Err(CommandError::failed(format!("{resource}: {violation}")));
    }
    let instance = spec
        .instance()
        .map_err(|error| CommandError::failed(format!("{resource}: spec.instance: {error}")))?;
    // Only reads: whoever leads, and under which name events would be sent, does not matter.
    let cluster = Cluster::new(client, String::new(), Fence::open());
    let read = read_references(&cluster, &credential, spec).await;
    let (key, client) = read.client.map_err(|failure| {
        CommandError::failed(format!("{resource}: {}", voice.say(failure.message())))
    })?;
    if key.user_name().is_some() && args.username.is_some() {
        return Err(CommandError::usage(format!(
            "{resource} uses the password grant itself, with a user of its own; leave --username \
             out"
        )));
    }
    let secret = &spec.client.secret_ref.name;
    Ok(Subject {
        instance: instance.clone(),
        key: (*key).clone(),
        verify_path: spec.verify.as_ref().map(|verify| verify.path.clone()),
        user: user(args)?,
        source: with_note(format!("the Secret {secret:?}"), client.trimmed),
        voice,
    })
}
