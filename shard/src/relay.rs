//! How a user's conversation list follows the conversations: a durable relay.
//!
//! The transaction that changes a conversation also marks it (one row, however many changes). The relay reads the head
//! once, applies it to each member's list entry on the member's own shard, and clears the mark unless it was set again
//! meanwhile. No row per recipient is written on the sender's path.
//!
//! Applying is idempotent: the entry with the greater `conversation_rev` and the greater watermark wins. So a crash between
//! applying and clearing, and two processes relaying the same mark, are both harmless; marks a crashed process left
//! behind are found by the sweep. Lists are exact once no mark is left.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::conversation::{self, Head, WRITE_ROWS, pad};
use crate::db::{Connection, Value, padded, placeholders, rows_of, values};
use crate::error::{Error, Result, is_contention};
use crate::ids::{ConversationId, UserId};
use crate::list::{self, EntryUpdate};
use crate::map::ShardMap;
use crate::member::{self, Membership};
use crate::node::{Shard, back_off};
use crate::routing::{Router, count_retry};

/// How many conversations' hints wait in memory; a hint that finds no room is found by the sweep.
const HINTS: usize = 65_536;
/// Most conversations in one pass: few enough that a sender who meets it does not wait long.
const PASS_CONVERSATIONS: usize = 16;
/// Most members read, and entries written, at once.
const PASS_MEMBERS: usize = 500;
/// Most marks one sweep picks up.
const SWEEP_MARKS: i64 = 1000;
/// How many times as long as a pass took the relay rests after it.
const REST: u32 = 4;
/// How long one pass may take.
const PASS_DEADLINE: Duration = Duration::from_secs(30);

const MARK: &str = "INSERT INTO list_marks (conversation_id, user_id, token) VALUES ";
const MARK_UPDATE: &str = " {on_duplicate conversation_id, user_id} token = {new token}";
/// By the primary key.
const MARKS_OF: &str =
    "SELECT conversation_id, user_id, token FROM list_marks WHERE conversation_id IN (";
const MARKS_AFTER: &str = "SELECT conversation_id FROM list_marks WHERE conversation_id > ? ORDER BY conversation_id LIMIT ?";
const ANY_MARK: &str = "SELECT conversation_id FROM list_marks LIMIT 1";
const CLEAR: &str = "DELETE FROM list_marks WHERE ";

/// In a write transaction: marks lists to be told; no user means every member's.
///
/// # Errors
/// When the database fails.
pub async fn mark(
    connection: &mut Connection,
    marks: &[(ConversationId, Option<&UserId>)],
) -> Result<()> {
    for chunk in marks.chunks(WRITE_ROWS) {
        let mut args = Vec::with_capacity(3 * chunk.len());
        for (id, user) in padded(chunk) {
            args.extend(values![
                id,
                user.map_or(&[][..], |user| user.as_ref()),
                rand::random::<i64>()
            ]);
        }
        let rows = rows_of(args.len() / 3, 3);
        connection
            .execute(&format!("{MARK}{rows}{MARK_UPDATE}"), &args)
            .await?;
    }
    Ok(())
}

/// Tells a shard's relay which conversations were marked, so that it need not look.
#[derive(Clone, Debug)]
pub struct Hints(mpsc::Sender<ConversationId>);

impl Hints {
    /// A relay's inbox.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<ConversationId>) {
        let (sender, receiver) = mpsc::channel(HINTS);
        (Self(sender), receiver)
    }

    /// This conversation was marked.
    pub fn hint(&self, conversation: ConversationId) {
        let _ = self.0.try_send(conversation); // without room, the sweep finds it
    }
}

/// Relays the marks of `shard` until `closing`; then once more what was hinted at.
pub async fn run(
    router: Arc<Router>,
    shard: Arc<Shard>,
    mut hints: mpsc::Receiver<ConversationId>,
    closing: CancellationToken,
) {
    let settings = router.settings().relay.clone();
    let mut sweep = tokio::time::interval(settings.sweep_interval.0);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut swept_to = None;
    let mut round_from = tokio::time::Instant::now();
    let mut waiting: HashSet<ConversationId> = HashSet::new();
    loop {
        if waiting.is_empty() {
            // A new round: at once after a quiet time, else when the interval is over.
            tokio::select! {
                hint = hints.recv() => waiting.extend(hint),
                _ = sweep.tick() => {
                    let found = find_marks(&shard, swept_to).await.unwrap_or_default();
                    swept_to = found.last().copied();
                    waiting.extend(found);
                }
                () = closing.cancelled() => {}
            }
            closing
                .run_until_cancelled(tokio::time::sleep_until(round_from))
                .await;
            round_from = tokio::time::Instant::now() + settings.interval.0;
            while waiting.len() < HINTS
                && let Ok(hint) = hints.try_recv()
            {
                waiting.insert(hint);
            }
        }
        let pass: Vec<ConversationId> = waiting.iter().take(PASS_CONVERSATIONS).copied().collect();
        for id in &pass {
            waiting.remove(id);
        }
        let started = Instant::now();
        if !pass.is_empty()
            && let Err(error) = apply(&router, &shard, &pass, started + PASS_DEADLINE).await
        {
            tracing::warn!(shard = %shard.name(), %error, "conversation lists lag behind; the marks are kept");
        }
        // Under load lists may lag a little, so that most of the database's time is the senders'.
        closing
            .run_until_cancelled(tokio::time::sleep(started.elapsed() * REST))
            .await;
        if closing.is_cancelled() && waiting.is_empty() && hints.is_empty() {
            return;
        }
    }
}

async fn find_marks(shard: &Shard, after: Option<ConversationId>) -> Result<Vec<ConversationId>> {
    let deadline = Instant::now() + PASS_DEADLINE;
    let after: &[u8] = after.as_ref().map_or(&[], |id| id.as_bytes());
    let rows = shard
        .reader(deadline)
        .await?
        .fetch_all(MARKS_AFTER, &values![after, SWEEP_MARKS])
        .await?;
    rows.iter().map(|row| row.conversation(0)).collect()
}

/// Whether the shard has no mark left.
///
/// # Errors
/// When the database fails.
pub async fn is_idle(shard: &Shard, deadline: Instant) -> Result<bool> {
    Ok(shard
        .reader(deadline)
        .await?
        .fetch_optional(ANY_MARK, &[])
        .await?
        .is_none())
}

struct Mark {
    conversation: ConversationId,
    /// `None`: every member.
    user: Option<UserId>,
    token: i64,
}

/// Relays the marks of these conversations, and clears those that were not set again meanwhile.
///
/// # Errors
/// When a shard fails; what was not cleared is relayed again.
pub async fn apply(
    router: &Router,
    shard: &Shard,
    ids: &[ConversationId],
    deadline: Instant,
) -> Result<()> {
    let mut source = shard.reader(deadline).await?;
    let marks = marks_of(&mut source, ids).await?;
    let mut ids: Vec<ConversationId> = marks.iter().map(|mark| mark.conversation).collect();
    ids.dedup();
    if ids.is_empty() {
        return Ok(());
    }
    let heads = conversation::heads(&mut source, &ids, false).await?;
    let heads: HashMap<ConversationId, Head> =
        heads.into_iter().map(|head| (head.id, head)).collect();
    let (whole, single): (Vec<&Mark>, Vec<&Mark>) =
        marks.iter().partition(|mark| mark.user.is_none());

    let pairs: Vec<(ConversationId, &UserId)> = single
        .iter()
        .filter_map(|m| Some((m.conversation, m.user.as_ref()?)))
        .collect();
    for pairs in pairs.chunks(PASS_MEMBERS) {
        let members = member::pairs(&mut source, pairs).await?;
        deliver(router, &heads, members, deadline).await?;
    }
    let (small, large): (Vec<&Mark>, Vec<&Mark>) = whole
        .into_iter()
        .partition(|mark| is_small(heads.get(&mark.conversation)));
    for ids in chunks_by_members(&small, &heads) {
        let members = member::of_conversations(&mut source, &ids).await?;
        deliver(router, &heads, members, deadline).await?;
    }
    for mark in large {
        deliver_large(router, &mut source, &heads, mark.conversation, deadline).await?;
    }
    drop(source);
    clear(shard, &marks, deadline).await
}

fn is_small(head: Option<&Head>) -> bool {
    head.is_none_or(|head| head.member_count <= PASS_MEMBERS as u64)
}

/// Groups conversations so that each group has about as many members as are written at once.
fn chunks_by_members(
    marks: &[&Mark],
    heads: &HashMap<ConversationId, Head>,
) -> Vec<Vec<ConversationId>> {
    let mut chunks: Vec<Vec<ConversationId>> = Vec::new();
    let mut room = 0;
    for mark in marks {
        let members = heads
            .get(&mark.conversation)
            .map_or(0, |head| head.member_count);
        if chunks.is_empty() || members > room {
            chunks.push(Vec::new());
            room = PASS_MEMBERS as u64;
        }
        room = room.saturating_sub(members);
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(mark.conversation);
        }
    }
    chunks
}

async fn deliver_large(
    router: &Router,
    source: &mut Connection,
    heads: &HashMap<ConversationId, Head>,
    id: ConversationId,
    deadline: Instant,
) -> Result<()> {
    let mut after: Vec<u8> = Vec::new();
    loop {
        let page = member::page(source, id, &after, PASS_MEMBERS).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = last.user.as_str().as_bytes().to_vec();
        let members = page.into_iter().map(|member| (id, member)).collect();
        deliver(router, heads, members, deadline).await?;
    }
}

/// Applies heads to members' list entries, one transaction a shard.
async fn deliver(
    router: &Router,
    heads: &HashMap<ConversationId, Head>,
    members: Vec<(ConversationId, Membership)>,
    deadline: Instant,
) -> Result<()> {
    let mut by_shard: BTreeMap<crate::ids::ShardName, Vec<EntryUpdate>> = BTreeMap::new();
    let map = router.map();
    for (id, member) in members {
        let Some(head) = heads.get(&id) else { continue };
        let key = router.key(&member.user)?;
        let update = EntryUpdate::new(head, member, key);
        by_shard
            .entry(map.locate(key).shard.clone())
            .or_default()
            .push(update);
    }
    for (name, updates) in by_shard {
        let target = router.shard(&name)?;
        for updates in updates.chunks(PASS_MEMBERS) {
            deliver_to(router, target, &map, updates, deadline).await?;
        }
    }
    Ok(())
}

/// One transaction on the shard of some users. When it no longer owns one of them, the marks are kept, and the next pass
/// goes by the new map.
async fn deliver_to(
    router: &Router,
    target: &Shard,
    map: &Arc<ShardMap>,
    updates: &[EntryUpdate],
    deadline: Instant,
) -> Result<()> {
    let mut retries = 0;
    loop {
        let mut connection = target.begin(deadline).await?;
        let applied = match list::apply(&mut connection, target.name(), map, updates).await {
            Ok(()) => connection.commit().await,
            Err(error) => Err(error),
        };
        drop(connection);
        match applied {
            Err(Error::Database(error))
                if is_contention(&error) && retries < router.settings().write.max_retries =>
            {
                retries += 1;
                count_retry(target.name());
                tokio::time::sleep(back_off(retries)).await;
            }
            Err(error @ Error::NotOwner(_)) => {
                router.refresh(map).await?;
                return Err(error);
            }
            outcome => return outcome,
        }
    }
}

async fn marks_of(connection: &mut Connection, ids: &[ConversationId]) -> Result<Vec<Mark>> {
    let mut args: Vec<Value<'_>> = ids.iter().map(Value::from).collect();
    pad(&mut args);
    let statement = format!(
        "{MARKS_OF}{}) ORDER BY conversation_id",
        placeholders(args.len())
    );
    let rows = connection.fetch_all(&statement, &args).await?;
    rows.iter()
        .map(|row| {
            let user = row.bytes(1)?;
            let user = if user.is_empty() {
                None
            } else {
                Some(row.user(1)?)
            };
            Ok(Mark {
                conversation: row.conversation(0)?,
                user,
                token: row.int(2)?,
            })
        })
        .collect()
}

async fn clear(shard: &Shard, marks: &[Mark], deadline: Instant) -> Result<()> {
    let user = |mark: &Mark| {
        mark.user
            .as_ref()
            .map_or(Vec::new(), |user| user.as_str().as_bytes().to_vec())
    };
    for marks in marks.chunks(PASS_CONVERSATIONS) {
        let users: Vec<Vec<u8>> = marks.iter().map(user).collect();
        let keys = marks.iter().zip(&users);
        let args: Vec<Value<'_>> = keys
            .flat_map(|(mark, user)| values![&mark.conversation, user.as_slice(), mark.token])
            .collect();
        let condition = ["(conversation_id = ? AND user_id = ? AND token = ?)"]
            .repeat(marks.len())
            .join(" OR ");
        let statement = format!("{CLEAR}{condition}");
        let mut connection = shard.begin(deadline).await?;
        connection.execute(&statement, &args).await?;
        connection.commit().await?;
    }
    Ok(())
}
