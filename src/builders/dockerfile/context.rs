//! The files of a build: unpacked, read, without what `.dockerignore` leaves out, and with the Dockerfile as the engine
//! gets it.

use std::fs;
use std::path::Path;

use super::ImageBuildRequest;
use super::ignore::{IGNORE_FILE, IgnoreRules};
use super::plan::{DockerfilePlan, plan_dockerfile};
use crate::builders::files::{read_procfile, read_text_file, read_tsuru_yaml};
use crate::builders::{BuildError, Procfile, TsuruYaml, UnpackError, extract_archive};
use crate::kernel::error::Error;
use crate::kernel::names::AppName;

/// The name under which the engine gets the Dockerfile. The engine takes it and `.dockerignore`, which names both, out
/// of the files that a Dockerfile can copy.
pub(super) const PLANNED_FILE: &str = ".tancho.Dockerfile";
/// The longest Dockerfile and `.dockerignore`, in bytes.
const LONGEST_FILE: u64 = 256 << 10;

/// What the files of a build say.
pub(super) struct SourceContext {
    pub(super) plan: DockerfilePlan,
    /// `None`: the source has none.
    pub(super) procfile: Option<Procfile>,
    pub(super) release_command: Option<String>,
    pub(super) yaml: TsuruYaml,
}

/// Unpacks the archive of a build into a folder, which must not exist, and prepares it. Blocks.
pub(super) fn prepare_context(
    request: &ImageBuildRequest,
    tree: &Path,
    stop: &dyn Fn() -> bool,
) -> Result<SourceContext, BuildError> {
    extract_archive(&request.archive, tree, &request.limits.unpack, stop).map_err(|error| match error {
        UnpackError::Refused(why) => BuildError::Refused(why),
        // Whoever asked to stop says why.
        UnpackError::Stopped => BuildError::Cancelled,
        UnpackError::Disk(cause) => BuildError::internal(cause),
    })?;
    let refused = |error: Error| BuildError::Refused(error.message().to_owned());
    let text = match &request.dockerfile {
        Some(text) => text.clone(),
        None => find_dockerfile(tree, &request.app)?,
    };
    let given = request.public_values();
    let plan = plan_dockerfile(&text, &given, request.target(), &request.label()).map_err(refused)?;
    let yaml = read_tsuru_yaml(tree)?;
    let mut procfile = match read_procfile(tree)? {
        Some(text) => Some(Procfile::parse(&text).map_err(refused)?),
        None => None,
    };
    let release_command = procfile
        .as_mut()
        .and_then(|procfile| procfile.take_release_line(&yaml));
    let rules = match read_text_file(&tree.join(IGNORE_FILE), LONGEST_FILE)? {
        Some(text) => IgnoreRules::parse(&text).map_err(refused)?,
        None => IgnoreRules::default(),
    };
    rules.prune_tree(tree, stop).map_err(BuildError::internal)?;
    write_own_file(tree, PLANNED_FILE, &plan.text)?;
    write_own_file(tree, IGNORE_FILE, &format!("{PLANNED_FILE}\n{IGNORE_FILE}\n"))?;
    Ok(SourceContext {
        plan,
        procfile,
        release_command,
        yaml,
    })
}

/// Writes a file in place of whatever has its name.
fn write_own_file(tree: &Path, name: &str, text: &str) -> Result<(), BuildError> {
    let path = tree.join(name);
    crate::builders::remove_tree(&path).map_err(BuildError::internal)?;
    fs::write(path, text).map_err(BuildError::internal)
}

/// Finds the Dockerfile of an app in its source, by the names that the client looks for.
fn find_dockerfile(tree: &Path, app: &AppName) -> Result<String, BuildError> {
    let own = [format!(".{app}"), ".tsuru".to_owned(), String::new()];
    for suffix in own {
        for kind in ["Dockerfile", "Containerfile"] {
            let path = tree.join(format!("{kind}{suffix}"));
            if let Some(text) = read_text_file(&path, LONGEST_FILE)? {
                return Ok(text);
            }
        }
    }
    Err(BuildError::Refused(
        "The source has no Dockerfile at its top, and the pool of this app builds images: add one, or deploy an image, \
         as in `tsuru app deploy --image`."
            .to_owned(),
    ))
}
