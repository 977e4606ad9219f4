//! `cairn version`.

use super::Failure;
use crate::daemon::{self, Daemon};
use crate::target::Target;
use crate::ui::{self, table, text::clean};

/// Says who we are, and who the daemon is when one runs already.
pub(super) fn run(target: Target) -> Result<(), Failure> {
    let mut pairs = vec![("cairn", env!("CARGO_PKG_VERSION").to_owned())];
    match &target {
        Target::Remote(address) => {
            let address = address.to_string();
            let version = daemon::runtime(&target)?.block_on(async {
                let daemon = Daemon::reach(target.clone()).await?;
                daemon.client().info().await.map_err(Failure::from)
            })?;
            let words = [&version.package, &version.version, &version.revision];
            let words: Vec<String> = words
                .iter()
                .filter(|word| !word.is_empty())
                .map(|word| clean(word))
                .collect();
            pairs.push(("daemon", format!("{} at {address}", words.join(" "))));
        }
        // Starting one only to ask its version would be a waste: it is this very program.
        Target::Embedded(_) => pairs.push(("daemon", "inside this process".to_owned())),
    }
    Ok(ui::print(&table::pairs(&pairs))?)
}
