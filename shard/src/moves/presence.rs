//! What one side has of some entities: their heads, and which tables have rows of them, since most entities have rows in few tables, and the others need no statement of their own.

use std::collections::BTreeMap;

use super::catch_up::{head_of, tables_of};
use super::rows::{self, Cell, Reading, Record};
use super::scope::{Entities, Scope};
use super::tables::{Owner, Table};
use crate::db::{Connection, Statement, Value};
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

/// What one side has of some entities of one kind.
#[derive(Debug)]
pub(super) struct Known {
    /// Their heads.
    pub(super) heads: Vec<Record>,
    pub(super) present: Presence,
    table: &'static Table,
}

impl Known {
    /// The rev of each entity's head, 0 where there is none: everything up to it is copied with the head.
    pub(super) fn revs<'e>(&self, entities: &'e Entities) -> Vec<(&'e [Cell], i64)> {
        let heads = self.heads.iter();
        let known: BTreeMap<&[Cell], i64> = heads
            .map(|it| (it.key(self.table), rows::head_rev(self.table, it)))
            .collect();
        let rev = |prefix| (prefix, known.get(prefix).copied().unwrap_or(0));
        entities.prefixes().map(rev).collect()
    }
}

/// Two statements in one round trip: the heads, and whether each table has rows from the first of the entities to the last. So it may
/// say yes for rows of others, and never no for rows that are there.
///
/// # Errors
/// When the database fails.
pub(super) async fn of(
    connection: &mut Connection,
    owner: Owner,
    entities: &Entities,
) -> Result<Known> {
    let table = head_of(owner);
    let scope = Scope::Entities(entities.clone());
    let heads = Reading::first(table, &scope, entities.len() + 1);
    let (Some(heads), Some(bounds)) = (heads, entities.bounds()) else {
        return Ok(Known {
            heads: Vec::new(),
            present: Presence::default(),
            table,
        });
    };
    let asked: Vec<&'static Table> = tables_of(owner).filter(|it| it.rev.is_none()).collect();
    let statements = [heads.statement(), presence(&asked, bounds)];
    let mut answers = connection.run_all(&statements).await?.into_iter();
    let heads = heads.records(answers.next())?;
    let row = answers.next().and_then(|it| it.rows.into_iter().next());
    let row = row.ok_or(Error::Unexpected("a look for rows gave no row"))?;
    let mut present = Vec::new();
    for (column, table) in asked.iter().enumerate() {
        if row.int(column)? != 0 {
            present.push(table.name);
        }
    }
    Ok(Known {
        heads,
        present: Presence(present),
        table,
    })
}

/// By the primary key of each table.
fn presence<'a>(asked: &[&'static Table], (first, last): (&'a Cell, &'a Cell)) -> Statement<'a> {
    let columns: Vec<String> = asked
        .iter()
        .map(|table| {
            let (name, column) = (table.name, table.columns[0].0);
            format!(
                "EXISTS (SELECT 1 FROM {name} {{by PRIMARY}} WHERE {column} >= ? AND {column} <= ?)"
            )
        })
        .collect();
    let bounds = [first, last].map(Cell::value);
    let args: Vec<Value<'a>> = asked.iter().flat_map(|_| bounds).collect();
    Statement::new(format!("SELECT {}", columns.join(", ")), args)
}
