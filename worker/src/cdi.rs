//! Devices of the host, as the Container Device Interface describes them: files in a few directories that say what a
//! container needs to use a device.
//!
//! | module | part |
//! |---|---|
//! | `spec` | one file: reading and validating it |
//! | `registry` | the directories: which devices there are now |
//! | `edits` | what is changed about a container that gets some of them |
//!
//! Which devices a name means, and who may have them, is [`cairn_solver::device`]'s to say. The files are the
//! administrator's: one that others can write, or a broken one, is warned of and left out. They decide what of the host a step sees; what they say is
//! carried out by [`crate::executor`], where everything about containers is.

mod edits;
mod registry;
mod spec;

use std::path::PathBuf;

pub use edits::CdiError;
pub use registry::Cdi;

/// Directories with descriptions of devices, if none are configured; later ones come before earlier ones.
pub const DEFAULT_DIRS: [&str; 3] = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"];

/// Where devices are described, and which of them are for everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdiConfig {
    /// Directories; what a later one says about a device counts.
    pub dirs: Vec<PathBuf>,
    /// Devices (`vendor.com/class=name`) and kinds (`vendor.com/class`) that every build may have.
    pub auto_allowed: Vec<String>,
}
