//! Search over the caller's conversations: which, in which order, and what became of each. See [`crate::search`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt as _, stream};

use super::Store;
use crate::error::{Error, Result};
use crate::history;
use crate::ids::{ConversationId, Seq};
use crate::list;
use crate::map::Assignment;
use crate::member::Progress;
use crate::metrics;
use crate::model::{
    Caller, Scanned, SearchHit, SearchPage, SearchRequest, SearchedTo, Timestamp, Unsearched,
};
use crate::node::Shard;
use crate::search::{
    self, Budget, Candidates, Found, HITS, HITS_MAX, HitRoom, Next, Place, Query, SearchCursor,
    Seen,
};
use crate::threads::{self, Threads};

/// Most conversations of one user that are searched.
const CONVERSATIONS_MAX: usize = 10_000;
/// Messages that are read to know where a conversation stood when the search began.
const RECENT: u64 = 64;
/// For how many conversations that is looked up at once.
const RECENT_AT_ONCE: usize = 8;

/// What is to be searched.
struct Scope {
    /// The latest activity of all when the search began.
    as_of: Timestamp,
    /// The conversations, in their order; those that are done left out.
    places: Vec<Place>,
    /// There are more than may be searched.
    is_cut: bool,
}

/// Why the walk of a conversation ended.
enum End {
    /// At its beginning, or where it cannot be read.
    Done,
    /// For now: the next request goes on before this message.
    Paused(Option<Seq>),
}

/// A request that is being answered.
struct Searching<'a> {
    store: &'a Store,
    caller: &'a Caller,
    query: Arc<Query>,
    budget: Budget,
    room: HitRoom,
    page: SearchPage,
    failure: Option<Error>,
}

impl Store {
    /// Messages that contain what `request` asks for, out of the caller's conversations and both tiers, newest first within a
    /// conversation: at most [`HITS_MAX`] of them, and about
    /// [`answer_bytes`](crate::settings::LimitSettings::answer_bytes).
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotMember`] for a conversation that the request names; [`Error::SearchesFull`];
    /// [`Error::DeadlineExceeded`]; and where nothing at all could be read, why that is.
    pub async fn search(&self, caller: &Caller, request: SearchRequest) -> Result<SearchPage> {
        let bytes = self.answer_bytes();
        self.search_within(caller, request, bytes).await
    }

    /// The same in answers with about `most_bytes` of messages.
    ///
    /// # Errors
    /// As [`Store::search`].
    pub async fn search_within(
        &self,
        caller: &Caller,
        request: SearchRequest,
        most_bytes: usize,
    ) -> Result<SearchPage> {
        let query = Arc::new(Query::of(&request)?);
        let cursor = request.cursor.as_deref().map(SearchCursor::parse);
        let cursor = cursor.transpose()?;
        let hits = request.limit.unwrap_or(HITS);
        if !(1..=HITS_MAX).contains(&hits) {
            return Err(Error::invalid("limit", format!("from 1 to {HITS_MAX}")));
        }
        let _turn = self.searches.wait(&caller.user, caller.deadline).await?;
        let scope = self.scope(caller, &query, cursor).await?;
        let searching = Searching {
            store: self,
            caller,
            query,
            budget: Budget::new(caller, &self.settings().search),
            room: HitRoom {
                hits: hits as usize,
                bytes: most_bytes,
                is_begun: false,
            },
            page: SearchPage {
                hits: Vec::new(),
                searched_to: None,
                complete: false,
                scanned: Scanned::default(),
                unsearched: Vec::new(),
                encrypted_skipped: 0,
                cursor: None,
            },
            failure: None,
        };
        searching.answer(scope, cursor).await
    }

    /// The conversations that are to be searched from the cursor on.
    async fn scope(
        &self,
        caller: &Caller,
        query: &Query,
        cursor: Option<SearchCursor>,
    ) -> Result<Scope> {
        let mut scope = if query.conversations.is_empty() {
            self.all_of(caller, cursor).await?
        } else {
            let named = query.conversations.iter();
            let place = |conversation: &ConversationId| Place {
                last_at: Timestamp(0),
                conversation: *conversation,
            };
            Scope {
                as_of: Timestamp(0),
                places: named.map(place).collect(),
                is_cut: false,
            }
        };
        if let Some(cursor) = cursor {
            scope.places.retain(|place| *place <= cursor.place);
        }
        scope.places.sort_unstable_by(|a, b| b.cmp(a));
        Ok(scope)
    }

    /// All of the caller's conversations, where they stood when the search began.
    async fn all_of(&self, caller: &Caller, cursor: Option<SearchCursor>) -> Result<Scope> {
        let key = self.key(&caller.user)?;
        let deadline = caller.deadline;
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let mut mine = shard.read(&assignment, deadline).await?;
            list::activities(&mut mine, (key, &caller.user), CONVERSATIONS_MAX + 1).await
        };
        let mut activities = self.router.call(key, deadline, read).await?;
        let is_cut = activities.len() > CONVERSATIONS_MAX;
        activities.truncate(CONVERSATIONS_MAX);
        let latest = activities.iter().map(|(_, last_at)| *last_at).max();
        let latest = latest.unwrap_or_default();
        let as_of = cursor.map_or(latest, |cursor| cursor.as_of);
        let (moved, still): (Vec<_>, Vec<_>) = activities
            .into_iter()
            .partition(|(_, last_at)| *last_at > as_of);
        let moved = stream::iter(moved).map(|(id, _)| async move {
            let stood = self.stood(caller, id, as_of).await;
            (id, stood)
        });
        let moved: Vec<_> = moved.buffer_unordered(RECENT_AT_ONCE).collect().await;
        let places = still.into_iter().chain(moved);
        let places = places.map(|(conversation, last_at)| Place {
            last_at,
            conversation,
        });
        Ok(Scope {
            as_of,
            places: places.collect(),
            is_cut,
        })
    }

    /// When the newest message of a conversation up to `as_of` was stored; the beginning of time, which is searched last, where
    /// that cannot be known: rather twice than never.
    async fn stood(&self, caller: &Caller, id: ConversationId, as_of: Timestamp) -> Timestamp {
        let mut before = None;
        loop {
            let seen = self.seen(caller, id, (before, RECENT), caller.deadline);
            let Ok(seen) = seen.await else {
                return Timestamp(0);
            };
            let times = seen.messages.iter().rev();
            let mut times = times.map(|message| message.stored().created_at);
            if let Some(time) = times.find(|time| *time <= as_of) {
                return time;
            }
            if seen.is_end || seen.failure.is_some() {
                return Timestamp(0);
            }
            before = Some(seen.range.0);
        }
    }

    /// A stretch of a conversation as the caller may see it.
    async fn seen(
        &self,
        caller: &Caller,
        id: ConversationId,
        stretch: (Option<Seq>, u64),
        deadline: Instant,
    ) -> Result<Seen> {
        let me = (id, &caller.user);
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let cold = self.cold.as_ref();
            search::read((&shard, &assignment), cold, me, stretch, deadline).await
        };
        self.router.call(id.owner_key(), deadline, read).await
    }
}

impl Searching<'_> {
    async fn answer(mut self, scope: Scope, cursor: Option<SearchCursor>) -> Result<SearchPage> {
        let is_named = !self.query.conversations.is_empty();
        let before = |place: Place| {
            let cursor = cursor.filter(|cursor| cursor.place == place);
            cursor.and_then(|cursor| cursor.before)
        };
        let is_whole = cursor.is_none_or(|cursor| cursor.is_whole);
        let begin = scope.places.first().map(|place| SearchCursor {
            as_of: scope.as_of,
            place: *place,
            before: before(*place),
            is_whole,
        });
        let mut paused = None;
        for place in scope.places {
            let before = before(place);
            let ended = match self.budget.is_spent() {
                true => Ok(End::Paused(before)),
                false => self.conversation(place.conversation, before).await,
            };
            match ended {
                Ok(End::Done) => {}
                Ok(End::Paused(before)) => {
                    paused = Some(SearchCursor {
                        as_of: scope.as_of,
                        place,
                        before,
                        is_whole,
                    });
                    break;
                }
                Err(Error::NotMember) if !is_named => {} // left, or deleted, a moment ago
                Err(error @ (Error::NotMember | Error::Closing)) => return Err(error),
                Err(error) => self.pass_over(place.conversation, before, error),
            }
        }
        let scanned = self.page.scanned;
        let has_seen = scanned.messages + scanned.ruled_out > 0;
        match self.failure {
            Some(error) if !has_seen && paused.is_none() => return Err(error),
            None if paused.is_some() && paused == begin => return Err(Error::DeadlineExceeded),
            _ => {}
        }
        let is_whole = is_whole && !scope.is_cut && self.page.unsearched.is_empty();
        self.page.complete = paused.is_none() && is_whole;
        let cursor = paused.map(|cursor| SearchCursor { is_whole, ..cursor });
        self.page.cursor = cursor.map(SearchCursor::to_text);
        Ok(self.page)
    }

    /// Searches a conversation before a message, or from its newest one on.
    async fn conversation(&mut self, id: ConversationId, from: Option<Seq>) -> Result<End> {
        let mut before = from;
        let mut progress: Option<Progress> = None;
        let mut candidates = Candidates::unknown();
        loop {
            if self.budget.is_spent() {
                return Ok(End::Paused(before));
            }
            let mut most = self.budget.next_stretch();
            // The newest messages are read in any case: they are mostly hot, and have the words that are common.
            if let Some(at) = before
                && !self.query.pieces.is_empty()
            {
                match self.pass_on(id, at, &mut candidates).await {
                    Err(_) if self.budget.is_over() => return Ok(End::Paused(before)),
                    Err(error) => return Err(error),
                    Ok((next, _)) if next <= Seq(1) => return Ok(End::Done),
                    Ok((next, None)) => {
                        before = Some(next);
                        continue;
                    }
                    Ok((next, Some(length))) => {
                        before = Some(next);
                        most = most.min(length);
                    }
                }
            }
            let stretch = (before, most);
            let deadline = self.budget.deadline;
            let seen = match self.store.seen(self.caller, id, stretch, deadline).await {
                Err(_) if self.budget.is_over() => return Ok(End::Paused(before)),
                seen => seen?,
            };
            if let Some(failure) = seen.failure {
                if self.budget.is_over() {
                    return Ok(End::Paused(before));
                }
                let (first, last) = seen.range;
                if matches!(failure, Error::ArchiveUnavailable) {
                    self.pass_over(id, Some(last.next()), failure);
                    return Ok(End::Done);
                }
                self.leave_out(id, (first, Some(last)), failure);
                before = Some(first);
            } else {
                let looked = search::look(&self.query, seen.messages, self.room).await?;
                if !looked.found.is_empty() && progress.is_none() {
                    progress = Some(self.progress(id, &seen.access).await?);
                }
                let threads = self.threads(id, &seen.access, &looked.found).await?;
                self.take(id, looked.found, (progress.as_ref(), &threads));
                self.budget.spend(looked.scanned);
                self.page.scanned.messages += looked.scanned.messages;
                self.page.scanned.bytes += looked.scanned.bytes;
                self.room.bytes = self.room.bytes.saturating_sub(looked.bytes);
                if let Some((seq, created_at)) = looked.to {
                    self.page.searched_to = Some(SearchedTo {
                        conversation_id: id,
                        seq,
                        created_at,
                    });
                    before = Some(seq);
                }
                if !looked.is_full {
                    before = Some(seen.range.0);
                }
                if let (Some(lost), Some(done)) = (seen.unavailable, before)
                    && done <= lost.to_seq
                {
                    let range = (lost.from_seq.max(done), Some(lost.to_seq));
                    self.leave_out(id, range, Error::ArchiveUnavailable);
                }
                if looked.is_full {
                    return Ok(End::Paused(before));
                }
            }
            if seen.is_end {
                return Ok(End::Done);
            }
        }
    }

    /// Passes over messages before `before` that cannot be hits. Gives before which message the walk goes on, and how many are to be
    /// read there; none where that is not known yet.
    async fn pass_on(
        &mut self,
        id: ConversationId,
        before: Seq,
        candidates: &mut Candidates,
    ) -> Result<(Seq, Option<u64>)> {
        let mut next = candidates.next(before);
        if next == Next::Unknown {
            *candidates = self.candidates(id, before).await?;
            next = candidates.next(before);
        }
        let (end, length) = match next {
            Next::Read(first, last) => (last.next(), Some(last.0 + 1 - first.0)),
            Next::PassOver(floor) => (floor, None),
            Next::Unknown => return Ok((before, Some(u64::MAX))),
        };
        let ruled_out = before.0.saturating_sub(end.0);
        self.page.scanned.ruled_out += ruled_out;
        metrics::SEARCH_RULED_OUT.increment(ruled_out);
        let ahead = candidates.take_ahead(end);
        if !ahead.is_empty() {
            self.store.cold.read_soon(&ahead);
        }
        Ok((end, length))
    }

    async fn candidates(&self, id: ConversationId, before: Seq) -> Result<Candidates> {
        let (me, pieces) = ((id, &self.caller.user), &self.query.pieces);
        let (cold, deadline) = (self.store.cold.as_ref(), self.budget.deadline);
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let place = (&*shard, &assignment);
            Candidates::find(place, cold, me, (before, pieces), deadline).await
        };
        let router = &self.store.router;
        router.call(id.owner_key(), deadline, read).await
    }

    /// Adds hits of a conversation.
    fn take(
        &mut self,
        id: ConversationId,
        found: Vec<Found>,
        (progress, threads): (Option<&Progress>, &Threads),
    ) {
        self.room.hits -= found.len();
        self.room.is_begun |= !found.is_empty();
        for Found { message, ranges } in found {
            let status = progress.map(|it| it.status(message.sender(), message.seq()));
            let mut message = message.into_message(id, status.unwrap_or_default());
            threads::show(&mut message, threads);
            self.page.hits.push(SearchHit { message, ranges });
        }
    }

    /// How far the messages of a conversation have come.
    async fn progress(&self, id: ConversationId, access: &history::Access) -> Result<Progress> {
        let deadline = self.caller.deadline;
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            let mut rows = shard.read(&assignment, deadline).await?;
            history::progress(&mut rows, id, (access.kind, &access.latest_senders)).await
        };
        let router = &self.store.router;
        router.call(id.owner_key(), deadline, read).await
    }

    /// What is shown of the replies to hits; no statement in a conversation without replies.
    async fn threads(
        &self,
        id: ConversationId,
        access: &history::Access,
        found: &[Found],
    ) -> Result<Threads> {
        if !access.is_threaded || found.is_empty() {
            return Ok(Threads::new());
        }
        let roots: &BTreeSet<_> = &found.iter().map(|it| (id, it.message.seq())).collect();
        let deadline = self.caller.deadline;
        let read = |shard: Arc<Shard>, assignment: Assignment| async move {
            threads::read(&mut shard.read(&assignment, deadline).await?, roots).await
        };
        let router = &self.store.router;
        router.call(id.owner_key(), deadline, read).await
    }

    /// Leaves the rest of a conversation out, from before `before` on.
    fn pass_over(&mut self, id: ConversationId, before: Option<Seq>, error: Error) {
        let last = before.map(|before| Seq(before.0.saturating_sub(1)));
        self.leave_out(id, (Seq(1), last), error);
    }

    /// Leaves a stretch out, and says so in the answer.
    fn leave_out(&mut self, id: ConversationId, (from, to): (Seq, Option<Seq>), error: Error) {
        tracing::debug!(%error, conversation = %id, "a stretch could not be searched");
        let unsearched = &mut self.page.unsearched;
        match unsearched.last_mut() {
            Some(last) if last.conversation_id == id && to == Some(Seq(last.from_seq.0 - 1)) => {
                last.from_seq = from;
            }
            _ => unsearched.push(Unsearched {
                conversation_id: id,
                from_seq: from,
                to_seq: to,
            }),
        }
        self.failure = Some(error);
    }
}
