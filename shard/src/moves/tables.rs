//! Which tables a range consists of: how each of them is copied, compared and deleted.
//!
//! Every table of a shard is either in [`MOVED`] or in `STAYING`; a test compares both with the schema, column by column. The
//! rows of a moved table belong to a conversation or to a user, whose key is the beginning of the primary key, so a range is
//! one stretch of it. Tables are copied in this order: a conversation's head before its messages, a user's rev before the list.
//! Whatever changed with a rev up to the head's is then found by the copies of the other tables, which are read later.
//!
//! | table | what orders two versions of a row |
//! |---|---|
//! | `messages`, `list_entries` | `rev`; catching up reads the rows with a greater one than the copied head's, by an index |
//! | all others | nothing in the row: the version that was read later from the source is the newer one. There is one runner at a time, it reads before it writes, and its transactions fail once another runner has taken over; catching up compares all rows of the conversation or user |
//!
//! Archived objects do not move: their index rows do, and the registry of the target learns of the segments that these name
//! ([`super::segments`]).

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Int,
    Bytes,
    Text,
}

/// Whose rows a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The first column is a conversation's id.
    Conversation,
    /// The first two columns are a user's key and id.
    User,
}

impl Owner {
    /// How many columns of the primary key name the owner.
    pub(crate) fn columns(self) -> usize {
        match self {
            Self::Conversation => 1,
            Self::User => 2,
        }
    }
}

/// What is compared of a table once it is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// Every row and column.
    Whole,
    /// All but this column, which the relay changes on either shard: a mark that was copied is there until the lists have
    /// followed.
    Without(usize),
    /// All but this column, a number that the target gives by itself.
    Numbered(usize),
    /// Nothing: rows are only ever removed, by the relay, on either shard, once the lists have followed.
    Not,
}

/// A table whose rows move with their range.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) owner: Owner,
    /// How many of the columns, from the first on, are the primary key.
    pub(crate) key: usize,
    pub(crate) columns: &'static [(&'static str, Kind)],
    /// The column that orders the versions of a row, if one does.
    pub(crate) rev: Option<usize>,
    pub(crate) compared: Compared,
}

macro_rules! columns {
    ($($kind:ident $name:literal),* $(,)?) => {
        &[$(($name, columns!(@ $kind))),*]
    };
    (@ int) => { Kind::Int };
    (@ bytes) => { Kind::Bytes };
    (@ text) => { Kind::Text };
}

/// The tables that move, in the order in which they are copied.
pub(crate) static MOVED: [Table; 23] = [
    Table {
        name: "conversations",
        owner: Owner::Conversation,
        key: 1,
        columns: columns!(
            bytes "id", int "kind", text "title", text "metadata", bytes "created_by", int "created_at", int "head_seq", int "rev",
            int "members_rev", int "member_count", int "relayed", text "first_members", bytes "last_sender", int "last_type",
            text "last_preview", int "last_at", int "oldest_hot_at", int "marked", int "deleted_at", text "writers",
            int "request_digest", text "blocked_by", int "members_pin", int "last_mention", int "threaded",
        ),
        rev: None, // the relay and the archive change it without one
        compared: Compared::Without(17),
    },
    Table {
        name: "members",
        owner: Owner::Conversation,
        key: 2,
        columns: columns!(
            bytes "conversation_id", bytes "user_id", int "role", int "read_seq", int "delivered_seq", int "rev",
            int "joined_at", int "left_as",
        ),
        rev: None, // watermarks take none
        compared: Compared::Whole,
    },
    Table {
        name: "messages",
        owner: Owner::Conversation,
        key: 2,
        columns: columns!(
            bytes "conversation_id", int "seq", int "rev", bytes "sender_id", bytes "client_msg_id", int "body_digest",
            int "message_type", text "content", int "reply_to", text "attachments", text "reactions", text "metadata",
            text "edit_history", int "created_at", int "edited_at", int "deleted_at", bytes "archived_client_msg_id",
            int "pinned_at", bytes "pinned_by", text "mentions",
        ),
        rev: Some(2),
        compared: Compared::Whole,
    },
    Table {
        name: "pins",
        owner: Owner::Conversation,
        key: 2,
        columns: columns!(bytes "conversation_id", int "seq"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "mentions",
        owner: Owner::Conversation,
        key: 3,
        columns: columns!(bytes "conversation_id", bytes "user_id", int "seq"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "replies",
        owner: Owner::Conversation,
        key: 3,
        columns: columns!(bytes "conversation_id", int "root", int "seq", int "sent_at"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "threads",
        owner: Owner::Conversation,
        key: 2,
        columns: columns!(bytes "conversation_id", int "root", int "replies", int "last_at"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "receipts",
        owner: Owner::Conversation,
        key: 2,
        columns: columns!(bytes "conversation_id", bytes "user_id", text "steps"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "list_marks",
        owner: Owner::Conversation,
        key: 2,
        columns: columns!(bytes "conversation_id", bytes "user_id", int "token"),
        rev: None,
        compared: Compared::Not,
    },
    Table {
        name: "imports",
        owner: Owner::Conversation,
        key: 1,
        columns: columns!(bytes "conversation_id", int "position"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "import_batches",
        owner: Owner::Conversation,
        key: 2,
        columns: columns!(bytes "conversation_id", int "last_record", int "last_seq", int "digest"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "copied_conversations",
        owner: Owner::Conversation,
        key: 1,
        columns: columns!(bytes "conversation_id", int "rev", int "head_rev"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "archive_runs",
        owner: Owner::Conversation,
        key: 3,
        columns: columns!(
            bytes "conversation_id", int "last_seq", int "generation", int "first_seq", int "last_rev", int "last_at",
            bytes "segment", int "frame_offset", int "frame_length", int "frame_digest", int "first_rev",
        ),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "erasures",
        owner: Owner::Conversation,
        key: 2,
        columns: columns!(
            bytes "conversation_id", int "seq", int "requested_at", int "rewritten_at", int "erased_at",
            int "rewritten_generation",
        ),
        rev: None,
        compared: Compared::Numbered(5),
    },
    Table {
        name: "holds",
        owner: Owner::Conversation,
        key: 1,
        columns: columns!(bytes "conversation_id", int "placed_at", text "actor", text "reason"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "media",
        owner: Owner::Conversation,
        key: 2,
        columns: columns!(
            bytes "conversation_id", bytes "id", bytes "uploader", int "state", int "kind", text "file_name",
            text "content_type", int "bytes", bytes "sha256", text "upload_key", text "upload_id", text "object_key",
            int "width", int "height", int "duration_ms", text "placeholder", text "reason", int "created_at",
            int "expires_at", text "small_key", text "large_key", text "variants", int "process_at",
        ),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "media_refs",
        owner: Owner::Conversation,
        key: 3,
        columns: columns!(bytes "conversation_id", int "seq", bytes "media_id"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "users",
        owner: Owner::User,
        key: 2,
        columns: columns!(bytes "user_key", bytes "user_id", int "rev"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "list_entries",
        owner: Owner::User,
        key: 3,
        columns: columns!(
            bytes "user_key", bytes "user_id", bytes "conversation_id", int "kind", text "title", int "member_count",
            text "first_members", int "head_seq", int "conversation_rev", int "read_seq", bytes "last_sender",
            int "last_type", text "last_preview", int "last_at", int "relayed", int "pinned", int "muted", int "removed",
            int "rev", text "mentions",
        ),
        rev: Some(18),
        compared: Compared::Whole,
    },
    Table {
        name: "blocks",
        owner: Owner::User,
        key: 3,
        columns: columns!(bytes "user_key", bytes "user_id", bytes "blocked_id"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "last_seen",
        owner: Owner::User,
        key: 2,
        columns: columns!(bytes "user_key", bytes "user_id", int "at"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "notification_heads",
        owner: Owner::User,
        key: 2,
        columns: columns!(bytes "user_key", bytes "user_id", int "head"),
        rev: None,
        compared: Compared::Whole,
    },
    Table {
        name: "notifications",
        owner: Owner::User,
        key: 3,
        columns: columns!(
            bytes "user_key", bytes "user_id", int "number", text "type", int "priority", text "title", text "body",
            text "action_url", text "metadata", int "created_at", int "read_at",
        ),
        rev: None,
        compared: Compared::Whole,
    },
];

/// The tables that stay with their database, and why.
#[cfg(test)]
const STAYING: [(&str, &str); 10] = [
    ("schema_migrations", "what was done to this database"),
    ("identity", "which database this is"),
    ("writer", "which server of a cluster writes this database"),
    (
        "fences",
        "what this shard owns; a move changes them by itself",
    ),
    ("leases", "the right to work on this shard's ranges"),
    ("archive_jobs", "what was done on this shard"),
    (
        "archive_segments",
        "what this shard wrote or names; the target's own is extended by what the moved rows name",
    ),
    (
        "move_marks",
        "what a mover still has to copy from this shard",
    ),
    ("arrivals", "what is being copied to this shard"),
    ("sqlite_stat1", "the statistics of a SQLite file"),
];

impl Table {
    /// `a, b, c`: its columns.
    pub(crate) fn column_list(&self) -> String {
        self.names(0, self.columns.len())
    }

    /// `a, b`: its primary key.
    pub(crate) fn key_list(&self) -> String {
        self.names(0, self.key)
    }

    /// `a, b`: some of its columns.
    pub(crate) fn names(&self, from: usize, to: usize) -> String {
        let names = self.columns[from..to].iter().map(|(name, _)| *name);
        names.collect::<Vec<_>>().join(", ")
    }

    /// The table of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        MOVED.iter().find(|table| table.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Database;
    use crate::identity::Role;
    use crate::ids::ShardName;
    use crate::migrate;
    use crate::settings::{DatabaseUrl, PoolSettings};
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::{Duration, Instant};

    /// The tables of a database, each with its columns and those of the primary key in order.
    type Schema = BTreeMap<String, (BTreeSet<String>, Vec<String>)>;

    const SQLITE: &str = "SELECT m.name, p.name, p.pk FROM sqlite_master m JOIN pragma_table_info(m.name) p \
         WHERE m.type = 'table' ORDER BY m.name, p.pk";
    const MYSQL: &str = "SELECT c.table_name, c.column_name, COALESCE(k.ordinal_position, 0) FROM information_schema.columns c \
         LEFT JOIN information_schema.key_column_usage k ON k.table_schema = c.table_schema AND k.table_name = c.table_name \
         AND k.column_name = c.column_name AND k.constraint_name = 'PRIMARY' \
         WHERE c.table_schema = DATABASE() ORDER BY c.table_name, k.ordinal_position";

    async fn schema(url: DatabaseUrl) -> Schema {
        let role = Role::Shard(ShardName::new("s1").unwrap());
        migrate::migrate(&role, &url).await.unwrap();
        let database = Database::open_any(&url, &PoolSettings::default()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut connection = database.reader(deadline).await.unwrap();
        let statement = if url.0.starts_with("sqlite") {
            SQLITE
        } else {
            MYSQL
        };
        let rows = connection.fetch_all(statement, &[]).await.unwrap();
        let mut schema = Schema::new();
        for row in rows {
            let (columns, key) = schema.entry(row.text(0).unwrap()).or_default();
            columns.insert(row.text(1).unwrap());
            if row.int(2).unwrap() > 0 {
                key.push(row.text(1).unwrap());
            }
        }
        drop(connection);
        database.close().await;
        schema
    }

    fn compare(schema: &Schema) {
        for (name, (columns, key)) in schema {
            let moved = Table::named(name);
            let stays = STAYING.iter().any(|(staying, _)| staying == name);
            assert!(
                moved.is_some() != stays,
                "table {name} either moves or stays"
            );
            let Some(table) = moved else { continue };
            let named: BTreeSet<String> = table
                .columns
                .iter()
                .map(|(it, _)| (*it).to_owned())
                .collect();
            assert_eq!(named, *columns, "the columns of {name}");
            assert_eq!(table.key_list(), key.join(", "), "the key of {name}");
        }
        for table in &MOVED {
            assert!(
                schema.contains_key(table.name),
                "{} is in the schema",
                table.name
            );
        }
    }

    #[tokio::test]
    async fn every_table_of_a_shard_is_in_the_registry_on_sqlite() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shard.db");
        compare(&schema(DatabaseUrl(format!("sqlite://{}", file.display()))).await);
    }

    #[tokio::test]
    async fn every_table_of_a_shard_is_in_the_registry_on_server() {
        let databases = backscroll_testkit::TestDatabases::create(1).await;
        compare(&schema(DatabaseUrl(databases.urls().remove(0))).await);
        databases.drop_all().await;
    }

    #[test]
    fn what_orders_or_is_left_out_is_the_column_that_is_meant() {
        for table in &MOVED {
            if let Some(rev) = table.rev {
                assert_eq!(table.columns[rev], ("rev", Kind::Int), "{}", table.name);
            }
            match table.compared {
                Compared::Without(column) => assert_eq!(table.columns[column].0, "marked"),
                Compared::Numbered(column) => {
                    assert_eq!(table.columns[column].0, "rewritten_generation")
                }
                Compared::Whole | Compared::Not => {}
            }
            assert!(table.key >= table.owner.columns(), "{}", table.name);
        }
    }
}
