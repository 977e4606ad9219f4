//! `cairn prune`.

use std::time::SystemTime;

use cairn_client::{Client, PruneOptions};

use super::{Failure, du};
use crate::args::PruneArgs;
use crate::quantity;
use crate::ui::{self, text::clean};

/// Removes what is not needed, and says what is gone.
pub(super) async fn run(client: &Client, args: PruneArgs) -> Result<(), Failure> {
    let options = PruneOptions {
        filters: args.filters,
        all: args.all,
        keep_duration: args.keep_duration.unwrap_or_default(),
        reserved_space_bytes: args.reserved_space.unwrap_or_default(),
        max_used_space_bytes: args.max_used_space.unwrap_or_default(),
        min_free_space_bytes: args.min_free_space.unwrap_or_default(),
    };
    let (mut total, mut count) = (0_u64, 0_usize);
    let mut written = Ok(());
    let now = SystemTime::now();
    client
        .prune(options, |record| {
            total = total.saturating_add(du::bytes(&record));
            count += 1;
            if written.is_ok() {
                written = ui::print(&if args.verbose {
                    du::verbose(std::slice::from_ref(&record), now)
                } else {
                    format!("{}  {}\n", clean(&record.id), quantity::size(du::bytes(&record)))
                });
            }
        })
        .await?;
    written?;
    let records = if count == 1 { "record" } else { "records" };
    Ok(ui::print(&format!(
        "Removed {count} {records}, {}\n",
        quantity::size(total)
    ))?)
}
