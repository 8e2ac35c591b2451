//! A conversation's head row, and the transaction in which every single change to a conversation happens.
//!
//! [`Change`] is the one shape of a change: fence, head locked, membership, the change itself with the next `rev`, head
//! saved, lists marked. Sends and watermarks take the same steps for many conversations at once in [`crate::lane`].
//! The head's row lock puts the changes of a conversation into one order (INV-SEQ, INV-REV).

use std::collections::HashSet;

use crate::db::{
    Connection, Dialect, Row, Value, in_rows, list_size, padded, placeholders, rows_of, values,
};
use crate::error::{Error, Result};
use crate::fence::{self, OpenFences};
use crate::ids::{ConversationId, Rev, Seq, UserId};
use crate::map::Assignment;
use crate::member::{self, Membership};
use crate::message::{StoredMessage, message_type_code, message_type_of};
use crate::model::{ConversationKind, MessagePreview, Timestamp};
use crate::node::Shard;
use crate::relay;
use crate::seams::Event;
use crate::transaction::Transaction;
use crate::writers::Writers;

/// Most rows in one statement that writes.
pub(crate) const WRITE_ROWS: usize = 256;

/// How many members a conversation's head and its list entries name.
pub const FIRST_MEMBERS: usize = 5;

/// A conversation's row.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Its id.
    pub id: ConversationId,
    /// What sort it is.
    pub kind: ConversationKind,
    /// Its name.
    pub title: Option<String>,
    /// A JSON object.
    pub metadata: Option<String>,
    /// Who created it.
    pub created_by: UserId,
    /// When.
    pub created_at: Timestamp,
    /// The newest message.
    pub head_seq: Seq,
    /// The latest change.
    pub rev: Rev,
    /// The latest change to who is a member, and in which role.
    pub members_rev: Rev,
    /// How many members it has.
    pub member_count: u64,
    /// Whether members' lists are told of new messages; `false` for large conversations, whose head lists read here.
    pub relayed: bool,
    /// The ids of the first few members.
    pub first_members: Vec<UserId>,
    /// The newest message, shortened.
    pub last: Option<MessagePreview>,
    /// When the newest message was sent, or the conversation created.
    pub last_at: Timestamp,
    /// When the oldest message that is not archived was sent.
    pub oldest_hot_at: Option<Timestamp>,
    /// Whether every member's list is still to be told; set only together with the next rev, by which the relay sees
    /// what it has told.
    pub marked: bool,
    /// Who wrote lately, and so has read up to there.
    pub writers: Writers,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
}

/// The columns of a head, in the order that [`Head::from_row`] reads them; each with `$of` before it.
macro_rules! head_columns {
    () => {
        head_columns!("")
    };
    ($of:literal) => {
        concat!(
            $of,
            "id, ",
            $of,
            "kind, ",
            $of,
            "title, ",
            $of,
            "metadata, ",
            $of,
            "created_by, ",
            $of,
            "created_at, ",
            $of,
            "head_seq, ",
            $of,
            "rev, ",
            $of,
            "member_count, ",
            $of,
            "relayed, ",
            $of,
            "first_members, ",
            $of,
            "last_sender, ",
            $of,
            "last_type, ",
            $of,
            "last_preview, ",
            $of,
            "last_at, ",
            $of,
            "oldest_hot_at, ",
            $of,
            "deleted_at, ",
            $of,
            "marked, ",
            $of,
            "members_rev, ",
            $of,
            "writers",
        )
    };
}
pub(crate) use head_columns;
pub(crate) const HEAD_COLUMN_COUNT: usize = 20;

const SELECT_HEADS: &str = concat!("SELECT ", head_columns!());
/// Uses the primary key; locks in id order.
const FROM_HEADS: &str = " FROM conversations {by PRIMARY} WHERE id IN (";
const SAVE_HEADS: &str = concat!("INSERT INTO conversations (", head_columns!(), ") VALUES ");
const SAVE_HEADS_UPDATE: &str = " {on_duplicate id} title = {new title}, metadata = {new metadata}, \
     head_seq = {new head_seq}, rev = {new rev}, member_count = {new member_count}, relayed = {new relayed}, \
     first_members = {new first_members}, last_sender = {new last_sender}, last_type = {new last_type}, \
     last_preview = {new last_preview}, last_at = {new last_at}, oldest_hot_at = {new oldest_hot_at}, \
     deleted_at = {new deleted_at}, marked = {new marked}, members_rev = {new members_rev}, \
     writers = {new writers}";
/// What [`Head::append`] changes. The rows are there, so what is left out has its default in no row.
const SAVE_APPENDED: &str = "INSERT INTO conversations (id, head_seq, rev, last_sender, last_type, last_preview, last_at, \
     oldest_hot_at, marked, writers) VALUES ";
const APPENDED_COLUMN_COUNT: usize = 10;
const SAVE_HEADS_APPENDED: &str = " {on_duplicate id} head_seq = {new head_seq}, rev = {new rev}, last_sender = {new last_sender}, \
     last_type = {new last_type}, last_preview = {new last_preview}, last_at = {new last_at}, \
     oldest_hot_at = {new oldest_hot_at}, marked = {new marked}, writers = {new writers}";
/// By the primary key. The digest is not one of the head's columns, because only the creation of a conversation reads it.
const SET_REQUEST_DIGEST: &str = "UPDATE conversations SET request_digest = ? WHERE id = ?";
const REQUEST_DIGEST: &str = "SELECT request_digest FROM conversations WHERE id = ?";
/// By the primary key.
const AT_REV: &str = "SELECT id FROM conversations {by PRIMARY} WHERE ";
const UNMARK: &str = "UPDATE conversations {by PRIMARY} SET marked = NULL WHERE ";
/// By the index `conversations_marked`.
const MARKED: &str = "SELECT id FROM conversations {by conversations_marked} WHERE marked = 1 AND id > ? ORDER BY id LIMIT ?";

impl Head {
    /// A conversation that is about to be created.
    #[must_use]
    pub fn new(
        id: ConversationId,
        kind: ConversationKind,
        created_by: UserId,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            kind,
            title: None,
            metadata: None,
            created_by,
            created_at: now,
            head_seq: Seq(0),
            rev: Rev(0),
            members_rev: Rev(0),
            member_count: 0,
            relayed: true,
            first_members: Vec::new(),
            last: None,
            last_at: now,
            oldest_hot_at: None,
            marked: false,
            writers: Writers::default(),
            deleted_at: None,
        }
    }

    /// Reads a row whose first columns are those of a head.
    pub(crate) fn from_row(row: &Row) -> Result<Self> {
        let head_seq = Seq::from_i64(row.int(6)?);
        let last_at = Timestamp(row.int(14)?);
        let last = match (row.opt_user(11)?, row.opt_int(12)?, row.opt_text(13)?) {
            (Some(sender_id), Some(code), Some(content)) => Some(MessagePreview {
                seq: head_seq,
                sender_id,
                content,
                message_type: message_type_of(code)?,
                created_at: last_at,
            }),
            _ => None,
        };
        let first_members = serde_json::from_str(&row.text(10)?);
        Ok(Self {
            id: row.conversation(0)?,
            kind: kind_of(row.int(1)?)?,
            title: row.opt_text(2)?,
            metadata: row.opt_text(3)?,
            created_by: row.user(4)?,
            created_at: Timestamp(row.int(5)?),
            head_seq,
            rev: Rev::from_i64(row.int(7)?),
            members_rev: Rev::from_i64(row.int(18)?),
            member_count: u64::try_from(row.int(8)?).unwrap_or(0),
            relayed: row.int(9)? != 0,
            first_members: first_members
                .map_err(|error| Error::corrupt(format_args!("first_members: {error}")))?,
            last,
            last_at,
            oldest_hot_at: row.opt_int(15)?.map(Timestamp),
            marked: row.opt_int(17)?.is_some(),
            writers: Writers::parse(row.opt_text(19)?.as_deref())?,
            deleted_at: row.opt_int(16)?.map(Timestamp),
        })
    }

    /// Takes the next rev.
    pub fn next_rev(&mut self) -> Rev {
        self.rev = self.rev.next();
        self.rev
    }

    /// Takes the next rev for a change to who is a member, or in which role. Write lanes rely on every such change being
    /// made by this, in the transaction that stores it.
    pub fn change_members(&mut self) -> Rev {
        self.members_rev = self.next_rev();
        self.members_rev
    }

    /// Takes in a message that is about to be inserted at its end.
    pub fn append(&mut self, message: &StoredMessage) {
        self.head_seq = message.seq;
        self.oldest_hot_at = self.oldest_hot_at.or(Some(message.created_at));
        self.last_at = self.last_at.max(message.created_at);
        self.last = Some(message.preview());
    }

    /// Takes in a change to a message that is stored already.
    pub fn touch(&mut self, message: &StoredMessage) {
        if message.seq == self.head_seq {
            self.last = Some(message.preview());
        }
    }

    /// Takes in an archived message that becomes a hot row again.
    pub fn thaw(&mut self, message: &StoredMessage) {
        let oldest = self.oldest_hot_at.into_iter().chain([message.created_at]);
        self.oldest_hot_at = oldest.min();
    }

    /// Whether messages to it are told to every member's list one by one, given the relay's limit.
    pub fn set_relayed(&mut self, max_members: u32) {
        self.relayed = self.member_count <= u64::from(max_members);
    }
}

/// As stored.
pub(crate) fn kind_code(kind: ConversationKind) -> i64 {
    match kind {
        ConversationKind::Direct => 1,
        ConversationKind::Group => 2,
        ConversationKind::Channel => 3,
    }
}

/// From its stored form.
pub(crate) fn kind_of(code: i64) -> Result<ConversationKind> {
    Ok(match code {
        1 => ConversationKind::Direct,
        2 => ConversationKind::Group,
        3 => ConversationKind::Channel,
        _ => {
            return Err(Error::corrupt(format_args!(
                "unknown conversation kind {code}"
            )));
        }
    })
}

/// Whether there is such a conversation, and it is not deleted.
///
/// # Errors
/// When the database fails.
pub async fn is_there(connection: &mut Connection, id: ConversationId) -> Result<bool> {
    let heads = heads(connection, &[id], false).await?;
    Ok(heads.iter().any(|head| head.deleted_at.is_none()))
}

/// The heads of `ids` (no two alike), in id order; `lock` keeps others from changing them until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn heads(
    connection: &mut Connection,
    ids: &[ConversationId],
    lock: bool,
) -> Result<Vec<Head>> {
    let mut args: Vec<Value<'_>> = ids.iter().map(Value::from).collect();
    pad(&mut args);
    let lock = if lock { "{for_update}" } else { "" };
    let statement = format!(
        "{SELECT_HEADS}{FROM_HEADS}{}) ORDER BY id {lock}",
        placeholders(args.len())
    );
    connection
        .fetch_all(&statement, &args)
        .await?
        .iter()
        .map(Head::from_row)
        .collect()
}

/// At the beginning of a write transaction: the heads of `ids` (no two alike), locked, in id order, and for each of
/// `assignments` (no two alike) whether this shard takes writes for it, as [`fence::lock_for_write`] says.
///
/// # Errors
/// When the database fails.
pub(crate) async fn lock_heads(
    connection: &mut Connection,
    ids: &[ConversationId],
    assignments: &[&Assignment],
) -> Result<(Vec<Head>, Vec<bool>)> {
    let fences = OpenFences::of(assignments);
    let mut keys: Vec<Value<'_>> = ids.iter().map(Value::from).collect();
    pad(&mut keys);
    let statement = format!(
        "{SELECT_HEADS}{}{FROM_HEADS}{}) ORDER BY id {{for_update}}",
        fences.columns(),
        placeholders(keys.len())
    );
    let mut args = fences.values();
    args.extend(keys);
    let rows = connection.fetch_all(&statement, &args).await?;
    let Some(first) = rows.first() else {
        let allowed = fence::lock_for_write(connection, assignments).await?;
        return Ok((Vec::new(), allowed));
    };
    let allowed = (0..assignments.len())
        .map(|n| Ok(first.opt_int(HEAD_COLUMN_COUNT + n)?.is_some()))
        .collect::<Result<_>>()?;
    let heads = rows.iter().map(Head::from_row).collect::<Result<_>>()?;
    Ok((heads, allowed))
}

/// Repeats the last value up to a [`list_size`].
pub(crate) fn pad(args: &mut Vec<Value<'_>>) {
    if let Some(last) = args.last().copied() {
        args.resize(list_size(args.len()), last);
    }
}

/// Writes heads that are locked, or new (where nobody else can be creating them).
///
/// # Errors
/// When the database fails.
pub async fn save(connection: &mut Connection, heads: &[&Head]) -> Result<()> {
    write(connection, heads, SAVE_HEADS_UPDATE).await
}

/// Writes heads that are locked, and changed by [`Head::append`] and [`Writers::wrote`] only.
///
/// # Errors
/// When the database fails.
pub(crate) async fn save_appended(connection: &mut Connection, heads: &[&Head]) -> Result<()> {
    if connection.dialect() == Dialect::Sqlite {
        return save(connection, heads).await; // wants every column that has no default
    }
    for chunk in heads.chunks(WRITE_ROWS) {
        let writers: Vec<Option<String>> =
            chunk.iter().map(|head| head.writers.to_json()).collect();
        let mut args = Vec::with_capacity(chunk.len() * APPENDED_COLUMN_COUNT);
        for (head, writers) in chunk.iter().zip(&writers) {
            args.extend(appended_values(head, writers.as_deref()));
        }
        let rows = rows_of(chunk.len(), APPENDED_COLUMN_COUNT);
        connection
            .execute(
                &format!("{SAVE_APPENDED}{rows}{SAVE_HEADS_APPENDED}"),
                &args,
            )
            .await?;
    }
    Ok(())
}

async fn write(connection: &mut Connection, heads: &[&Head], update: &str) -> Result<()> {
    for chunk in heads.chunks(WRITE_ROWS) {
        let json = |head: &&Head| {
            (
                first_members_json(&head.first_members),
                head.writers.to_json(),
            )
        };
        let texts: Vec<(String, Option<String>)> = padded(chunk).map(json).collect();
        let mut args = Vec::with_capacity(texts.len() * HEAD_COLUMN_COUNT);
        for (head, (first_members, writers)) in padded(chunk).zip(&texts) {
            args.extend(head_values(head, first_members, writers.as_deref()));
        }
        let rows = rows_of(texts.len(), HEAD_COLUMN_COUNT);
        connection
            .execute(&format!("{SAVE_HEADS}{rows}{update}"), &args)
            .await?;
    }
    Ok(())
}

fn head_values<'a>(
    head: &'a Head,
    first_members: &'a str,
    writers: Option<&'a str>,
) -> [Value<'a>; HEAD_COLUMN_COUNT] {
    values![
        &head.id,
        kind_code(head.kind),
        head.title.as_deref(),
        head.metadata.as_deref(),
        &head.created_by,
        head.created_at.0,
        head.head_seq,
        head.rev,
        i64::try_from(head.member_count).unwrap_or(i64::MAX),
        i64::from(head.relayed),
        first_members,
        head.last.as_ref().map(|last| &last.sender_id),
        head.last
            .as_ref()
            .map(|last| message_type_code(last.message_type)),
        head.last.as_ref().map(|last| last.content.as_str()),
        head.last_at.0,
        head.oldest_hot_at.map(|at| at.0),
        head.deleted_at.map(|at| at.0),
        head.marked.then_some(1),
        head.members_rev,
        writers,
    ]
}

fn appended_values<'a>(
    head: &'a Head,
    writers: Option<&'a str>,
) -> [Value<'a>; APPENDED_COLUMN_COUNT] {
    let last = head.last.as_ref();
    values![
        &head.id,
        head.head_seq,
        head.rev,
        last.map(|last| &last.sender_id),
        last.map(|last| message_type_code(last.message_type)),
        last.map(|last| last.content.as_str()),
        head.last_at.0,
        head.oldest_hot_at.map(|at| at.0),
        head.marked.then_some(1),
        writers,
    ]
}

/// Writes a conversation that is new, with the digest of the request that makes it if a repeat is to be recognised.
///
/// # Errors
/// When the id is taken meanwhile (a unique violation), or the database fails.
pub async fn insert(
    connection: &mut Connection,
    head: &Head,
    request_digest: Option<i64>,
) -> Result<()> {
    write(connection, &[head], "").await?;
    if let Some(digest) = request_digest {
        let args = values![digest, &head.id];
        connection.execute(SET_REQUEST_DIGEST, &args).await?;
    }
    Ok(())
}

/// The digest that a conversation was [inserted](insert) with.
///
/// # Errors
/// When the database fails.
pub async fn request_digest(
    connection: &mut Connection,
    id: ConversationId,
) -> Result<Option<i64>> {
    let row = connection
        .fetch_optional(REQUEST_DIGEST, &values![&id])
        .await?;
    row.map_or(Ok(None), |row| row.opt_int(0))
}

/// Marked conversations after `after`, in id order.
///
/// # Errors
/// When the database fails.
pub async fn marked(
    connection: &mut Connection,
    after: Option<ConversationId>,
    limit: i64,
) -> Result<Vec<ConversationId>> {
    let after: &[u8] = after.as_ref().map_or(&[], |id| id.as_bytes());
    let rows = connection.fetch_all(MARKED, &values![after, limit]).await?;
    rows.iter().map(|row| row.conversation(0)).collect()
}

/// Those of `heads` that have not changed since they were read; without a lock.
///
/// # Errors
/// When the database fails.
pub async fn unchanged<'a>(
    connection: &mut Connection,
    heads: &[&'a Head],
) -> Result<Vec<&'a Head>> {
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let (condition, args) = at_revs(heads);
    let rows = connection
        .fetch_all(&format!("{AT_REV}{condition}"), &args)
        .await?;
    let ids = rows
        .iter()
        .map(|row| row.conversation(0))
        .collect::<Result<HashSet<_>>>()?;
    Ok(heads
        .iter()
        .filter(|head| ids.contains(&head.id))
        .copied()
        .collect())
}

/// In a write transaction: takes the marks away from those of `heads` that have not changed since they were read.
///
/// # Errors
/// When the database fails.
pub async fn unmark(connection: &mut Connection, heads: &[&Head]) -> Result<()> {
    let (condition, args) = at_revs(heads);
    connection
        .execute(&format!("{UNMARK}{condition}"), &args)
        .await?;
    Ok(())
}

fn at_revs<'a>(heads: &[&'a Head]) -> (String, Vec<Value<'a>>) {
    let mut args: Vec<Value<'a>> = padded(heads).map(|head| Value::from(&head.id)).collect();
    let n = args.len();
    args.extend(padded(heads).flat_map(|head| values![&head.id, head.rev]));
    // The ids by themselves for the primary key.
    let condition = format!(
        "id IN ({}) AND {}",
        placeholders(n),
        in_rows(["id", "rev"], n)
    );
    (condition, args)
}

/// A list of ids as it is stored.
pub(crate) fn first_members_json(members: &[UserId]) -> String {
    crate::model::RawJson::of(&members).get().to_owned()
}

/// Whose lists follow a change. A change that members are told of takes the next rev.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Told {
    /// Nobody's: nothing a list shows has changed.
    #[default]
    Nobody,
    /// Every member's, unless the conversation is too large to be relayed.
    Members,
    /// Every member's, however many: what a large conversation's entries hold has changed as well.
    Everybody,
    /// These users'.
    Users(Vec<UserId>),
}

/// One change to one conversation by one of its members: a transaction in which its fence is checked, its head locked and
/// its membership known.
#[derive(Debug)]
pub struct Change {
    /// The transaction.
    pub connection: Transaction,
    /// The head; saved with the commit.
    pub head: Head,
    /// The caller's membership.
    pub me: Membership,
    /// Whose lists are to be told.
    pub told: Told,
    /// What to tell once it is committed.
    pub events: Vec<Event>,
    before: Head,
}

/// A change that is written, and waits for its commit.
#[derive(Debug)]
pub struct Changed<T> {
    /// What its caller is answered.
    pub value: T,
    /// What to tell once it is committed.
    pub events: Vec<Event>,
}

impl Change {
    /// Checks the fence, locks the head and reads the membership.
    ///
    /// # Errors
    /// [`Error::NotOwner`], [`Error::NotMember`], [`Error::ShardUnavailable`].
    pub async fn begin(
        mut connection: Transaction,
        shard: &Shard,
        assignment: &Assignment,
        (id, user): (ConversationId, &UserId),
    ) -> Result<Self> {
        fence::require_write(&mut connection, shard.name(), assignment).await?;
        let head = heads(&mut connection, &[id], true)
            .await?
            .pop()
            .filter(|head| head.deleted_at.is_none());
        let head = head.ok_or(Error::NotMember)?;
        let mut me = member::one(&mut connection, id, user)
            .await?
            .filter(Membership::is_active)
            .ok_or(Error::NotMember)?;
        head.writers.move_on([&mut me]);
        Ok(Self {
            connection,
            before: head.clone(),
            head,
            me,
            told: Told::Nobody,
            events: Vec::new(),
        })
    }

    /// Nothing was to be changed.
    pub fn unchanged<T>(self, value: T) -> Changed<T> {
        Changed {
            value,
            events: Vec::new(),
        }
    }

    /// Saves the head and marks the lists.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn save<T>(mut self, value: T) -> Result<Changed<T>> {
        let connection = &mut self.connection;
        let id = self.head.id;
        match &self.told {
            Told::Nobody => {}
            Told::Members if !self.head.relayed => {}
            Told::Members | Told::Everybody => self.head.marked = true,
            Told::Users(users) => {
                let marks: Vec<_> = users.iter().map(|user| (id, user)).collect();
                relay::mark(connection, &marks).await?;
            }
        }
        if self.head != self.before {
            save(connection, &[&self.head]).await?;
        }
        Ok(Changed {
            value,
            events: self.events,
        })
    }
}
