//! `cairn du`.

use std::time::SystemTime;

use cairn_client::Client;
use cairn_proto::control::UsageRecord;
use prost_types::Timestamp;

use super::Failure;
use crate::args::DuArgs;
use crate::quantity;
use crate::ui::{self, table, text::clean};

/// Lists what the cache holds.
pub(super) async fn run(client: &Client, args: DuArgs) -> Result<(), Failure> {
    let mut records = client.disk_usage(args.filters).await?;
    records.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let now = SystemTime::now();
    let mut text = if args.verbose {
        verbose(&records, now)
    } else {
        brief(&records, now)
    };
    text.push_str(&totals(&records));
    Ok(ui::print(&text)?)
}

fn brief(records: &[UsageRecord], now: SystemTime) -> String {
    let row = |record: &UsageRecord| {
        let mark = if record.mutable { "*" } else { "" };
        vec![
            format!("{}{mark}", clean(&record.id)),
            is_reclaimable(record).to_string(),
            size(record),
            used(record, now),
            clean(&record.description),
        ]
    };
    let rows: Vec<Vec<String>> = records.iter().map(row).collect();
    table::render(&["ID", "RECLAIMABLE", "SIZE", "LAST USED", "DESCRIPTION"], &rows)
}

/// Everything about each record.
pub(super) fn verbose(records: &[UsageRecord], now: SystemTime) -> String {
    let block = |record: &UsageRecord| {
        let mut pairs = vec![("ID", clean(&record.id))];
        if !record.parents.is_empty() {
            let parents: Vec<String> = record.parents.iter().map(|parent| clean(parent)).collect();
            pairs.push(("Parents", parents.join(", ")));
        }
        pairs.extend([
            ("Created", moment(record.created_at)),
            ("Mutable", record.mutable.to_string()),
            ("Reclaimable", is_reclaimable(record).to_string()),
            ("Shared", record.shared.to_string()),
            ("Size", size(record)),
            ("Description", clean(&record.description)),
            ("Usage count", record.usage_count.to_string()),
            ("Last used", used(record, now)),
            ("Type", clean(&record.record_type)),
        ]);
        table::pairs(&pairs) + "\n"
    };
    records.iter().map(block).collect()
}

fn totals(records: &[UsageRecord]) -> String {
    let sum = |wanted: &dyn Fn(&UsageRecord) -> bool| {
        let sizes = records.iter().filter(|record| wanted(record)).map(bytes);
        quantity::size(sizes.fold(0, u64::saturating_add))
    };
    let mut pairs = Vec::new();
    if records.iter().any(|record| record.shared) {
        pairs.push(("Shared", sum(&|record| record.shared)));
        pairs.push(("Private", sum(&|record| !record.shared)));
    }
    pairs.push(("Reclaimable", sum(&is_reclaimable)));
    pairs.push(("Total", sum(&|_| true)));
    table::pairs(&pairs)
}

fn is_reclaimable(record: &UsageRecord) -> bool {
    !record.in_use
}

pub(super) fn bytes(record: &UsageRecord) -> u64 {
    u64::try_from(record.size).unwrap_or(0)
}

fn size(record: &UsageRecord) -> String {
    // Below zero means not known.
    if record.size < 0 {
        "unknown".to_owned()
    } else {
        quantity::size(bytes(record))
    }
}

fn used(record: &UsageRecord, now: SystemTime) -> String {
    let at = record.last_used_at.and_then(|at| SystemTime::try_from(at).ok());
    at.map_or_else(
        || "never".to_owned(),
        |at| quantity::ago(now.duration_since(at).unwrap_or_default()),
    )
}

fn moment(at: Option<Timestamp>) -> String {
    let at = at.and_then(|at| jiff::Timestamp::new(at.seconds, 0).ok());
    at.map_or_else(|| "unknown".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn records() -> Vec<UsageRecord> {
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        vec![
            UsageRecord {
                id: "abc".into(),
                size: 12_300_000,
                description: "mount / from exec make\u{1b}[2J".into(),
                created_at: at(0),
                last_used_at: at(40),
                usage_count: 3,
                record_type: "regular".into(),
                parents: vec!["def".into()],
                ..UsageRecord::default()
            },
            UsageRecord {
                id: "def".into(),
                size: 500,
                in_use: true,
                mutable: true,
                shared: true,
                ..UsageRecord::default()
            },
        ]
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(100)
    }

    #[test]
    fn records_make_a_table() {
        let records = records();
        insta::assert_snapshot!(brief(&records, now()) + &totals(&records), @r"
        ID     RECLAIMABLE   SIZE     LAST USED      DESCRIPTION
        abc    true          12.3MB   1 minute ago   mount / from exec make
        def*   false         500B     never
        Shared:       500B
        Private:      12.3MB
        Reclaimable:  12.3MB
        Total:        12.3MB
        ");
    }

    #[test]
    fn every_record_can_be_shown_whole() {
        insta::assert_snapshot!(verbose(&records()[..1], now()), @r"
        ID:           abc
        Parents:      def
        Created:      1970-01-01T00:00:00Z
        Mutable:      false
        Reclaimable:  true
        Shared:       false
        Size:         12.3MB
        Description:  mount / from exec make
        Usage count:  3
        Last used:    1 minute ago
        Type:         regular

        ");
    }
}
