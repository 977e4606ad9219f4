//! Which network a process joins.

use cairn_solver::llb::{ExecOp, NetMode, SecurityMode};
use tokio_util::sync::CancellationToken;

use super::blocking;
use super::error::ExecError;
use crate::cni::{Lease, Namespaces};
use crate::executor::process::{Network, ProcessSpec};
use crate::executor::resolv::Loopback;

/// What [`NetMode::Sandbox`] means here.
pub(crate) enum Networks {
    /// The host's network.
    Host,
    /// A loopback interface.
    None,
    /// A namespace that plugins have set up.
    Namespaces(Namespaces),
}

/// A network that a process is about to be in.
pub(super) enum Joined {
    Host,
    None,
    Leased(Lease),
}

impl Networks {
    pub(super) fn loopback(&self, mode: NetMode) -> Loopback {
        match (mode, self) {
            (NetMode::Host, _) | (NetMode::Sandbox, Self::Host) => Loopback::Host,
            (NetMode::None, _) | (NetMode::Sandbox, Self::None | Self::Namespaces(_)) => Loopback::Own,
        }
    }

    /// The network that an op asks for.
    async fn join(&self, op: &ExecOp, cancel: &CancellationToken) -> Result<Joined, ExecError> {
        match (op.network, self) {
            (NetMode::Host, _) | (NetMode::Sandbox, Self::Host) => Ok(Joined::Host),
            (NetMode::None, _) | (NetMode::Sandbox, Self::None) => Ok(Joined::None),
            (NetMode::Sandbox, Self::Namespaces(namespaces)) => tokio::select! {
                lease = namespaces.lease(&op.hostname) => Ok(Joined::Leased(lease?)),
                () = cancel.cancelled() => Err(ExecError::Cancelled),
            },
        }
    }

    /// Joins the network that an op asks for while something else is being prepared. If one of both fails, the other is
    /// undone before this returns.
    pub(super) async fn join_beside<T: Send + 'static>(
        &self,
        op: &ExecOp,
        cancel: &CancellationToken,
        preparing: impl Future<Output = Result<T, ExecError>>,
    ) -> Result<(T, Joined), ExecError> {
        match tokio::join!(preparing, self.join(op, cancel)) {
            (Ok(prepared), Ok(joined)) => Ok((prepared, joined)),
            (Err(error), joined) => {
                if let Ok(joined) = joined {
                    joined.unused();
                }
                Err(error)
            }
            (Ok(prepared), Err(error)) => {
                let undone = blocking(move || {
                    drop(prepared);
                    Ok(())
                });
                undone.await?;
                Err(error)
            }
        }
    }

    pub(super) async fn close(&self) {
        if let Self::Namespaces(namespaces) = self {
            namespaces.close().await;
        }
    }
}

impl Joined {
    pub(super) fn network(&self) -> Network {
        match self {
            Self::Host => Network::Host,
            Self::None => Network::None,
            Self::Leased(lease) => Network::Namespace(lease.path()),
        }
    }

    /// Nobody has been in it.
    pub(super) fn unused(self) {
        if let Self::Leased(lease) = self {
            lease.give_back();
        }
    }

    /// The only process that was in it has ended; `is_gone` if all that it has started is known to be gone, too.
    pub(super) fn leave(self, process: &ProcessSpec, is_gone: bool) {
        if is_gone && !can_change_network(process) {
            self.unused();
        }
    }
}

/// Whether a process may have left another network than it found. Hooks of devices run as the administrator.
pub(super) fn can_change_network(process: &ProcessSpec) -> bool {
    let is_confined = match process.security {
        SecurityMode::Sandbox => true,
        SecurityMode::Insecure => false,
    };
    !is_confined || !process.devices.hooks.is_empty()
}
