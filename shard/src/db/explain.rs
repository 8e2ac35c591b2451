//! For tests: the plan of every statement, so that a scan cannot slip in.
//!
//! A database that is [`watch`]ed before it is opened has each of its statements explained, with its real values, just
//! before it runs. Compiled only with the feature `explain`, which only this crate's own tests turn on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use sqlx::Row as _;

use super::connection::Raw;
use super::value::bound;
use super::{Connection, Value};

/// The plan of a statement: what is done with each table it reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// The table, or its alias.
    pub table: String,
    /// Whether all its rows (or all entries of an index) are read.
    pub scans: bool,
}

static PLANS: Mutex<BTreeMap<String, BTreeMap<String, BTreeSet<Step>>>> =
    Mutex::new(BTreeMap::new());

/// Explains what will run on the database with this address.
pub fn watch(url: &str) {
    plans().entry(url.to_owned()).or_default();
}

/// The statements that ran on the database with this address, with what their plans did.
#[must_use]
pub fn seen(url: &str) -> BTreeMap<String, BTreeSet<Step>> {
    plans().get(url).cloned().unwrap_or_default()
}

pub(super) fn watched(url: &str) -> Option<String> {
    plans().contains_key(url).then(|| url.to_owned())
}

fn plans() -> std::sync::MutexGuard<'static, BTreeMap<String, BTreeMap<String, BTreeSet<Step>>>> {
    PLANS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    pub(super) async fn explain(
        &mut self,
        statement: &str,
        args: &[Value<'_>],
    ) -> sqlx::Result<()> {
        let Some(url) = self.watched.clone() else {
            return Ok(());
        };
        let sql = &self.dialect().render(statement);
        if sql.starts_with("INSERT") {
            return Ok(()); // values only; MariaDB calls every insert's target a scan
        }
        let steps: BTreeSet<Step> = match &mut self.raw {
            Some(Raw::MySql(connection)) => {
                let query = format!("EXPLAIN FORMAT=TRADITIONAL {sql}");
                let rows = bound!(query, args).fetch_all(&mut **connection).await?;
                let text = |row: &sqlx::mysql::MySqlRow, column: &str| {
                    let value: Option<Vec<u8>> = row.try_get_unchecked(column)?;
                    Ok::<_, sqlx::Error>(
                        String::from_utf8_lossy(&value.unwrap_or_default()).into_owned(),
                    )
                };
                let step = |row| {
                    Ok(Step {
                        table: text(row, "table")?,
                        // An index that is read in its order as far as a LIMIT goes is not read as a whole: MySQL does so
                        // where nearly every entry fits.
                        scans: match text(row, "type")?.as_str() {
                            "ALL" => true,
                            "index" => !sql.contains(" LIMIT "),
                            _ => false,
                        },
                    })
                };
                rows.iter().map(step).collect::<sqlx::Result<_>>()?
            }
            Some(Raw::Sqlite(connection)) => {
                let query = format!("EXPLAIN QUERY PLAN {sql}");
                let rows = bound!(query, args).fetch_all(&mut **connection).await?;
                let mut steps = BTreeSet::new();
                for row in rows {
                    let detail: String = row.try_get_unchecked("detail")?;
                    let mut words = detail.split(' ');
                    if let (Some(verb @ ("SCAN" | "SEARCH")), Some(table)) =
                        (words.next(), words.next())
                    {
                        steps.insert(Step {
                            table: table.to_owned(),
                            scans: verb == "SCAN",
                        });
                    }
                }
                steps
            }
            None => return Ok(()),
        };
        plans()
            .entry(url)
            .or_default()
            .entry(sql.to_owned())
            .or_default()
            .extend(steps);
        Ok(())
    }
}
