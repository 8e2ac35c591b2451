//! Which tables have rows of some entities: most entities have rows in few tables, and the others need no statement of their own.

use super::catch_up::tables_of;
use super::cell::Cell;
use super::scope::Entities;
use super::tables::{Owner, Table};
use crate::db::{Connection, Value};
use crate::error::{Error, Result};

/// The tables of one kind of entity that may have rows of some entities, besides those that are read by rev.
#[derive(Debug, Default)]
pub(super) struct Presence(Vec<&'static str>);

impl Presence {
    /// Whether the table may have such rows; a table that is read by rev is not asked about here.
    pub(super) fn has(&self, table: &Table) -> bool {
        self.0.contains(&table.name)
    }
}

/// One statement, by the primary key of each table: whether it has rows from the first of the entities to the last. So it may say yes
/// for rows of others, and never no for rows that are there.
///
/// # Errors
/// When the database fails.
pub(super) async fn of(
    connection: &mut Connection,
    owner: Owner,
    entities: &Entities,
) -> Result<Presence> {
    let Some((first, last)) = entities.bounds() else {
        return Ok(Presence::default());
    };
    let asked: Vec<&'static Table> = tables_of(owner).filter(|it| it.rev.is_none()).collect();
    let columns: Vec<String> = asked
        .iter()
        .map(|table| {
            let (name, column) = (table.name, table.columns[0].0);
            format!(
                "EXISTS (SELECT 1 FROM {name} {{by PRIMARY}} WHERE {column} >= ? AND {column} <= ?)"
            )
        })
        .collect();
    let statement = format!("SELECT {}", columns.join(", "));
    let bounds = [first, last].map(Cell::value);
    let args: Vec<Value<'_>> = asked.iter().flat_map(|_| bounds).collect();
    let row = connection.fetch_optional(&statement, &args).await?;
    let row = row.ok_or(Error::Unexpected("a look for rows gave no row"))?;
    let mut present = Vec::new();
    for (column, table) in asked.iter().enumerate() {
        if row.int(column)? != 0 {
            present.push(table.name);
        }
    }
    Ok(Presence(present))
}
