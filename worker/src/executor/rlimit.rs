//! Resource limits of processes.

use std::sync::OnceLock;

use cairn_solver::llb::Ulimit;
use oci_spec::runtime::PosixRlimitType;
use rustix::process::{Resource, Rlimit as OwnLimit, getrlimit, setrlimit};

/// Most open files a process may have, whatever the daemon may: programs that close every possible descriptor take
/// long with more.
const NOFILE_MAX: u64 = 1 << 20;

/// Open files that the daemon was allowed when it was started, soft and hard.
static INHERITED: OnceLock<(u64, u64)> = OnceLock::new();

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// Which.
    pub kind: PosixRlimitType,
    /// In force.
    pub soft: u64,
    /// What the process may raise it to.
    pub hard: u64,
}

/// A limit that there is not, or that contradicts itself.
#[derive(Debug, thiserror::Error)]
pub enum RlimitError {
    /// No such limit.
    #[error("unknown ulimit {0:?}")]
    Unknown(String),
    /// Soft above hard.
    #[error("ulimit {0}: the soft limit is above the hard limit")]
    SoftAboveHard(String),
}

/// Lets this process, the daemon, have as many open files as it may: every mounted layer, connection and file being
/// moved takes one. Processes that it runs are still given the limits of before.
pub fn raise_file_limit() {
    let (_, hard) = *INHERITED.get_or_init(own_limit);
    let hard = (hard != u64::MAX).then_some(hard);
    let raised = OwnLimit {
        current: hard,
        maximum: hard,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        // The usual limit does for most builds.
        tracing::debug!(%error, "could not raise the limit of open files");
    }
}

fn own_limit() -> (u64, u64) {
    let own = getrlimit(Resource::Nofile);
    (own.current.unwrap_or(u64::MAX), own.maximum.unwrap_or(u64::MAX))
}

/// The limits of a process: the defaults, replaced by what is asked for.
pub(super) fn limits(asked: &[Ulimit]) -> Result<Vec<Rlimit>, RlimitError> {
    let (soft, hard) = *INHERITED.get_or_init(own_limit);
    let mut limits = vec![Rlimit {
        kind: PosixRlimitType::RlimitNofile,
        soft: soft.min(NOFILE_MAX),
        hard: hard.min(NOFILE_MAX),
    }];
    for ulimit in asked {
        let kind = kind(&ulimit.name).ok_or_else(|| RlimitError::Unknown(ulimit.name.chars().take(32).collect()))?;
        let (soft, hard) = (value(ulimit.soft), value(ulimit.hard));
        if soft > hard {
            return Err(RlimitError::SoftAboveHard(ulimit.name.clone()));
        }
        limits.retain(|limit| limit.kind != kind);
        limits.push(Rlimit { kind, soft, hard });
    }
    Ok(limits)
}

/// Negative is unlimited, which is the largest value.
fn value(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX)
}

fn kind(name: &str) -> Option<PosixRlimitType> {
    Some(match name.to_ascii_lowercase().as_str() {
        "as" => PosixRlimitType::RlimitAs,
        "core" => PosixRlimitType::RlimitCore,
        "cpu" => PosixRlimitType::RlimitCpu,
        "data" => PosixRlimitType::RlimitData,
        "fsize" => PosixRlimitType::RlimitFsize,
        "locks" => PosixRlimitType::RlimitLocks,
        "memlock" => PosixRlimitType::RlimitMemlock,
        "msgqueue" => PosixRlimitType::RlimitMsgqueue,
        "nice" => PosixRlimitType::RlimitNice,
        "nofile" => PosixRlimitType::RlimitNofile,
        "nproc" => PosixRlimitType::RlimitNproc,
        "rss" => PosixRlimitType::RlimitRss,
        "rtprio" => PosixRlimitType::RlimitRtprio,
        "rttime" => PosixRlimitType::RlimitRttime,
        "sigpending" => PosixRlimitType::RlimitSigpending,
        "stack" => PosixRlimitType::RlimitStack,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulimit(name: &str, soft: i64, hard: i64) -> Ulimit {
        Ulimit {
            name: name.to_owned(),
            soft,
            hard,
        }
    }

    #[test]
    fn asked_limits_replace_defaults() {
        let limits = limits(&[ulimit("nofile", 10, 20), ulimit("core", -1, -1)]).unwrap();
        assert_eq!(
            limits,
            [
                Rlimit {
                    kind: PosixRlimitType::RlimitNofile,
                    soft: 10,
                    hard: 20
                },
                Rlimit {
                    kind: PosixRlimitType::RlimitCore,
                    soft: u64::MAX,
                    hard: u64::MAX
                },
            ]
        );
    }

    #[test]
    fn open_files_are_limited_as_the_daemon_was_when_it_started() {
        let (soft, hard) = own_limit();
        raise_file_limit();
        assert_eq!(own_limit(), (hard, hard));
        let (soft, hard) = (soft.min(NOFILE_MAX), hard.min(NOFILE_MAX));
        let kind = PosixRlimitType::RlimitNofile;
        assert_eq!(limits(&[]).unwrap(), [Rlimit { kind, soft, hard }]);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(matches!(limits(&[ulimit("x", 1, 1)]), Err(RlimitError::Unknown(_))));
        assert!(matches!(
            limits(&[ulimit("core", 2, 1)]),
            Err(RlimitError::SoftAboveHard(_))
        ));
        assert!(matches!(
            limits(&[ulimit("core", -1, 1)]),
            Err(RlimitError::SoftAboveHard(_))
        ));
    }
}
