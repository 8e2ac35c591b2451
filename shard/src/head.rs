//! A conversation's head row: what every change of the conversation locks first.
//!
//! The row's lock puts the changes of a conversation into one order (INV-SEQ, INV-REV). Single changes go through
//! [`Change`](crate::change::Change), sends and watermarks through [`crate::lane`].

use std::collections::BTreeSet;

use crate::blocks::Blockers;
use crate::db::{
    Columns, Connection, Dialect, Value, WRITE_ROWS, pad, padded, placeholders, rows_of, values,
};
use crate::error::{Error, Result};
use crate::fence::{self, LockingColumns};
use crate::ids::{ConversationId, Rev, Seq, UserId};
use crate::latest_senders::LatestSenders;
use crate::member::{Membership, StoredMembership};
use crate::message::{StoredMessage, left_out, preview_values, read_preview};
use crate::model::{ConversationKind, MessagePreview, Timestamp};
use crate::owned::{OwnedReader, OwnedTransaction, WriteScope};

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
    /// Its creator.
    pub created_by: UserId,
    /// When.
    pub created_at: Timestamp,
    /// The newest message.
    pub head_seq: Seq,
    /// The latest change.
    pub rev: Rev,
    /// The latest change of its members or their roles.
    pub members_rev: Rev,
    /// How many members it has.
    pub member_count: u64,
    /// Whether members' lists follow its messages; `false` for large conversations, whose heads the lists read here.
    pub relayed: bool,
    /// The ids of the first few members.
    pub first_members: Vec<UserId>,
    /// The newest message, shortened.
    pub last: Option<MessagePreview>,
    /// When the newest message was sent, or the conversation created; not the greatest time in it.
    pub last_at: Timestamp,
    /// When the oldest message that is not archived was sent.
    pub oldest_hot_at: Option<Timestamp>,
    /// Whether every member's list has yet to follow; set only together with the next rev, by which the relay knows the
    /// changes that it has applied.
    pub marked: bool,
    /// The latest senders, each of whom has read up to their own newest message.
    pub latest_senders: LatestSenders,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
    /// Which members of a direct conversation block the other one.
    pub blockers: Blockers,
    /// Whether every member may pin messages, not its admins only.
    pub members_pin: bool,
    /// The newest message that mentions members; it stays the newest that did when that is deleted.
    pub last_mention: Option<Seq>,
    /// Whether messages of it are answered, or were.
    pub threaded: bool,
}

/// The columns of a head, in the order that [`Head::read`] reads them; each with `$of` before it.
macro_rules! head_columns {
    () => {
        head_columns!("")
    };
    ($of:literal) => {
        head_columns!(
            $of: id, kind, title, metadata, created_by, created_at, head_seq, rev, member_count, relayed, first_members,
            last_sender, last_type, last_preview, last_at, oldest_hot_at, deleted_at, marked, members_rev, writers,
            blocked_by, members_pin, last_mention, threaded
        )
    };
    ($of:literal: $first:ident $(, $column:ident)*) => {
        concat!($of, stringify!($first) $(, ", ", $of, stringify!($column))*)
    };
}
pub(crate) use head_columns;
pub(crate) const HEAD_COLUMN_COUNT: usize = 24;

const SELECT_HEADS: &str = concat!("SELECT ", head_columns!());
/// Uses the primary key; locks in id order.
const FROM_HEADS: &str = " FROM conversations {by PRIMARY} WHERE id IN (";
const SAVE_HEADS: &str = concat!("INSERT INTO conversations (", head_columns!(), ") VALUES ");
const SAVE_HEADS_UPDATE: &str = " {on_duplicate id} title = {new title}, metadata = {new metadata}, \
     head_seq = {new head_seq}, rev = {new rev}, member_count = {new member_count}, relayed = {new relayed}, \
     first_members = {new first_members}, last_sender = {new last_sender}, last_type = {new last_type}, \
     last_preview = {new last_preview}, last_at = {new last_at}, oldest_hot_at = {new oldest_hot_at}, \
     deleted_at = {new deleted_at}, marked = {new marked}, members_rev = {new members_rev}, \
     writers = {new writers}, blocked_by = {new blocked_by}, members_pin = {new members_pin}, \
     last_mention = {new last_mention}, threaded = {new threaded}";
/// What [`Head::append`] changes. The rows are there, so what is left out has its default in no row.
const SAVE_APPENDED: &str = "INSERT INTO conversations (id, head_seq, rev, last_sender, last_type, last_preview, last_at, \
     oldest_hot_at, marked, writers, last_mention, threaded) VALUES ";
const APPENDED_COLUMN_COUNT: usize = 12;
const SAVE_HEADS_APPENDED: &str = " {on_duplicate id} head_seq = {new head_seq}, rev = {new rev}, last_sender = {new last_sender}, \
     last_type = {new last_type}, last_preview = {new last_preview}, last_at = {new last_at}, \
     oldest_hot_at = {new oldest_hot_at}, marked = {new marked}, writers = {new writers}, \
     last_mention = {new last_mention}, threaded = {new threaded}";
/// By the primary key. The digest is not one of the head's columns, because only the creation of a conversation reads it.
const SET_REQUEST_DIGEST: &str = "UPDATE conversations SET request_digest = ? WHERE id = ?";
const REQUEST_DIGEST: &str = "SELECT request_digest FROM conversations WHERE id = ?";

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
            latest_senders: LatestSenders::default(),
            deleted_at: None,
            blockers: Blockers::default(),
            members_pin: false,
            last_mention: None,
            threaded: false,
        }
    }

    /// Reads the next columns of a row, which are those of a head.
    pub(crate) fn read(columns: &mut Columns<'_>) -> Result<Self> {
        let id = columns.conversation()?;
        let kind = kind_of(columns.int()?)?;
        let title = columns.opt_text()?;
        let metadata = columns.opt_text()?;
        let created_by = columns.user()?;
        let created_at = Timestamp(columns.int()?);
        let head_seq = Seq::from_i64(columns.int()?);
        let rev = Rev::from_i64(columns.int()?);
        let member_count = u64::try_from(columns.int()?).unwrap_or(0);
        let relayed = columns.int()? != 0;
        let first_members = serde_json::from_str(&columns.text()?).unwrap_or_else(|_| {
            left_out("members");
            Vec::new()
        });
        let (last, last_at) = read_preview(columns, head_seq)?;
        Ok(Self {
            id,
            kind,
            title,
            metadata,
            created_by,
            created_at,
            head_seq,
            rev,
            member_count,
            relayed,
            first_members,
            last,
            last_at,
            oldest_hot_at: columns.opt_int()?.map(Timestamp),
            deleted_at: columns.opt_int()?.map(Timestamp),
            marked: columns.opt_int()?.is_some(),
            members_rev: Rev::from_i64(columns.int()?),
            latest_senders: LatestSenders::parse(columns.opt_text()?.as_deref())?,
            blockers: Blockers::parse(columns.opt_text()?.as_deref())?,
            members_pin: columns.opt_int()?.is_some(),
            last_mention: columns.opt_int()?.map(Seq::from_i64),
            threaded: columns.opt_int()?.is_some(),
        })
    }

    /// A membership that was read after the head, with its watermarks.
    #[must_use]
    pub fn complete(&self, membership: StoredMembership) -> Membership {
        membership.complete(&self.latest_senders)
    }

    /// The other member of a direct conversation that `user` is in.
    #[must_use]
    pub fn other_member(&self, user: &UserId) -> Option<&UserId> {
        let mut members = self.first_members.iter();
        members.find(|member| *member != user)
    }

    /// Before something is said in it: in a direct conversation neither member may block the other.
    ///
    /// # Errors
    /// [`Error::NotAccepted`].
    pub fn require_accepted(&self) -> Result<()> {
        match self.blockers.is_empty() {
            true => Ok(()),
            false => Err(Error::NotAccepted),
        }
    }

    /// Takes the next rev.
    pub fn next_rev(&mut self) -> Rev {
        self.rev = self.rev.next();
        self.rev
    }

    /// Takes the next rev for a change of the members or their roles. Write lanes rely on every such change being
    /// made by this, in the transaction that stores it.
    pub fn change_members(&mut self) -> Rev {
        self.members_rev = self.next_rev();
        self.members_rev
    }

    /// Takes in a message that is about to be inserted at its end.
    pub fn append(&mut self, message: &StoredMessage) {
        self.head_seq = message.seq;
        self.oldest_hot_at = self.oldest_hot_at.or(Some(message.created_at));
        self.last_at = message.created_at;
        self.last = Some(message.preview());
        if message.mentions.is_some() {
            self.last_mention = Some(message.seq);
        }
        self.threaded |= message.reply_to.is_some();
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

    /// Decides whether members' lists follow its messages, given the relay's limit.
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
pub async fn is_there(rows: &mut OwnedReader<'_>, id: ConversationId) -> Result<bool> {
    let heads = read(rows, &[id]).await?;
    Ok(heads.iter().any(|head| head.deleted_at.is_none()))
}

/// The heads of `ids` (no two alike), in id order.
///
/// # Errors
/// When the database fails.
pub async fn read(rows: &mut OwnedReader<'_>, ids: &[ConversationId]) -> Result<Vec<Head>> {
    select(rows, ids, "").await
}

/// The heads of `ids` (no two alike), in id order; no other transaction changes them until this one ends.
///
/// # Errors
/// When the database fails.
pub async fn lock(
    transaction: &mut OwnedTransaction<'_>,
    ids: &[ConversationId],
) -> Result<Vec<Head>> {
    select(transaction, ids, "{for_update}").await
}

async fn select(
    rows: &mut OwnedReader<'_>,
    ids: &[ConversationId],
    lock: &str,
) -> Result<Vec<Head>> {
    let mut args: Vec<Value<'_>> = ids.iter().map(Value::from).collect();
    pad(&mut args);
    let statement = format!(
        "{SELECT_HEADS}{FROM_HEADS}{}) ORDER BY id {lock}",
        placeholders(args.len())
    );
    let found = rows.fetch_all(&statement, &args).await?;
    found
        .iter()
        .map(|row| Head::read(&mut row.columns()))
        .collect()
}

/// Begins the work of a transaction on `connection`, for the conversations of `scope`: their heads, locked, in id order,
/// and their fences, in one statement. What the shard takes no writes for is left out, and the transaction may not write
/// it.
///
/// # Errors
/// When the database fails.
pub async fn lock_with_fences<'c>(
    connection: &'c mut Connection,
    scope: &WriteScope<'_>,
) -> Result<(OwnedTransaction<'c>, Vec<Head>)> {
    let fences = LockingColumns::of(scope.assignments());
    let ids: BTreeSet<ConversationId> = scope.conversations().collect();
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
    let states = match rows.first() {
        Some(row) => fences.states(row, HEAD_COLUMN_COUNT)?,
        None => fence::lock(connection, scope.assignments()).await?,
    };
    let transaction = OwnedTransaction::locked(connection, scope, &states).await?;
    let heads = rows.iter().map(|row| Head::read(&mut row.columns()));
    let mut heads = heads.collect::<Result<Vec<_>>>()?;
    heads.retain(|head| transaction.may_write(head.id));
    Ok((transaction, heads))
}

/// Writes heads that are locked, or new (where nobody else can be creating them).
///
/// # Errors
/// When the database fails.
pub async fn save(transaction: &mut OwnedTransaction<'_>, heads: &[&Head]) -> Result<()> {
    write(transaction, heads, SAVE_HEADS_UPDATE).await
}

/// Writes heads that are locked, and changed by [`Head::append`] and [`LatestSenders::sent`] only.
///
/// # Errors
/// When the database fails.
pub(crate) async fn save_appended(
    transaction: &mut OwnedTransaction<'_>,
    heads: &[&Head],
) -> Result<()> {
    if transaction.dialect() == Dialect::Sqlite {
        return save(transaction, heads).await; // wants every column that has no default
    }
    transaction.require_conversations(heads.iter().map(|head| head.id))?;
    for chunk in heads.chunks(WRITE_ROWS) {
        let senders: Vec<Option<String>> = chunk
            .iter()
            .map(|head| head.latest_senders.to_json())
            .collect();
        let mut args = Vec::with_capacity(chunk.len() * APPENDED_COLUMN_COUNT);
        for (head, senders) in chunk.iter().zip(&senders) {
            args.extend(appended_values(head, senders.as_deref()));
        }
        let rows = rows_of(chunk.len(), APPENDED_COLUMN_COUNT);
        transaction
            .execute(
                &format!("{SAVE_APPENDED}{rows}{SAVE_HEADS_APPENDED}"),
                &args,
            )
            .await?;
    }
    Ok(())
}

async fn write(
    transaction: &mut OwnedTransaction<'_>,
    heads: &[&Head],
    update: &str,
) -> Result<()> {
    transaction.require_conversations(heads.iter().map(|head| head.id))?;
    for chunk in heads.chunks(WRITE_ROWS) {
        let json = |head: &&Head| HeadTexts {
            first_members: first_members_json(&head.first_members),
            writers: head.latest_senders.to_json(),
            blocked_by: head.blockers.to_json(),
        };
        let texts: Vec<HeadTexts> = padded(chunk).map(json).collect();
        let mut args = Vec::with_capacity(texts.len() * HEAD_COLUMN_COUNT);
        for (head, texts) in padded(chunk).zip(&texts) {
            args.extend(head_values(head, texts));
        }
        let rows = rows_of(texts.len(), HEAD_COLUMN_COUNT);
        transaction
            .execute(&format!("{SAVE_HEADS}{rows}{update}"), &args)
            .await?;
    }
    Ok(())
}

/// The columns of a head that are JSON.
struct HeadTexts {
    first_members: String,
    writers: Option<String>,
    blocked_by: Option<String>,
}

fn head_values<'a>(head: &'a Head, texts: &'a HeadTexts) -> [Value<'a>; HEAD_COLUMN_COUNT] {
    let [sender, message_type, content] = preview_values(head.last.as_ref());
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
        texts.first_members.as_str(),
        sender,
        message_type,
        content,
        head.last_at.0,
        head.oldest_hot_at.map(|at| at.0),
        head.deleted_at.map(|at| at.0),
        head.marked.then_some(1),
        head.members_rev,
        texts.writers.as_deref(),
        texts.blocked_by.as_deref(),
        head.members_pin.then_some(1),
        head.last_mention,
        head.threaded.then_some(1),
    ]
}

fn appended_values<'a>(
    head: &'a Head,
    writers: Option<&'a str>,
) -> [Value<'a>; APPENDED_COLUMN_COUNT] {
    let [sender, message_type, content] = preview_values(head.last.as_ref());
    values![
        &head.id,
        head.head_seq,
        head.rev,
        sender,
        message_type,
        content,
        head.last_at.0,
        head.oldest_hot_at.map(|at| at.0),
        head.marked.then_some(1),
        writers,
        head.last_mention,
        head.threaded.then_some(1),
    ]
}

/// Writes a conversation that is new, with the digest of the request that makes it if a repeat is to be recognised.
///
/// # Errors
/// When the id is taken meanwhile (a unique violation), or the database fails.
pub async fn insert(
    transaction: &mut OwnedTransaction<'_>,
    head: &Head,
    request_digest: Option<i64>,
) -> Result<()> {
    write(transaction, &[head], "").await?;
    if let Some(digest) = request_digest {
        let args = values![digest, &head.id];
        transaction.execute(SET_REQUEST_DIGEST, &args).await?;
    }
    Ok(())
}

/// The digest that a conversation was [inserted](insert) with.
///
/// # Errors
/// When the database fails.
pub async fn request_digest(rows: &mut OwnedReader<'_>, id: ConversationId) -> Result<Option<i64>> {
    let row = rows.fetch_optional(REQUEST_DIGEST, &values![&id]).await?;
    row.map_or(Ok(None), |row| row.opt_int(0))
}

/// A list of ids as it is stored.
pub(crate) fn first_members_json(members: &[UserId]) -> String {
    crate::model::RawJson::of(&members).get().to_owned()
}
