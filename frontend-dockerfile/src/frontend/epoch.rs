//! `SOURCE_DATE_EPOCH`.

mod stage;

use std::path::PathBuf;

use cairn_solver::frontend::{Bridge, FrontendError};
use cairn_solver::llb::{HttpSource, SourceOp};
use cairn_solver::worker::SourceMeta;

use crate::dockerfile::Dockerfile;
use crate::error::DockerfileError;
use crate::expand::Variables;
use crate::options::Options;
use crate::plan::{Base, NamedContext, Plan};

use super::context::{self, MainContext};

const NAME: &str = "SOURCE_DATE_EPOCH";
/// Most files of an archive that are looked at for their times.
const MAX_FILES: usize = 100_000;

/// The time that was asked for.
#[derive(Debug)]
pub(super) enum Epoch {
    /// None.
    Unset,
    /// This one, in seconds.
    Seconds(i64),
    /// That of a source.
    Of {
        source: Box<SourceOp>,
        /// How the look-up is shown.
        title: String,
    },
}

/// Works out what time is asked for.
pub(super) fn asked(
    plan: &Plan,
    file: &Dockerfile,
    options: &Options,
    context: &MainContext,
) -> Result<Epoch, DockerfileError> {
    let given = options.build_args.get(NAME).map(String::as_str);
    let Some(value) = given.or_else(|| plan.args.get(NAME)).filter(|value| !value.is_empty()) else {
        return Ok(Epoch::Unset);
    };
    let invalid = || DockerfileError::whole(format!("invalid {NAME}: {value}"));
    if let Ok(seconds) = value.parse::<i64>() {
        return match jiff::Timestamp::from_second(seconds) {
            Ok(_) => Ok(Epoch::Seconds(seconds)),
            Err(_) => Err(invalid()),
        };
    }
    let of = |source: Option<SourceOp>, title: String| match source {
        Some(source @ (SourceOp::Git(_) | SourceOp::Http(_))) => Epoch::Of {
            source: Box::new(source),
            title,
        },
        // A directory of the client, say, has no time of its own.
        _ => Epoch::Unset,
    };
    if value == "context" {
        let title = "[internal] resolve main build context metadata".to_owned();
        return Ok(of(context.source.clone(), title));
    }
    if let Some(context) = NamedContext::find(options, value, &plan.platform).map_err(DockerfileError::whole)? {
        let source = match context.base {
            Base::Graph(graph) => graph.source.map(|source| *source),
            _ => None,
        };
        return Ok(of(source, format!("[internal] resolve {NAME} named context {value}")));
    }
    let source = stage::source(plan, file, options, value)?.ok_or_else(invalid)?;
    Ok(of(
        Some(source),
        format!("[internal] resolve {NAME} source stage {value}"),
    ))
}

impl Epoch {
    /// Looks the time up, where that is needed. Sources that have none leave it unset.
    pub(super) async fn resolve(self, bridge: &dyn Bridge) -> Result<Option<i64>, FrontendError> {
        let (source, title) = match self {
            Self::Unset => return Ok(None),
            Self::Seconds(seconds) => return Ok(Some(seconds)),
            Self::Of { source, title } => (*source, title),
        };
        let seconds = match bridge.source_meta(source.clone(), &title).await? {
            SourceMeta::Git(git) => git.committed_at,
            SourceMeta::Http(http) => match (http.last_modified, source) {
                (None, SourceOp::Http(file)) => newest(bridge, file).await?,
                (modified, _) => modified,
            },
        };
        Ok(seconds.filter(|seconds| jiff::Timestamp::from_second(*seconds).is_ok()))
    }
}

/// The time of the newest file in an archive behind a URL.
async fn newest(bridge: &dyn Bridge, source: HttpSource) -> Result<Option<i64>, FrontendError> {
    const KIND: u32 = 0o170_000;
    const DIRECTORY: u32 = 0o040_000;
    const FILE: u32 = 0o100_000;
    let (_, is_archive) = context::fetch(bridge, &source).await?;
    if !is_archive {
        return Ok(None);
    }
    let Some(files) = bridge.solve(context::unpacked(&source)).await? else {
        return Ok(None);
    };
    let (mut newest, mut seen) = (None, 0);
    let mut pending = vec![PathBuf::from("/")];
    while let Some(directory) = pending.pop() {
        for entry in bridge.read_dir(&files, &directory, None).await? {
            seen += 1;
            if seen > MAX_FILES {
                return Err(FrontendError::Option(format!(
                    "failed to resolve {NAME} from {}: there are more than {MAX_FILES} files in it",
                    source.url
                )));
            }
            match entry.mode & KIND {
                DIRECTORY => pending.push(directory.join(entry.path)),
                FILE => newest = newest.max(Some(entry.mtime_ns.div_euclid(1_000_000_000))),
                _ => {}
            }
        }
    }
    Ok(newest)
}

/// Makes stages that declare the argument see the time as a number.
pub(super) fn settle(plan: &mut Plan, epoch: Option<i64>) {
    plan.args.replace(NAME, epoch.map(|epoch| epoch.to_string()));
}
