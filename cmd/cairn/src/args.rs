//! The command line as typed. Nothing here looks at files, the environment or the network.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::quantity;

/// Builds container images.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which daemon does the work.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Daemon")]
pub(crate) struct DaemonArgs {
    /// Address of the daemon: unix:///path or tcp://host:port.
    ///
    /// Without it: $CAIRN_HOST, then $BUILDKIT_HOST, then a daemon at the default socket, and when there is
    /// none, a daemon inside this process.
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(crate) addr: Option<String>,

    /// Run the daemon inside this process, configured by this file.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "addr")]
    pub(crate) config: Option<PathBuf>,

    /// Run the daemon inside this process, with its state in this directory.
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "addr")]
    pub(crate) root: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile.
    Build(Box<BuildArgs>),
    /// Show what the build cache holds.
    Du(DuArgs),
    /// Remove what is not needed from the build cache.
    Prune(PruneArgs),
    /// Show why steps of a build ran.
    Why(WhyArgs),
    /// List the daemon's workers.
    Workers(WorkersArgs),
    /// Look inside.
    Debug {
        #[command(subcommand)]
        command: DebugCommand,
    },
    /// Show the versions of this program and of the daemon it would use.
    Version,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BuildArgs {
    /// Name of the image; may be repeated.
    #[arg(short = 't', long = "tag", value_name = "NAME[:TAG]")]
    pub(crate) tags: Vec<String>,

    /// The Dockerfile: relative to the working directory, or else to PATH; `-` reads it from standard input.
    /// PATH/Dockerfile by default.
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// The stage to build; the last one by default.
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,

    /// More contexts for the build: NAME=DIR, NAME=oci-layout://DIR[:TAG][@DIGEST], NAME=docker-image://IMAGE or
    /// NAME=URL; may be repeated.
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    pub(crate) build_contexts: Vec<String>,

    /// Value of a build argument, taken from the environment when left out; may be repeated.
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub(crate) build_args: Vec<String>,

    /// Label of the image; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,

    /// What becomes of the result: type=image|registry|oci|docker|local|tar|cacheonly with name=, dest=, push=
    /// and more; a bare directory means type=local, and `-` a tar on standard output. May be repeated.
    #[arg(short = 'o', long = "output", value_name = "OUTPUT", allow_hyphen_values = true)]
    pub(crate) outputs: Vec<String>,

    /// Push the image to its registry.
    #[arg(long)]
    pub(crate) push: bool,

    /// Run every step, whatever is known already.
    #[arg(long)]
    pub(crate) no_cache: bool,

    /// Platform to build for, such as linux/arm64; may be repeated, or separated by commas.
    #[arg(long = "platform", value_name = "PLATFORM")]
    pub(crate) platforms: Vec<String>,

    /// Secret for the build: id=NAME,src=FILE or id=NAME,env=VARIABLE; may be repeated.
    #[arg(long = "secret", value_name = "SECRET")]
    pub(crate) secrets: Vec<String>,

    /// Ssh agent whose keys steps and git may use: `default` for the running one, or ID=SOCKET; may be repeated.
    #[arg(long = "ssh", value_name = "ID[=SOCKET]")]
    pub(crate) ssh: Vec<String>,

    /// Privilege of the build that the daemon allows: network.host, security.insecure, device (all devices of the host
    /// that steps ask for) or device=NAME[,alias=ALIAS]; may be repeated.
    #[arg(long = "allow", value_name = "PRIVILEGE")]
    pub(crate) allow: Vec<String>,

    /// Cache whose results may be used: type=registry,ref=NAME (or just NAME) or type=local,src=DIR; may be repeated.
    #[arg(long = "cache-from", value_name = "CACHE")]
    pub(crate) cache_from: Vec<String>,

    /// Cache to make of the build: type=registry,ref=NAME[,mode=max], type=local,dest=DIR[,mode=max] or type=inline; may
    /// be repeated.
    #[arg(long = "cache-to", value_name = "CACHE")]
    pub(crate) cache_to: Vec<String>,

    /// Statements to make about the result: type=sbom[,generator=IMAGE] or type=provenance[,mode=min|max], and more
    /// for whoever makes them; may be repeated.
    #[arg(long = "attest", value_name = "STATEMENT")]
    pub(crate) attest: Vec<String>,

    /// Make a bill of materials: the same as --attest type=sbom.
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) sbom: Option<String>,

    /// Say how the result was made: the same as --attest type=provenance.
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) provenance: Option<String>,

    /// Say why each step ran, after the build.
    #[arg(long)]
    pub(crate) explain: bool,

    /// How progress is shown.
    #[arg(long, value_enum, default_value_t, value_name = "VIEW")]
    pub(crate) progress: ProgressMode,

    /// Write what the daemon says about the result to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,

    /// Build nothing, but say what is wrong or odd about the Dockerfile; the same as --call check.
    #[arg(long, conflicts_with = "call")]
    pub(crate) check: bool,

    /// What to do instead of building: check, outline (what the target takes), targets (the stages) or describe (what
    /// can be called); with `,format=json` the answer is printed as JSON. `build` builds.
    #[arg(long, value_name = "METHOD[,format=FORMAT]")]
    pub(crate) call: Option<String>,

    /// The directory whose files the build may use, or the URL of a remote one; `-` reads an archive, or a Dockerfile
    /// alone, from standard input.
    #[arg(value_name = "PATH")]
    pub(crate) context: OsString,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A live view on a terminal, plain elsewhere.
    #[default]
    Auto,
    /// A live view.
    Tty,
    /// Lines of text.
    Plain,
    /// One JSON object per message of the daemon.
    Rawjson,
    /// Nothing but the digest of the result.
    Quiet,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DuArgs {
    /// Only records that match, such as type==regular or inuse; may be repeated.
    #[arg(long = "filter", value_name = "FILTER")]
    pub(crate) filters: Vec<String>,

    /// Show everything about every record.
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PruneArgs {
    /// Only records that match, such as type==source.local; may be repeated.
    #[arg(long = "filter", value_name = "FILTER")]
    pub(crate) filters: Vec<String>,

    /// Internal and shared records too.
    #[arg(long, short)]
    pub(crate) all: bool,

    /// Keep what was used within this time, such as 36h or 7d.
    #[arg(long, value_name = "TIME", value_parser = quantity::parse_duration)]
    pub(crate) keep_duration: Option<Duration>,

    /// Keep this much of what was used last, such as 10GB, whatever the other limits say.
    #[arg(long, alias = "keep-storage", value_name = "SIZE", value_parser = quantity::parse_size)]
    pub(crate) reserved_space: Option<u64>,

    /// Remove only until no more than this is in use.
    #[arg(long, value_name = "SIZE", value_parser = quantity::parse_size)]
    pub(crate) max_used_space: Option<u64>,

    /// Remove only until this much is free on the daemon's disk.
    #[arg(long, value_name = "SIZE", value_parser = quantity::parse_size)]
    pub(crate) min_free_space: Option<u64>,

    /// Show everything about every removed record.
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WhyArgs {
    /// List the builds that are remembered.
    #[arg(long, conflicts_with = "build")]
    pub(crate) list: bool,

    /// How the answer is written.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: WhyFormat,

    /// The build, by its id or the beginning of that; the last one by default.
    #[arg(value_name = "BUILD")]
    pub(crate) build: Option<String>,

    /// The step, by its number or the beginning of its name or digest; all that ran by default.
    ///
    /// One argument alone is a step too, unless it is the beginning of the id of a build.
    #[arg(value_name = "STEP")]
    pub(crate) step: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum WhyFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WorkersArgs {
    /// Only workers that match; may be repeated.
    #[arg(long = "filter", value_name = "FILTER")]
    pub(crate) filters: Vec<String>,

    /// Show labels and cleaning rules too.
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Show the operations of a build definition.
    DumpLlb {
        /// One JSON object per operation.
        #[arg(long)]
        json: bool,

        /// File with an encoded definition; standard input by default.
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_daemon_is_either_elsewhere_or_in_this_process() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["cairn", "du"], args].concat());
        assert!(parse(&["--addr", "tcp://a:1", "--root", "/x"]).is_err());
        assert!(parse(&["--addr", "tcp://a:1", "--config", "/x"]).is_err());
        assert!(parse(&["--config", "/y", "--root", "/x"]).is_ok());
    }

    #[test]
    fn a_check_is_no_other_call() {
        assert!(Cli::try_parse_from(["cairn", "build", "--check", "."]).is_ok());
        assert!(Cli::try_parse_from(["cairn", "build", "--check", "--call", "outline", "."]).is_err());
    }

    #[test]
    fn a_dash_is_an_output() {
        let cli = Cli::try_parse_from(["cairn", "build", "-o", "-", "."]).unwrap();
        let Command::Build(args) = cli.command else {
            panic!("not a build")
        };
        assert_eq!(args.outputs, ["-"]);
    }
}
