//! All of a deployment, as lines that `backscroll import` takes into another one.
//!
//! | line | what it is |
//! |---|---|
//! | `{"backscroll":"deployment","keys":"hashed","version":1}` | the first; `since` when only changes are in it |
//! | `{"conversation":"…","rev":7}` | a conversation begins |
//! | `{"conversation":"…","deletedAt":…}` | one that is deleted: by itself, or in the place of its end |
//! | `{"dropped":3}` | its messages up to this one were dropped when their retention ended |
//! | `{"members":{…}}` and other tables of conversations | a row ([`backscroll_shard::dump`]) |
//! | `{"seq":4,"at":…,"by":"alice","text":"…","rev":5}` | a message, as in the archive, with its place and time |
//! | `{"conversations":{…},"rows":2,"messages":1}` | its head, which ends it, and how many lines of it there are |
//! | `{"importedChannel":{…}}` | under which name a conversation was imported |
//! | `{"users":{…}}` and other tables of users | a row |
//! | `{"end":"deployment","lines":9}` | the last; how many lines are before it |
//!
//! Conversations come in the order of their ids and rows in that of their keys, whatever shards they are on, and no line has
//! the time of the export: two deployments with the same content give the same bytes. At most a page of messages and the
//! first rows of a few conversations are in memory (INV-BOUND).

use std::fmt;
use std::io::{self, Write};

use anyhow::Context as _;
use backscroll_archiver::segment;
use backscroll_shard::dump::{Begun, ConversationsCursor, DumpRow, RowsCursor, UsersCursor};
use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, Rev, Seq};
use backscroll_shard::model::Timestamp;
use backscroll_shard::store::Store;
use futures_util::{StreamExt as _, stream};
use serde_json::json;

use crate::cli::out;
use crate::cli::progress::Tally;

/// Messages read at a time.
const PAGE: u32 = 500;

/// Conversations whose beginnings are read at a time.
const AHEAD: usize = 8;

/// How much earlier than `since` it looks: clocks of nodes differ, and a message has the time at which its commit began.
const LEEWAY: std::time::Duration = std::time::Duration::from_secs(60);

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Conversations.
    pub conversations: u64,
    /// Lines, the last one not counted.
    pub lines: u64,
    messages: u64,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conversations = out::counted(self.conversations, "conversation");
        let messages = out::counted(self.messages, "message");
        write!(f, "{conversations}, {messages}")
    }
}

/// Writes everything, or with `since` what may have changed since then.
///
/// # Errors
/// When a shard or the archive is away, or the output cannot be written: the closing line is missing then.
pub(super) async fn write(
    store: &Store,
    since: Option<Timestamp>,
    tally: &Tally,
    sink: &mut impl Write,
) -> anyhow::Result<Written> {
    let mut export = Export {
        store,
        since: since.map(|since| since.minus(LEEWAY)),
        tally,
        sink,
        line: Vec::new(),
        written: Written::default(),
    };
    let mut first =
        json!({ "backscroll": "deployment", "version": 1, "keys": store.key_function() });
    if let Some(since) = since {
        first["since"] = json!(since);
    }
    export.json(&first)?;
    export.conversations().await?;
    export.channels().await?;
    export.users().await?;
    let lines = export.written.lines;
    export.json(&json!({ "end": "deployment", "lines": lines }))?;
    export.written.lines = lines;
    Ok(export.written)
}

struct Export<'a, W> {
    store: &'a Store,
    since: Option<Timestamp>,
    tally: &'a Tally,
    sink: &'a mut W,
    line: Vec<u8>,
    written: Written,
}

/// The beginning of a conversation.
struct Beginning {
    begun: Begun,
    /// Only messages of a greater rev are to be written.
    since: Option<Rev>,
    rows: Vec<DumpRow>,
    next: Option<RowsCursor>,
}

impl<W: Write> Export<'_, W> {
    async fn users(&mut self) -> anyhow::Result<()> {
        let mut cursor = UsersCursor::default();
        loop {
            let rows = self.store.dump_users(&mut cursor).await?;
            if rows.is_empty() {
                return Ok(());
            }
            self.rows(&rows)?;
        }
    }

    async fn conversations(&mut self) -> anyhow::Result<()> {
        let mut cursor = ConversationsCursor::default();
        loop {
            let found = self.store.dump_conversations(&mut cursor).await?;
            if found.is_empty() {
                return Ok(());
            }
            let (store, since) = (self.store, self.since);
            let begin = |(id, deleted): (ConversationId, Option<Timestamp>)| async move {
                let beginning = match deleted {
                    None => begin(store, id, since).await?,
                    Some(_) => None,
                };
                anyhow::Ok((id, deleted, beginning))
            };
            let mut beginnings = stream::iter(found).map(begin).buffered(AHEAD);
            while let Some(beginning) = beginnings.next().await {
                let (id, deleted, beginning) = beginning?;
                match (beginning, deleted) {
                    (Some(beginning), _) => self
                        .conversation(id, beginning)
                        .await
                        .with_context(|| format!("conversation {id}"))?,
                    (None, Some(at)) if self.since.is_some_and(|since| at >= since) => {
                        self.deleted(id, at)?;
                    }
                    (None, _) => {}
                }
            }
        }
    }

    async fn conversation(
        &mut self,
        id: ConversationId,
        beginning: Beginning,
    ) -> anyhow::Result<()> {
        let Beginning {
            begun,
            since,
            mut rows,
            mut next,
        } = beginning;
        self.json(&json!({ "conversation": id, "rev": begun.rev }))?;
        if begun.dropped > Seq(0) {
            self.json(&json!({ "dropped": begun.dropped }))?;
        }
        let (mut count, mut messages) = (0, 0);
        loop {
            count += rows.len();
            self.rows(&rows)?;
            let Some(cursor) = next else { break };
            (rows, next) = self.store.dump_rows(id, &cursor).await?;
        }
        let mut after = begun.dropped;
        while after < begun.head_seq {
            let read = self.store.dump_messages(id, (after, PAGE), since).await;
            let page = match read {
                Err(Error::NotFound(_) | Error::NotMember) => {
                    return self.deleted(id, Timestamp::now()); // meanwhile
                }
                page => page?,
            };
            let Some((page, last)) = page else { break };
            // What was sent since it began is not in it.
            let page = page
                .iter()
                .take_while(|message| message.seq <= begun.head_seq);
            for message in page {
                segment::write_whole(message, &mut self.line)?;
                self.end_line()?;
                messages += 1;
                self.tally.add_done(1);
            }
            after = last;
        }
        self.written.messages += messages;
        self.written.conversations += 1;
        begun.head.write(&mut self.line);
        writeln!(self.line, ",\"rows\":{count},\"messages\":{messages}}}")?;
        Ok(self.end_line()?)
    }

    fn deleted(&mut self, id: ConversationId, at: Timestamp) -> anyhow::Result<()> {
        Ok(self.json(&json!({ "conversation": id, "deletedAt": at.0 }))?)
    }

    async fn channels(&mut self) -> anyhow::Result<()> {
        let mut after = Vec::new();
        while let Some(channels) = self.store.dump_channels(&mut after).await? {
            for channel in channels {
                let mut named = json!({ "channel": channel.channel });
                if let Some(owner) = channel.owner {
                    named["owner"] = json!(owner);
                }
                named["conversation"] = json!(channel.conversation);
                self.json(&json!({ "importedChannel": named }))?;
            }
        }
        Ok(())
    }

    fn rows(&mut self, rows: &[DumpRow]) -> io::Result<()> {
        for row in rows {
            row.write(&mut self.line);
            self.line.extend_from_slice(b"}\n");
            self.end_line()?;
        }
        Ok(())
    }

    fn json(&mut self, line: &serde_json::Value) -> io::Result<()> {
        writeln!(self.line, "{line}")?;
        self.end_line()
    }

    fn end_line(&mut self) -> io::Result<()> {
        self.sink.write_all(&self.line)?;
        self.line.clear();
        self.written.lines += 1;
        Ok(())
    }
}

async fn begin(
    store: &Store,
    id: ConversationId,
    since: Option<Timestamp>,
) -> anyhow::Result<Option<Beginning>> {
    let Some((begun, since)) = store.dump_begin(id, since).await? else {
        return Ok(None);
    };
    let (rows, next) = store.dump_rows(id, &RowsCursor::default()).await?;
    Ok(Some(Beginning {
        begun,
        since,
        rows,
        next,
    }))
}
