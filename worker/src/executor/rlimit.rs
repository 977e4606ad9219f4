//! Resource limits of processes.

use cairn_solver::llb::Ulimit;
use oci_spec::runtime::PosixRlimitType;

/// Open files a process may have unless it raises the limit: what distributions give, and what programs that use
/// `select` or close every possible descriptor can live with.
const NOFILE_SOFT: u64 = 1024;
/// Open files a process may raise its limit to.
const NOFILE_HARD: u64 = 1 << 20;

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

/// The limits of a process: the defaults, replaced by what is asked for.
pub(super) fn limits(asked: &[Ulimit]) -> Result<Vec<Rlimit>, RlimitError> {
    let own_hard = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .maximum
        .unwrap_or(u64::MAX);
    let hard = own_hard.min(NOFILE_HARD);
    let mut limits = vec![Rlimit {
        kind: PosixRlimitType::RlimitNofile,
        soft: NOFILE_SOFT.min(hard),
        hard,
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
    Some(match name {
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
