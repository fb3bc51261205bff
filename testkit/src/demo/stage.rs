//! Sets everything up with kubectl and the manifests of the repository, as a person would.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use tempfile::TempDir;

use super::{Failed, LIFETIME, Settings, screen::Screen};
use crate::{
    cluster::ControlPlane,
    operator::{self, Operator},
    servicenow::{Client, Options, Simulator, TokenMode},
};

/// Where the resources live.
pub(super) const NAMESPACE: &str = "demo";
/// The operator's namespace and ServiceAccount, as in `dist/install.yaml`.
const OPERATOR: (&str, &str) = ("snowcred-system", "servicenow-credential-operator");
/// The scope that one of the examples asks for.
const SCOPE: &str = "incident_read";

/// Everything that runs. The fields are dropped in this order.
pub(super) struct Stage {
    pub(super) operator: Operator,
    pub(super) instance: Simulator,
    pub(super) control_plane: ControlPlane,
}

impl Stage {
    pub(super) async fn set(settings: &Settings, screen: &mut Screen) -> Result<Self, Failed> {
        screen.heading("Kubernetes: etcd, kube-apiserver and kube-controller-manager, for real");
        let control_plane = ControlPlane::start()
            .await
            .map_err(|error| Failed::new(format!("no control plane: {error:?}")))?;
        screen.line("  ready; it has no nodes, so no pod will start");

        screen.heading("ServiceNow: a simulated instance");
        let instance = instance().await?;
        screen.line(&format!(
            "  ready at {}; each request brings a new token, valid for {} s",
            instance.origin(),
            LIFETIME.as_secs()
        ));

        screen.heading("The resource type and the operator's rights");
        let repository = repository()?;
        let run = async |screen: &mut Screen, arguments: &[&str]| {
            kubectl(&control_plane, screen, arguments, &repository).await
        };
        run(screen, &["apply", "-f", "crds/servicenowcredentials.yaml"]).await?;
        let crd = "crd/servicenowcredentials.snowcred.dev";
        run(
            screen,
            &["wait", "--for=condition=Established", "--timeout=60s", crd],
        )
        .await?;
        let access = "app.kubernetes.io/component=access";
        run(screen, &["apply", "-f", "dist/install.yaml", "-l", access]).await?;

        screen.heading("The operator");
        let operator = operator(settings, &control_plane, screen).await;

        screen.heading("The examples, with spec.instance pointed at the simulated instance");
        let manifests = manifests(&repository.join("examples"), &instance.origin())?;
        let folder = manifests.path().display().to_string();
        screen.quote(
            "files of examples/ as they are, and a kustomization.yaml with one patch: \
             replace /spec/instance",
        );
        run(screen, &["create", "namespace", NAMESPACE]).await?;
        run(screen, &["apply", "-n", NAMESPACE, "-k", &folder]).await?;
        Ok(Self {
            operator,
            instance,
            control_plane,
        })
    }

    /// Runs kubectl, and shows the command and what it printed.
    pub(super) async fn show(&self, screen: &mut Screen, command: &[&str]) -> Result<(), Failed> {
        kubectl(&self.control_plane, screen, command, Path::new(".")).await
    }

    /// How to use kubectl with this control plane from another terminal.
    pub(super) fn access(&self) -> String {
        let kubectl = self.control_plane.kubectl_path();
        let folder = kubectl.parent().unwrap_or(kubectl);
        format!(
            "  export KUBECONFIG={}\n  export PATH={}:$PATH\n  kubectl -n {NAMESPACE} get snc -o wide",
            self.control_plane.kubeconfig().display(),
            folder.display()
        )
    }

    /// The last lines that the operator logged.
    pub(super) fn end_of_log(&self) -> String {
        let log = self.operator.log();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].join("\n  ");
        format!("The end of the operator's log:\n  {last}")
    }

    /// Stops everything in good order.
    pub(super) async fn strike(mut self, screen: &mut Screen) -> Result<(), Failed> {
        let (ended, after) = self.operator.stop().await;
        let took = after.as_secs_f64();
        if !ended.is_some_and(|status| status.success()) {
            let how = ended.map_or_else(|| "not at all".to_owned(), |s: ExitStatus| s.to_string());
            return Err(Failed::new(format!(
                "the operator did not end well on SIGTERM, but with {how} after {took:.1} s"
            )));
        }
        screen.line(&format!(
            "The operator ended on SIGTERM within {took:.1} s; all the rest is stopped and removed."
        ));
        Ok(())
    }
}

async fn instance() -> Result<Simulator, Failed> {
    let options = Options {
        mode: TokenMode::AlwaysNew,
        ..Options::default()
    };
    let instance = Simulator::start_with(options)
        .await
        .map_err(|error| Failed::new(format!("the simulated instance does not start: {error}")))?;
    // What examples/client-secret.yaml holds.
    let client = Client::new(
        "replace-me-with-the-client-id",
        "replace-me-with-the-client-secret",
    );
    instance.add_client(client.with_lifetime(LIFETIME).with_scopes([SCOPE]));
    Ok(instance)
}

/// The operator as a process of its own, as a plain ServiceAccount with the documented rights.
async fn operator(
    settings: &Settings,
    control_plane: &ControlPlane,
    screen: &mut Screen,
) -> Operator {
    let (namespace, account) = OPERATOR;
    // Its rights are there already, by dist/install.yaml.
    let kubeconfig = control_plane
        .service_account_of(namespace, account, &[])
        .await;
    let options = operator::Options {
        binary: settings.operator.clone(),
        kubeconfig,
        arguments: ["--allow-insecure-http", "--log-format=text"]
            .map(str::to_owned)
            .into(),
        // The log is a file, and colours would be noise there.
        environment: vec![("NO_COLOR".to_owned(), "1".to_owned())],
    };
    screen.quote(&format!(
        "$ servicenow-credential-operator run --listen 127.0.0.1:0 {}",
        options.arguments.join(" ")
    ));
    let operator = Operator::start(&options).await;
    screen.quote(&format!(
        "ready, as the ServiceAccount {namespace}/{account}; its log is in {}",
        operator.log_path().display()
    ));
    operator
}

/// The folder with the manifests: where this crate was built.
fn repository() -> Result<PathBuf, Failed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    folder.canonicalize().map_err(|error| {
        Failed::new(format!(
            "the repository that this program was built in is gone ({error}): build it again"
        ))
    })
}

/// Examples that need more than the demo's instance and client: a user, certificates, somebody's
/// Secret.
const NEED_MORE: [&str; 3] = [
    "credential-merge.yaml",
    "credential-password.yaml",
    "credential-tls.yaml",
];

/// The examples in a folder of their own, with the patch that points them elsewhere.
fn manifests(examples: &Path, origin: &str) -> Result<TempDir, Failed> {
    let copy = || {
        let folder = tempfile::Builder::new()
            .prefix("snowcred-demo-")
            .tempdir()?;
        let mut kustomization = String::from("resources:\n");
        let mut files: Vec<_> = fs::read_dir(examples)?.collect::<Result<_, _>>()?;
        files.retain(|file| !NEED_MORE.iter().any(|name| file.file_name() == *name));
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files {
            let name = file.file_name().to_string_lossy().into_owned();
            if name.ends_with(".yaml") {
                fs::copy(file.path(), folder.path().join(&name))?;
                kustomization += &format!("- {name}\n");
            }
        }
        kustomization += &format!(
            "patches:\n\
             - target: {{kind: ServiceNowCredential}}\n  \
               patch: '[{{\"op\": \"replace\", \"path\": \"/spec/instance\", \"value\": \"{origin}\"}}]'\n"
        );
        fs::write(folder.path().join("kustomization.yaml"), kustomization)?;
        Ok::<_, std::io::Error>(folder)
    };
    copy().map_err(|error| Failed::new(format!("{} cannot be copied: {error}", examples.display())))
}

async fn kubectl(
    control_plane: &ControlPlane,
    screen: &mut Screen,
    arguments: &[&str],
    folder: &Path,
) -> Result<(), Failed> {
    let command = arguments.join(" ");
    screen.quote(&format!("$ kubectl {command}"));
    // Paths are shown as people write them, in the repository, and given in full.
    let arguments: Vec<String> = arguments
        .iter()
        .map(|argument| match folder.join(argument) {
            path if argument.ends_with(".yaml") => path.display().to_string(),
            _ => (*argument).to_owned(),
        })
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = control_plane.kubectl(&arguments).await;
    screen.quote(&output.stdout);
    if !output.status.success() {
        return Err(Failed::new(format!(
            "`kubectl {command}` failed: {}",
            output.stderr.trim()
        )));
    }
    Ok(())
}
