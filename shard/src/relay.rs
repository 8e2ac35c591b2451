//! How a user's conversation list follows the conversations: a durable relay.
//!
//! The transaction that changes a conversation also marks it: a flag in the head, which it writes anyway. The relay reads
//! the head once, applies it to each member's list entry on the member's own shard, and clears the flag unless the head
//! has another rev by then. Nothing per recipient is written on the sender's path. What concerns some users' lists only,
//! such as a watermark, is marked in `list_marks` and cleared likewise, by a token.
//!
//! Applying is idempotent and gives the same in any order: the greater `conversation_rev` and the greater watermark win, for
//! removals as well. So a crash between applying and clearing is harmless, and so are two processes that relay the same
//! mark, one of them late; the sweep finds marks that a crashed process left behind. Lists are exact once no mark is left.
//!
//! A request that changes a conversation relays it at once where that is little work, so that its caller finds all lists up to
//! date. Above [`WITHIN_REQUEST`] entries it relays the caller's own, and the relay does the rest: the request costs the same
//! however many members the conversation has (INV-BOUND).
//!
//! Since applying is idempotent, a relay does not ask the fence of the conversations it reads: a shard that gave a range up tells the
//! state as of then, which undoes nothing that the new owner tells. The fences of the users' shards are asked (INV-OWNER).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::commit_event::{CommitEvent, CommitListener};
use crate::error::{Error, Result};
use crate::head::{self, Head};
use crate::ids::{ConversationId, ShardName, UserId};
use crate::list::{self, Entry, EntryUpdate};
use crate::list_marks::{self, Mark};
use crate::map::ShardMap;
use crate::member::{self, StoredMembership};
use crate::mentions::{self, Unread};
use crate::node::Shard;
use crate::owned::{OwnedReader, OwnedTransaction};
use crate::routing::Router;
use crate::tasks::Kept;

/// How many conversations' hints wait in memory; a hint that finds no room is found by the sweep.
const HINTS: usize = 65_536;
/// Most conversations in one pass: few enough that a sender who meets it does not wait long.
const PASS_CONVERSATIONS: usize = 256;
/// Most members read, and entries written, at once.
const PASS_MEMBERS: usize = 500;
/// Most entries that a request writes besides its caller's own.
const WITHIN_REQUEST: u64 = 50;
/// Most marks one sweep picks up.
const SWEEP_MARKS: i64 = 1000;
/// How many times as long as a pass kept databases at work the relay rests after it.
const REST_FACTOR: u32 = 9;
/// How long it rests after a pass in which a shard failed, at least.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(500);
/// How long one pass may take.
const PASS_DEADLINE: Duration = Duration::from_secs(30);
/// How long a relay that is told to end goes on with what was hinted at. Marks that are left wait in the database for the next
/// process.
const LAST_ROUND: Duration = Duration::from_secs(1);

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

/// Relays the marks of `shard` until `closing`; then what was hinted at, for [`LAST_ROUND`] at most. What a run held that
/// ended in the middle is found by the sweep.
pub async fn run(
    router: Arc<Router>,
    shard: Arc<Shard>,
    listener: Arc<dyn CommitListener>,
    hints: Kept<mpsc::Receiver<ConversationId>>,
    closing: CancellationToken,
) {
    let name = shard.name().clone();
    let over = {
        let closing = closing.clone();
        async move {
            closing.cancelled().await;
            tokio::time::sleep(LAST_ROUND).await;
        }
    };
    tokio::select! {
        () = rounds(router, shard, listener, hints, closing) => {}
        () = over => tracing::info!(shard = %name, "conversation lists lag behind; the next process tells them"),
    }
}

async fn rounds(
    router: Arc<Router>,
    shard: Arc<Shard>,
    listener: Arc<dyn CommitListener>,
    hints: Kept<mpsc::Receiver<ConversationId>>,
    closing: CancellationToken,
) {
    let mut hints = hints.hold().await;
    let settings = router.settings().relay.clone();
    let mut sweep = tokio::time::interval(settings.sweep_interval.0);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut swept_to = None;
    let mut round_from = tokio::time::Instant::now();
    let mut waiting: HashSet<ConversationId> = HashSet::new();
    let mut is_moving = false;
    loop {
        if waiting.is_empty() {
            // A new round: at once after a quiet time, else when the interval is over.
            tokio::select! {
                Some(hint) = hints.recv() => drop(waiting.insert(hint)),
                _ = sweep.tick() => {
                    let found = find_marks(&shard, swept_to).await.unwrap_or_default();
                    swept_to = found.last().copied();
                    waiting.extend(found);
                }
                () = closing.cancelled() => {}
            }
            if waiting.is_empty() && !closing.is_cancelled() {
                continue; // a sweep that finds nothing is no round: the next change need not wait for it
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
        let deadline = Instant::now() + PASS_DEADLINE;
        let mut applied = Applied::default();
        if !pass.is_empty() {
            applied = apply(&router, &shard, listener.as_ref(), &pass, deadline).await;
        }
        // Under load lists may lag a little, so that most of the databases' time is the senders'. Waiting for a shard that is
        // away keeps none at work.
        let mut rest = applied.worked * REST_FACTOR;
        let was_moving = std::mem::take(&mut is_moving);
        if let Some(error) = applied.failure {
            // A range that moves has no owner for a moment. The next pass goes by the new map, and need not be found by a sweep.
            is_moving = matches!(error, Error::NotOwner(_));
            if is_moving && !closing.is_cancelled() {
                waiting.extend(applied.failed);
            }
            if is_moving && !was_moving {
                tracing::debug!(shard = %shard.name(), %error, "users whose range moves are told in the next pass");
            } else {
                tracing::warn!(shard = %shard.name(), %error, "conversation lists lag behind; the marks are kept");
            }
            rest = rest.max(REST_AFTER_FAILURE);
        }
        closing.run_until_cancelled(tokio::time::sleep(rest)).await;
        if closing.is_cancelled() && waiting.is_empty() && hints.is_empty() {
            return;
        }
    }
}

async fn find_marks(shard: &Shard, after: Option<ConversationId>) -> Result<Vec<ConversationId>> {
    let mut connection = shard.reader(Instant::now() + PASS_DEADLINE).await?;
    list_marks::after(&mut connection, after, SWEEP_MARKS).await
}

/// Whether the shard has no mark left.
///
/// # Errors
/// When the database fails.
pub async fn is_idle(shard: &Shard, deadline: Instant) -> Result<bool> {
    let mut connection = shard.reader(deadline).await?;
    list_marks::is_empty(&mut connection).await
}

/// What came of a pass.
#[derive(Debug, Default)]
pub struct Applied {
    /// How long the pass kept databases at work.
    worked: Duration,
    /// The first reason why some lists did not follow; their marks are kept.
    pub failure: Option<Error>,
    /// The conversations of these lists.
    failed: HashSet<ConversationId>,
    /// Shards that failed in this pass; they are not asked again in it.
    down: HashSet<ShardName>,
}

/// Relays the marks of these conversations, and clears those that were not set again meanwhile. A shard that fails keeps back
/// the lists of its own users only.
pub async fn apply(
    router: &Router,
    shard: &Shard,
    listener: &dyn CommitListener,
    ids: &[ConversationId],
    deadline: Instant,
) -> Applied {
    let mut applied = Applied::default();
    let outcome = async {
        let marked = Marked::read(&mut applied, shard, ids, deadline).await?;
        apply_to(&mut applied, (router, listener), shard, marked, deadline).await
    };
    if let Err(error) = outcome.await {
        applied.failure.get_or_insert(error);
    }
    applied
}

/// Relays the marks of a conversation within a request of `user`, if they are few; otherwise their own, and keeps the marks.
pub async fn apply_within_request(
    router: &Router,
    shard: &Shard,
    listener: &dyn CommitListener,
    (id, user): (ConversationId, &UserId),
    deadline: Instant,
) -> WithinRequest {
    let mut applied = Applied::default();
    let outcome = async {
        let targets = (router, listener);
        let mut marked = Marked::read(&mut applied, shard, &[id], deadline).await?;
        if marked.entries() <= WITHIN_REQUEST {
            apply_to(&mut applied, targets, shard, marked, deadline).await?;
            return Ok(true);
        }
        let own = member::pairs(&mut marked.source, &[(id, user)]).await?;
        let own = mentions::beside(&mut marked.source, &marked.heads, own).await?;
        deliver(&mut applied, targets, &marked.heads, own, deadline).await?;
        Ok(false)
    };
    match outcome.await {
        Err(error) => WithinRequest::Failed(error),
        Ok(_) if let Some(error) = applied.failure => WithinRequest::Failed(error),
        Ok(true) => WithinRequest::All,
        Ok(false) => WithinRequest::Own,
    }
}

/// What came of relaying within a request.
#[derive(Debug)]
pub enum WithinRequest {
    /// No mark was left that the relay has to see to.
    All,
    /// The caller's list has followed; the others are the relay's.
    Own,
    /// The marks are kept.
    Failed(Error),
}

/// Conversations and their marks, as read: marks, then heads, then members. So an update is never older than the mark that is
/// cleared for it.
struct Marked {
    source: OwnedReader<'static>,
    marks: Vec<Mark>,
    heads: HashMap<ConversationId, Head>,
}

impl Marked {
    async fn read(
        applied: &mut Applied,
        shard: &Shard,
        ids: &[ConversationId],
        deadline: Instant,
    ) -> Result<Self> {
        let begun = Instant::now();
        let mut source = OwnedReader::for_relay(shard.reader(deadline).await?);
        let marks = list_marks::of(&mut source, ids).await?;
        let heads = head::read(&mut source, ids).await?;
        applied.worked += begun.elapsed();
        let heads = heads.into_iter().map(|head| (head.id, head)).collect();
        Ok(Self {
            source,
            marks,
            heads,
        })
    }

    /// About how many list entries the marks concern.
    fn entries(&self) -> u64 {
        let marked = self.heads.values().filter(|head| head.marked);
        let of_members: u64 = marked.map(|head| head.member_count).sum();
        of_members + self.marks.len() as u64
    }
}

async fn apply_to(
    applied: &mut Applied,
    targets: Targets<'_>,
    shard: &Shard,
    marked: Marked,
    deadline: Instant,
) -> Result<()> {
    let Marked {
        mut source,
        mut marks,
        heads,
    } = marked;
    let pairs: Vec<(ConversationId, &UserId)> = marks
        .iter()
        .map(|mark| (mark.conversation, &mark.user))
        .collect();
    for pairs in pairs.chunks(PASS_MEMBERS) {
        let members = member::pairs(&mut source, pairs).await?;
        let members = mentions::beside(&mut source, &heads, members).await?;
        deliver(applied, targets, &heads, members, deadline).await?;
    }
    let marked: Vec<&Head> = heads.values().filter(|head| head.marked).collect();
    let (small, large): (Vec<&Head>, Vec<&Head>) = marked
        .iter()
        .partition(|head| head.member_count <= PASS_MEMBERS as u64);
    for ids in chunks_by_members(&small) {
        let members = member::of_conversations(&mut source, &ids).await?;
        let members = mentions::beside(&mut source, &heads, members).await?;
        deliver(applied, targets, &heads, members, deadline).await?;
    }
    for head in large {
        deliver_large(applied, targets, &mut source, &heads, head.id, deadline).await?;
    }
    // A conversation that is being written to keeps its mark; finding that out here takes no lock that a sender waits for.
    let mut done = list_marks::unchanged(&mut source, &marked).await?;
    drop(source);
    marks.retain(|mark| !applied.failed.contains(&mark.conversation));
    done.retain(|head| !applied.failed.contains(&head.id));
    let begun = Instant::now();
    clear(shard, &marks, &done, deadline).await?;
    applied.worked += begun.elapsed();
    Ok(())
}

/// Groups conversations so that each group has about as many members as are written at once.
fn chunks_by_members(heads: &[&Head]) -> Vec<Vec<ConversationId>> {
    let mut chunks: Vec<Vec<ConversationId>> = Vec::new();
    let mut room = 0;
    for head in heads {
        if chunks.is_empty() || head.member_count > room {
            chunks.push(Vec::new());
            room = PASS_MEMBERS as u64;
        }
        room = room.saturating_sub(head.member_count);
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(head.id);
        }
    }
    chunks
}

async fn deliver_large(
    applied: &mut Applied,
    targets: Targets<'_>,
    source: &mut OwnedReader<'_>,
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
        let members = mentions::beside(source, heads, members).await?;
        deliver(applied, targets, heads, members, deadline).await?;
    }
}

/// The router, which finds shards, and the listener for changes of lists.
type Targets<'a> = (&'a Router, &'a dyn CommitListener);

/// Applies heads to members' list entries, all shards at the same time; what fails is put down in `applied`.
async fn deliver(
    applied: &mut Applied,
    targets: Targets<'_>,
    heads: &HashMap<ConversationId, Head>,
    members: Vec<(ConversationId, StoredMembership, Unread)>,
    deadline: Instant,
) -> Result<()> {
    let (router, _) = targets;
    let mut by_shard: BTreeMap<ShardName, Vec<EntryUpdate>> = BTreeMap::new();
    let map = router.map();
    for (id, member, mentions) in members {
        let Some(head) = heads.get(&id) else { continue };
        let key = router.key(&member.user)?;
        let shard = &map.locate(key).shard;
        if applied.down.contains(shard) {
            applied.failed.insert(id);
            continue;
        }
        let update = EntryUpdate::new(head, member, mentions, key);
        by_shard.entry(shard.clone()).or_default().push(update);
    }
    let deliveries = by_shard.iter().map(async |(name, updates)| {
        let begun = Instant::now();
        let delivered = async {
            let target = router.shard(name)?;
            for updates in updates.chunks(PASS_MEMBERS) {
                deliver_to(targets, target, &map, updates, deadline).await?;
            }
            Ok(())
        };
        let delivered: Result<()> = delivered.await;
        (name, updates, delivered.map(|()| begun.elapsed()))
    });
    let mut worked = Duration::ZERO;
    for (name, updates, delivered) in join_all(deliveries).await {
        match delivered {
            Ok(took) => worked = worked.max(took),
            Err(error) => {
                applied.failure.get_or_insert(error);
                applied.down.insert(name.clone());
                let ids = updates.iter().map(|update| update.conversation());
                applied.failed.extend(ids);
            }
        }
    }
    applied.worked += worked;
    Ok(())
}

/// One transaction on the shard of some users. When it no longer owns one of them, the marks are kept, and the next pass
/// goes by the new map.
async fn deliver_to(
    (router, listener): Targets<'_>,
    target: &Shard,
    map: &Arc<ShardMap>,
    updates: &[EntryUpdate],
    deadline: Instant,
) -> Result<()> {
    let apply = |mut transaction: OwnedTransaction<'static>| async move {
        list::apply(&mut transaction, updates).await
    };
    let applied = target
        .write(&list::scope(map, updates), deadline, apply)
        .await;
    match applied {
        Ok(changed) => {
            listener.committed(list_events(changed));
            Ok(())
        }
        Err(error @ Error::NotOwner(_)) => {
            router.refresh(map).await?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// The events of changed list entries.
#[must_use]
pub fn list_events(changed: Vec<(UserId, Entry)>) -> Vec<CommitEvent> {
    let event = |(user, entry): (UserId, Entry)| CommitEvent::ListChanged {
        user,
        rev: entry.rev,
        entry: entry.into_list_entry(),
    };
    changed.into_iter().map(event).collect()
}

async fn clear(shard: &Shard, marks: &[Mark], heads: &[&Head], deadline: Instant) -> Result<()> {
    if marks.is_empty() && heads.is_empty() {
        return Ok(());
    }
    shard
        .transaction(deadline, |mut transaction| async move {
            if !heads.is_empty() {
                list_marks::unmark(&mut transaction, heads).await?;
            }
            list_marks::clear(&mut transaction, marks).await
        })
        .await
}
