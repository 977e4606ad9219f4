//! Owners by number or name.

use cairn_solver::llb::{ActionInput, Chown, UserSpec};

use super::error::FileOpError;
use crate::executor::user;
use crate::sys::Root;

/// User and group.
pub type Owner = (u32, u32);

/// Finds out whom `chown` means. `accounts` opens the root file system in which names are looked up.
///
/// Names that are not known stand for root, as clients of this API expect. A user brings its group along, which a group
/// then replaces.
pub(super) fn resolve<A: std::ops::Deref<Target = Root>>(
    chown: &Chown,
    mut accounts: impl FnMut(ActionInput) -> Result<A, FileOpError>,
) -> Result<Owner, FileOpError> {
    let mut root_of = |input: &Option<ActionInput>| accounts(input.ok_or(FileOpError::NoAccounts)?);
    let failed = |name: &str| {
        let name = name.to_owned();
        move |error: user::UserError| FileOpError::Owner {
            name,
            reason: error.to_string(),
        }
    };
    let (uid, mut gid) = match &chown.user {
        None => (0, 0),
        Some(UserSpec::Id(id)) => (*id, *id),
        Some(UserSpec::Name { name, input }) => {
            let root = root_of(input)?;
            user::find_user(&root, name).map_err(failed(name))?.unwrap_or((0, 0))
        }
    };
    match &chown.group {
        None => {}
        Some(UserSpec::Id(id)) => gid = *id,
        Some(UserSpec::Name { name, input }) => {
            let root = root_of(input)?;
            gid = user::find_group(&root, name).map_err(failed(name))?.unwrap_or(gid);
        }
    }
    Ok((uid, gid))
}
