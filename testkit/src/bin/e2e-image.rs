//! Lays out the image of the simulator and of the workload, for `make e2e-image`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use testkit::cluster::{Error, lay_out};

/// Writes a Dockerfile and the files of an image with servicenow-simulator and token-user into a folder,
/// which is emptied first.
#[derive(Parser)]
struct Arguments {
    /// The folder.
    folder: PathBuf,
}

fn main() -> Result<(), Error> {
    let folder = Arguments::parse().folder;
    let failed = |source| Error::Io {
        action: format!("empty the folder {}", folder.display()),
        source,
    };
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    fs::create_dir_all(&folder).map_err(failed)?;
    let here = env::current_exe().map_err(failed)?;
    let beside = here.parent().unwrap_or(Path::new("/"));
    let programs = ["servicenow-simulator", "token-user"].map(|name| beside.join(name));
    let programs: Vec<&Path> = programs.iter().map(PathBuf::as_path).collect();
    lay_out(&folder, &programs)
}
