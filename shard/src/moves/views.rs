//! Views for those that read a shard's tables by themselves: each shows only the rows of ranges that the shard serves.
//!
//! While a range moves its rows are on two shards, and the source keeps them for a while after. A report, or a job that follows
//! changes, would see them twice. The views leave out what the shard does not own, by its fences, so the views of all shards
//! together have every row once. For the moment between the source's fence and the target's, at the end of a move, they have the rows of its range not at
//! all. An operator makes them, with an account that may: Backscroll itself does not use them.

use super::tables::MOVED;
use crate::db::Dialect;

/// The statements that make the views `owned_…` of a shard, one for each table whose rows have an owner. They can be run again, and
/// have to be after an upgrade that adds columns.
#[must_use]
pub fn owned_views(dialect: Dialect) -> Vec<String> {
    let mut statements = Vec::new();
    for table in &MOVED {
        let name = table.name;
        let columns: Vec<String> = table
            .columns
            .iter()
            .map(|(it, _)| format!("t.{it}"))
            .collect();
        let (columns, key) = (columns.join(", "), table.columns[0].0);
        let create = match dialect {
            Dialect::MySql => "CREATE OR REPLACE SQL SECURITY INVOKER VIEW",
            Dialect::Sqlite => {
                statements.push(format!("DROP VIEW IF EXISTS owned_{name}"));
                "CREATE VIEW"
            }
        };
        statements.push(format!(
            "{create} owned_{name} AS SELECT {columns} FROM {name} t WHERE EXISTS (SELECT 1 FROM fences f WHERE f.state <> 'gone' \
             AND f.range_start <= t.{key} AND (f.range_end IS NULL OR t.{key} < f.range_end))"
        ));
    }
    statements
}
