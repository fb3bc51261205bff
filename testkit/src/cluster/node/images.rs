//! Images without a registry: built here by buildah, and carried to the node as files.
//!
//! The operator's image is made by `make image`, as everybody makes it. Its base image cannot be pulled
//! where there is no registry, so a stand-in of the same name is made of this machine's own Debian
//! and Rust. The image that results has nothing of the base but libraries and certificates.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;

use super::search_path;
use crate::cluster::binaries::cache_root;
use crate::cluster::build::{attended, progress};
use crate::cluster::error::{Error, tail};
use crate::cluster::process::gated;
use crate::cluster::scratch::Scratch;

/// The image of the process that holds a pod's namespaces open.
pub(super) const SANDBOX_IMAGE: &str = "localhost/snowcred-sandbox:node";
const SANDBOX_SOURCE: &str = include_str!("sandbox.c");

/// The argument of the Dockerfile that names its base image.
const BASE_ARGUMENT: &str = "ARG RUST_IMAGE=";
/// Where the stand-in has this machine's Rust.
const TOOLCHAIN: &str = "/opt/rust";
const CARGO_HOME: &str = "/opt/cargo";
/// Who runs what is in the image of a program.
const NOBODY: &str = "65532:65532";

/// An image in a file, which goes with the last that knows of it.
#[derive(Debug, Clone)]
pub struct Archive {
    path: PathBuf,
    name: String,
    _scratch: Arc<Scratch>,
}

impl Archive {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image's name on the node.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What an image holds and says.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The digest of its configuration, and so of all that is in it.
    pub id: String,
    /// When it was made, as it says itself.
    pub created: String,
    /// The user that it runs as.
    pub user: String,
    /// The program that it starts.
    pub entrypoint: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its files, from the top, with their sizes in bytes.
    pub files: BTreeMap<String, u64>,
}

/// Builds images.
#[derive(Debug)]
pub struct Images {
    storage: PathBuf,
    scratch: Arc<Scratch>,
}

impl Images {
    /// With the layers of earlier builds, which are kept beside the programs.
    ///
    /// # Errors
    ///
    /// If there is no buildah, or no folder.
    pub fn open() -> Result<Self, Error> {
        let found = Command::new("buildah")
            .arg("--version")
            .env("PATH", search_path())
            .output();
        found.map_err(|error| {
            Error::NoNode(format!(
                "buildah cannot be run ({error}); on Debian install the package buildah"
            ))
        })?;
        let storage = cache_root()?.join("images");
        fs::create_dir_all(&storage).map_err(Error::io(format!(
            "create the folder {}",
            storage.display()
        )))?;
        Ok(Self {
            storage,
            scratch: Arc::new(Scratch::create()?),
        })
    }

    /// The image of the process that holds a pod's namespaces open.
    ///
    /// # Errors
    ///
    /// If it cannot be built.
    pub fn sandbox(&self) -> Result<Archive, Error> {
        let context = self.context("sandbox")?;
        let source = context.join("sandbox.c");
        put(&source, SANDBOX_SOURCE)?;
        let mut compiler = gated("cc");
        compiler
            .args(["-static", "-Os", "-o"])
            .arg(context.join("sandbox"))
            .arg(&source);
        self.attend("compile the sandbox of pods", "cc", compiler)?;
        let file = "FROM scratch\nCOPY sandbox /sandbox\nENTRYPOINT [\"/sandbox\"]\n";
        put(&context.join("Dockerfile"), file)?;
        self.build_context(SANDBOX_IMAGE, &context)?;
        self.archive(SANDBOX_IMAGE)
    }

    /// An image with programs of this machine and the libraries that they load.
    ///
    /// # Errors
    ///
    /// If it cannot be built.
    pub fn programs(&self, name: &str, programs: &[&Path]) -> Result<Archive, Error> {
        let context = self.context("programs")?;
        lay_out(&context, programs)?;
        self.build_context(name, &context)?;
        self.archive(name)
    }

    /// The operator's image, by `make image` in the checkout at `repository`, with these arguments of its
    /// Dockerfile.
    ///
    /// # Errors
    ///
    /// If it cannot be built.
    pub fn operator(
        &self,
        name: &str,
        repository: &Path,
        arguments: &[(&str, &str)],
    ) -> Result<Archive, Error> {
        let toolchain = Toolchain::find()?;
        let base = base_image(repository)?;
        progress(&format!(
            "building the operator's image; {base} is this machine's own Debian and Rust"
        ));
        let context = self.context("base")?;
        toolchain.stand_in(&context)?;
        self.build_context(&base, &context)?;
        self.forget(name);
        let build = ["bud", "--layers", "--force-rm", "--pull-never"].map(str::to_owned);
        let arguments = arguments.iter();
        let arguments = arguments.map(|(name, value)| format!("--build-arg={name}={value}"));
        let build = [
            self.buildah_words(),
            build.into(),
            toolchain.volumes(),
            arguments.collect(),
        ];
        let build: Vec<String> = build.concat().iter().map(|word| for_make(word)).collect();
        let mut make = gated("unshare");
        make.args(["--mount", "--", "make", "--directory"])
            .arg(repository)
            .arg("image")
            .arg(format!("IMAGE={name}"))
            // The stand-in, whatever somebody's own base image is.
            .arg("RUST_IMAGE=")
            .arg(format!("IMAGE_BUILD={}", build.join(" ")))
            // What a make around this one was told is not meant for this one.
            .env_remove("MAKEFLAGS");
        self.attend("build the operator's image", "make", make)?;
        self.archive(name)
    }

    /// Removes an image with the layers that are only its own. Those of a LABEL are taken for the same
    /// by buildah whatever the arguments in it.
    fn forget(&self, name: &str) {
        let mut buildah = self.buildah();
        buildah.args(["rmi", name]);
        // There is none the first time.
        let _ = self.attend("forget an image", "buildah", buildah);
    }

    /// What an image of this storage holds and says.
    ///
    /// # Errors
    ///
    /// If there is no such image.
    pub fn contents(&self, name: &str) -> Result<Contents, Error> {
        let mut inspect = self.buildah();
        inspect.args(["inspect", "--type", "image", name]);
        let said = self.attend("look at an image", "buildah", inspect)?;
        let said: Value = serde_json::from_str(&said).unwrap_or_default();
        let config = &said["OCIv1"]["config"];
        let mut list = gated("unshare");
        let list_files = r#"container=$("$@" from --pull-never "$IMAGE")
            find "$("$@" mount "$container")" ! -type d -printf '%P\t%s\n'
            "$@" rm "$container" >/dev/null"#;
        list.args(["--mount", "--", "sh", "-c", list_files, "list"])
            .args(self.buildah_words())
            .env("IMAGE", name);
        let files = self.attend("list the files of an image", "buildah", list)?;
        let file = |line: &str| {
            let (path, size) = line.split_once('\t')?;
            Some((format!("/{path}"), size.parse().ok()?))
        };
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Contents {
            id: word(&said["FromImageID"]),
            created: word(&said["OCIv1"]["created"]),
            user: word(&config["User"]),
            entrypoint: serde_json::from_value(config["Entrypoint"].clone()).unwrap_or_default(),
            labels: serde_json::from_value(config["Labels"].clone()).unwrap_or_default(),
            files: files.lines().filter_map(file).collect(),
        })
    }

    /// An empty folder for the files of a build.
    fn context(&self, name: &str) -> Result<PathBuf, Error> {
        let folder = self.scratch.path().join(name);
        let failed = || format!("prepare the folder {}", folder.display());
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(Error::io(failed()))?;
        }
        fs::create_dir(&folder).map_err(Error::io(failed()))?;
        Ok(folder)
    }

    /// With one time for all, so that the same files are the same image, and later layers stay.
    fn build_context(&self, name: &str, context: &Path) -> Result<(), Error> {
        let mut buildah = self.buildah();
        buildah
            .args(["bud", "--layers", "--timestamp", "0", "--tag", name])
            .arg(context);
        self.attend(&format!("build the image {name}"), "buildah", buildah)
            .map(|_| ())
    }

    /// In the one format that carries the whole name.
    fn archive(&self, name: &str) -> Result<Archive, Error> {
        let file = name.replace(['/', ':'], "-");
        let path = self.scratch.path().join(format!("{file}.tar"));
        // It is not written over.
        let _ = fs::remove_file(&path);
        let mut buildah = self.buildah();
        buildah
            .args(["push", "--quiet", name])
            .arg(format!("docker-archive:{}:{name}", path.display()));
        self.attend(&format!("save the image {name}"), "buildah", buildah)?;
        Ok(Archive {
            path,
            name: name.to_owned(),
            _scratch: Arc::clone(&self.scratch),
        })
    }

    fn buildah_words(&self) -> Vec<String> {
        let in_storage = |name: &str| self.storage.join(name).display().to_string();
        vec![
            "buildah".to_owned(),
            "--root".to_owned(),
            in_storage("root"),
            "--runroot".to_owned(),
            in_storage("run"),
            "--storage-driver".to_owned(),
            "overlay".to_owned(),
        ]
    }

    /// In mounts of its own: it leaves some of them behind.
    fn buildah(&self) -> Command {
        let mut command = gated("unshare");
        command.args(["--mount", "--"]).args(self.buildah_words());
        command
    }

    /// Runs a command to its end, and returns what it printed.
    fn attend(&self, action: &str, program: &str, mut command: Command) -> Result<String, Error> {
        let log = tempfile::NamedTempFile::new_in(self.scratch.path())
            .map_err(Error::io("create a log"))?;
        command
            .env("PATH", search_path())
            // Without a daemon and without rights that a container may lack.
            .env("BUILDAH_ISOLATION", "chroot");
        let mut reaper = self.scratch.reaper();
        let status = attended(command, log.path(), &mut reaper, action)?;
        if !status.success() {
            return Err(Error::Program {
                action: action.to_owned(),
                program: program.to_owned(),
                said: tail(log.path()),
            });
        }
        fs::read_to_string(log.path()).map_err(Error::io("read a log"))
    }
}

/// The Rust of this machine.
struct Toolchain {
    folder: PathBuf,
    cargo_home: PathBuf,
    version: String,
}

impl Toolchain {
    fn find() -> Result<Self, Error> {
        let folder = said_by(Command::new("rustc").args(["--print", "sysroot"]))?;
        let version = said_by(Command::new("rustc").arg("-Vv"))?;
        let cargo_home = env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
            .ok_or_else(|| {
                let action = "find cargo's folder: set CARGO_HOME or HOME";
                Error::io(action)(io::ErrorKind::NotFound.into())
            })?;
        Ok(Self {
            folder: PathBuf::from(folder.trim()),
            cargo_home,
            version,
        })
    }

    /// The files of a base image that gets all that is large from [`Toolchain::volumes`]. The version
    /// is in it, so that layers of another compiler are not taken for those of this one.
    fn stand_in(&self, context: &Path) -> Result<(), Error> {
        let root = context.join("root");
        let failed = |error| Error::io("lay out a base image")(error);
        for folder in [
            "usr",
            "proc",
            "sys",
            "dev",
            "tmp",
            "var/tmp",
            "opt/rust",
            "opt/cargo",
            "root",
            "etc/ssl/certs",
        ] {
            fs::create_dir_all(root.join(folder)).map_err(failed)?;
        }
        for folder in ["tmp", "var/tmp"] {
            let everybody = fs::Permissions::from_mode(0o1777);
            fs::set_permissions(root.join(folder), everybody).map_err(failed)?;
        }
        for link in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
            if let Ok(target) = fs::read_link(Path::new("/").join(link)) {
                symlink(target, root.join(link)).map_err(failed)?;
            }
        }
        for file in [
            "etc/passwd",
            "etc/group",
            "etc/ld.so.cache",
            "etc/ssl/certs/ca-certificates.crt",
        ] {
            fs::copy(Path::new("/").join(file), root.join(file))
                .map_err(Error::io(format!("copy /{file}, which Debian has")))?;
        }
        // The names cc and awk lead through there.
        let alternatives = root.join("etc/alternatives");
        fs::create_dir(&alternatives).map_err(failed)?;
        for entry in fs::read_dir("/etc/alternatives").map_err(failed)?.flatten() {
            if let Ok(target) = fs::read_link(entry.path()) {
                symlink(target, alternatives.join(entry.file_name())).map_err(failed)?;
            }
        }
        put(&root.join("etc/rust-version"), &self.version)?;
        let file = format!(
            "FROM scratch\nCOPY root /\n\
             ENV PATH={TOOLCHAIN}/bin:/usr/bin:/bin CARGO_HOME={CARGO_HOME}\n"
        );
        put(&context.join("Dockerfile"), &file)
    }

    /// What the commands of a build see, and what never becomes part of an image.
    fn volumes(&self) -> Vec<String> {
        let mut volumes = vec![
            "--volume=/usr:/usr:ro".to_owned(),
            format!("--volume={}:{TOOLCHAIN}:ro", self.folder.display()),
        ];
        // What was downloaded already, and where from, as on this machine.
        for name in ["registry", "config.toml"] {
            let path = self.cargo_home.join(name);
            if path.exists() {
                volumes.push(format!("--volume={}:{CARGO_HOME}/{name}", path.display()));
            }
        }
        volumes
    }
}

/// A word for the shell of a recipe.
fn for_make(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''").replace('$', "$$"))
}

/// The name of the Dockerfile's base image.
fn base_image(repository: &Path) -> Result<String, Error> {
    let path = repository.join("Dockerfile");
    let text = fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))?;
    text.lines()
        .find_map(|line| line.strip_prefix(BASE_ARGUMENT))
        .map(str::to_owned)
        .ok_or(Error::Toolchain {
            path,
            line: BASE_ARGUMENT,
        })
}

/// Lays out the files of an image with programs of this machine, and a Dockerfile for it: so any
/// builder can make it.
///
/// # Errors
///
/// If a program or a library cannot be copied.
pub fn lay_out(context: &Path, programs: &[&Path]) -> Result<(), Error> {
    let root = context.join("root");
    for program in programs {
        let name = program.file_name().unwrap_or_default();
        copy(program, &root.join("usr/bin").join(name))?;
        for library in said_by(Command::new("ldd").arg(program))?
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            copy(Path::new(library), &root.join(&library[1..]))?;
        }
    }
    let file = format!("FROM scratch\nCOPY root /\nUSER {NOBODY}\n");
    put(&context.join("Dockerfile"), &file)
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let copied = || {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(from, to).map(|_| ())
    };
    copied().map_err(Error::io(format!("copy {}", from.display())))
}

fn put(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))
}

fn said_by(command: &mut Command) -> Result<String, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(Error::io(format!("run {program}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Program {
        action: format!("run {command:?}"),
        program,
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
