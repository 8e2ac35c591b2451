//! The other side of the comparison: the same messages inserted row by row into MySQL, each by a prepared single-row
//! `INSERT` that commits by itself.
//!
//! The tables are copies of the shards' own (`CREATE TABLE … LIKE`), so every row costs the same indexes, and lie in as
//! many databases. Nothing else is done: no head, no membership, no idempotency beyond the unique key; the client counts
//! the sequence numbers. That is less work than a chat needs, and so the comparison is kind to this side.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr, SqlStr};

use crate::drafts::{Conversations, Drafts, Texts, write_id};
use crate::harness::databases::Databases;
use crate::load::{Operation, Outcome};

/// Where the rows of one conversation go.
struct Target {
    id: [u8; 16],
    senders: Vec<String>,
    insert: SqlStr,
    next_seq: AtomicI64,
}

/// The tables, and the counters of all conversations.
pub struct Tables {
    targets: Vec<Target>,
    texts: Texts,
    names: Vec<String>,
    inserted: AtomicU64,
}

/// A conversation to insert into: its id as stored, its members' ids, and which shard has it.
pub struct Insertable {
    /// The id as stored.
    pub id: [u8; 16],
    /// The members' user ids.
    pub members: Vec<String>,
    /// The position of its shard.
    pub shard: usize,
}

impl Tables {
    /// Copies the messages table of each of the databases called `shards` into the one at the same place in `copies`.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn copy(
        databases: &Databases,
        shards: &[String],
        copies: &[String],
        conversations: Vec<Insertable>,
        texts: Texts,
    ) -> Result<Arc<Self>> {
        let mut connection = databases.connect_to_server().await?;
        let mut names = Vec::with_capacity(copies.len());
        for (shard, copy) in shards.iter().zip(copies) {
            let name = format!("{}.messages", databases.name(copy));
            let create = format!(
                "CREATE TABLE {name} LIKE {}.messages",
                databases.name(shard)
            );
            connection
                .execute(AssertSqlSafe(create))
                .await
                .context("cannot copy the messages table")?;
            names.push(name);
        }
        let inserts: Vec<SqlStr> = names.iter().map(|name| insert_into(name)).collect();
        let target = |conversation: Insertable| Target {
            id: conversation.id,
            senders: conversation.members,
            insert: inserts[conversation.shard].clone(),
            next_seq: AtomicI64::new(1),
        };
        let targets = conversations.into_iter().map(target).collect();
        Ok(Arc::new(Self {
            targets,
            texts,
            names,
            inserted: AtomicU64::new(0),
        }))
    }

    /// Refuses to go on unless the tables hold exactly the rows that were inserted; returns how many.
    ///
    /// # Errors
    /// When they do not, or the server does not answer.
    pub async fn check(&self, connection: &mut MySqlConnection) -> Result<u64> {
        let mut stored = 0;
        for name in &self.names {
            let count = AssertSqlSafe(format!("SELECT COUNT(*) FROM {name}"));
            stored += sqlx::query_scalar::<_, i64>(count)
                .fetch_one(&mut *connection)
                .await?
                .cast_unsigned();
        }
        let inserted = self.inserted.load(Ordering::Relaxed);
        ensure!(
            stored == inserted,
            "{inserted} rows were inserted, but {stored} are there"
        );
        Ok(stored)
    }
}

fn insert_into(table: &str) -> SqlStr {
    let sql = format!(
        "INSERT INTO {table} (conversation_id, seq, rev, sender_id, client_msg_id, body_digest, message_type, content, created_at) \
         VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?)"
    );
    AssertSqlSafe(sql).into_sql_str()
}

/// A connection that inserts.
pub struct Inserter {
    connection: MySqlConnection,
    tables: Arc<Tables>,
    drafts: Drafts,
    client_msg_id: String,
}

impl Inserter {
    /// `count` connections, each with drafts of its own to all conversations.
    ///
    /// # Errors
    /// When the server does not take them.
    pub async fn open_many(
        databases: &Databases,
        tables: &Arc<Tables>,
        count: usize,
    ) -> Result<Vec<Self>> {
        let conversations: Conversations = (0..tables.targets.len() as u32).collect();
        let members = tables
            .targets
            .iter()
            .map(|target| target.senders.len())
            .min()
            .unwrap_or(0);
        let mut inserters = Vec::with_capacity(count);
        for _ in 0..count {
            inserters.push(Self {
                connection: databases.connect_to_server().await?,
                tables: Arc::clone(tables),
                drafts: Drafts::new(rand::random(), Arc::clone(&conversations), members)?,
                client_msg_id: String::new(),
            });
        }
        Ok(inserters)
    }
}

impl Operation for Inserter {
    async fn perform(&mut self) -> Result<Outcome> {
        let draft = self.drafts.draw();
        let target = &self.tables.targets[draft.conversation as usize];
        let seq = target.next_seq.fetch_add(1, Ordering::Relaxed);
        self.client_msg_id.clear();
        write_id(draft.id, &mut self.client_msg_id);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
        let done = sqlx::query(target.insert.clone())
            .bind(&target.id[..])
            .bind(seq)
            .bind(seq)
            .bind(target.senders[usize::from(draft.member)].as_bytes())
            .bind(self.client_msg_id.as_bytes())
            .bind(draft.id as i64)
            .bind(self.tables.texts.plain(&draft))
            .bind(now)
            .execute(&mut self.connection)
            .await?;
        ensure!(done.rows_affected() == 1, "an insert did not insert");
        self.tables.inserted.fetch_add(1, Ordering::Relaxed);
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::harness::databases::with_databases;
    use crate::load::closed_loop;

    /// The statement that makes the messages table of a shard.
    const MESSAGES: &str = include_str!("../../../migrations/shard/mysql/0004_messages.sql");

    #[tokio::test]
    async fn every_row_that_counts_is_there() {
        let names = ["shard1", "shard2", "rows1", "rows2"].map(str::to_owned);
        let (shards, copies) = names.split_at(2);
        let url = backscroll_testkit::sql_server_url();
        with_databases(&url, &names, async |databases| {
            for shard in shards {
                databases.connect(shard).await?.execute(MESSAGES).await?;
            }
            let insertable = |n: u8| Insertable {
                id: [n; 16],
                members: vec!["anna".into(), "ben".into()],
                shard: usize::from(n % 2),
            };
            let texts = Texts::new(1)?;
            let tables = Tables::copy(
                databases,
                shards,
                copies,
                (0..20).map(insertable).collect(),
                texts,
            )
            .await?;
            let mut inserters = Inserter::open_many(databases, &tables, 3).await?;
            let measured =
                closed_loop(&mut inserters, Duration::from_millis(200), Duration::ZERO).await?;
            let mut connection = databases.connect_to_server().await?;
            assert!(tables.check(&mut connection).await? >= measured.done().max(1));
            let lose_one = format!("DELETE FROM {} LIMIT 1", tables.names[0]);
            connection.execute(AssertSqlSafe(lose_one)).await?;
            assert!(tables.check(&mut connection).await.is_err());
            Ok(())
        })
        .await
        .unwrap();
    }
}
