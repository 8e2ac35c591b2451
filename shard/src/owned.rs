//! Rows of key ranges, reached through their fences (INV-OWNER).
//!
//! Functions that read rows of users or conversations take an [`OwnedReader`], and functions that write them an
//! [`OwnedTransaction`]. Both are made by asking the fence: by [`Shard::read`] and [`Shard::write`], or by a statement that
//! reads rows together with their fence ([`head::lock_with_fences`](crate::head::lock_with_fences) for write lanes,
//! [`history::access`](crate::history::access), `standing`). So no fence is forgotten.
//!
//! A transaction names the [`Entity`]s it writes before it begins, in a [`WriteScope`], and writes no others. One place,
//! `OwnedTransaction::admit`, sees them together with the states of their fences, and decides which may be written. They stay
//! the shard's until the transaction ends, because the fences are locked; a crash leaves nothing.
//!
//! Two readers do not ask: the relay, because what it tells is idempotent and never goes back
//! ([`crate::relay`]); and the archive's jobs, because their lease
//! is checked in each of their transactions, together with the fences of the shard's ranges ([`crate::archive::check_lease`]).

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use crate::db::Connection;
use crate::error::{Error, Result};
use crate::fence::{self, FenceState, ReadPermit};
use crate::ids::{ConversationId, UserId, UserKey};
use crate::map::Assignment;
use crate::moves;
use crate::node::Shard;
use crate::transaction::Transaction;

/// Reads rows of a range for which its shard answers. It is a connection as well, for the archive's tables.
#[derive(Debug)]
pub struct OwnedReader<'c>(Link<'c>);

#[derive(Debug)]
enum Link<'c> {
    Own(Connection),
    Transaction(Transaction),
    Lent(&'c mut Connection),
}

impl OwnedReader<'static> {
    /// Reads through the connection on which the fence was asked.
    pub(crate) fn permitted(connection: Connection, _: ReadPermit) -> Self {
        Self(Link::Own(connection))
    }

    /// Reads for the relay, without a fence.
    pub(crate) fn for_relay(connection: Connection) -> Self {
        Self(Link::Own(connection))
    }
}

impl<'c> OwnedReader<'c> {
    /// Reads for a job that holds the shard's lease, without a fence.
    pub fn for_job(connection: &'c mut Connection) -> Self {
        Self(Link::Lent(connection))
    }
}

impl Deref for OwnedReader<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match &self.0 {
            Link::Own(connection) => connection,
            Link::Transaction(transaction) => transaction,
            Link::Lent(connection) => connection,
        }
    }
}

impl DerefMut for OwnedReader<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        match &mut self.0 {
            Link::Own(connection) => connection,
            Link::Transaction(transaction) => transaction,
            Link::Lent(connection) => connection,
        }
    }
}

/// Rows that belong together: they are in one range, and move together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entity {
    /// A conversation: its head, members, messages, marks, import, and its rows of the archive.
    Conversation(ConversationId),
    /// A user: their list, its rev, when they were seen, their notifications.
    User(UserKey, UserId),
}

impl Entity {
    /// The key of its rows.
    #[must_use]
    pub fn key(&self) -> UserKey {
        match self {
            Self::Conversation(id) => id.owner_key(),
            Self::User(key, _) => *key,
        }
    }
}

/// The entities that a transaction is about to write, each with the assignment by which its key belongs to the shard.
#[derive(Clone, Debug, Default)]
pub struct WriteScope<'a> {
    assignments: Vec<&'a Assignment>,
    /// Each with the place of its assignment.
    entities: Vec<(Entity, usize)>,
}

impl<'a> WriteScope<'a> {
    /// One conversation.
    #[must_use]
    pub fn conversation(assignment: &'a Assignment, id: ConversationId) -> Self {
        let mut scope = Self::default();
        scope.add(assignment, Entity::Conversation(id));
        scope
    }

    /// Users of one range, each with their key.
    #[must_use]
    pub fn users<'u>(
        assignment: &'a Assignment,
        users: impl IntoIterator<Item = (UserKey, &'u UserId)>,
    ) -> Self {
        let mut scope = Self::default();
        for (key, user) in users {
            scope.add(assignment, Entity::User(key, user.clone()));
        }
        scope
    }

    /// Adds an entity.
    pub fn add(&mut self, assignment: &'a Assignment, entity: Entity) {
        let known = self.assignments.iter().position(|it| *it == assignment);
        let place = known.unwrap_or_else(|| {
            self.assignments.push(assignment);
            self.assignments.len() - 1
        });
        self.entities.push((entity, place));
    }

    /// The conversations.
    pub(crate) fn conversations(&self) -> impl Iterator<Item = ConversationId> {
        self.entities.iter().filter_map(|(entity, _)| match entity {
            Entity::Conversation(id) => Some(*id),
            Entity::User(..) => None,
        })
    }

    /// The assignments, no two alike.
    pub(crate) fn assignments(&self) -> &[&'a Assignment] {
        &self.assignments
    }
}

/// Writes rows of entities for which its shard takes writes; until its end none of them changes hands.
#[derive(Debug)]
pub struct OwnedTransaction<'c> {
    rows: OwnedReader<'c>,
    writable: Writable,
}

#[derive(Debug)]
enum Writable {
    These {
        conversations: BTreeSet<ConversationId>,
        users: BTreeSet<UserId>,
    },
    /// Whatever is in the ranges of a job's lease.
    Leased,
}

impl OwnedTransaction<'static> {
    /// Locks the fences of all entities.
    ///
    /// # Errors
    /// [`Error::NotOwner`] when the shard does not take writes for one of them.
    pub async fn begin(
        mut transaction: Transaction,
        shard: &Shard,
        scope: &WriteScope<'_>,
    ) -> Result<Self> {
        let fences = fence::lock(&mut transaction, scope.assignments()).await?;
        let rows = OwnedReader(Link::Transaction(transaction));
        let (mut owned, refused, moving) = Self::admit(rows, scope, &fences);
        if refused > 0 {
            return Err(Error::NotOwner(shard.name().clone()));
        }
        moves::mark(&mut owned, &moving).await?;
        Ok(owned)
    }
}

impl<'c> OwnedTransaction<'c> {
    /// Of a transaction that has begun on `connection` and locked the fences of the scope's assignments, which are in these
    /// states: may write those entities for which the shard takes writes.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn locked(
        connection: &'c mut Connection,
        scope: &WriteScope<'_>,
        fences: &[Option<FenceState>],
    ) -> Result<Self> {
        let rows = OwnedReader(Link::Lent(connection));
        let (mut owned, _, moving) = Self::admit(rows, scope, fences);
        moves::mark(&mut owned, &moving).await?;
        Ok(owned)
    }

    /// Writes for a job in whose transaction the shard's lease, and with it the fences of its ranges, was checked.
    pub fn for_job(connection: &'c mut Connection) -> Self {
        Self {
            rows: OwnedReader::for_job(connection),
            writable: Writable::Leased,
        }
    }

    /// Sorts the entities out by the states of their fences; gives how many may not be written, and which of the others are
    /// being moved, too. These are marked before anything is written, in the same transaction, so that the mover copies them
    /// again ([`crate::moves`]). Every transaction on rows of a range comes by here, but for those of jobs under a lease, which
    /// nobody has for a range that is being moved.
    fn admit(
        rows: OwnedReader<'c>,
        scope: &WriteScope<'_>,
        fences: &[Option<FenceState>],
    ) -> (Self, usize, Vec<Entity>) {
        let mut moving = Vec::new();
        let (mut conversations, mut users) = (BTreeSet::new(), BTreeSet::new());
        let mut refused = 0;
        for (entity, place) in &scope.entities {
            let state = fences.get(*place).copied().flatten();
            let in_range = scope.assignments[*place].range.contains(entity.key());
            if in_range && state == Some(FenceState::Moving) {
                moving.push(entity.clone());
            }
            match entity {
                _ if !in_range || !state.is_some_and(FenceState::takes_writes) => refused += 1,
                Entity::Conversation(id) => drop(conversations.insert(*id)),
                Entity::User(_, user) => drop(users.insert(user.clone())),
            }
        }
        let writable = Writable::These {
            conversations,
            users,
        };
        (Self { rows, writable }, refused, moving)
    }

    /// Whether it may write this conversation.
    #[must_use]
    pub fn may_write(&self, id: ConversationId) -> bool {
        match &self.writable {
            Writable::These { conversations, .. } => conversations.contains(&id),
            Writable::Leased => true,
        }
    }

    /// Before rows of conversations are written.
    ///
    /// # Errors
    /// When the transaction was not begun with one of them.
    pub(crate) fn require_conversations(
        &self,
        ids: impl IntoIterator<Item = ConversationId>,
    ) -> Result<()> {
        match ids.into_iter().all(|id| self.may_write(id)) {
            true => Ok(()),
            false => Err(UNNAMED),
        }
    }

    /// Before rows of users are written.
    ///
    /// # Errors
    /// When the transaction was not begun with one of them.
    pub(crate) fn require_users<'u>(
        &self,
        users: impl IntoIterator<Item = &'u UserId>,
    ) -> Result<()> {
        let may_write = |user: &UserId| match &self.writable {
            Writable::These { users, .. } => users.contains(user),
            Writable::Leased => true,
        };
        match users.into_iter().all(may_write) {
            true => Ok(()),
            false => Err(UNNAMED),
        }
    }
}

/// A transaction writes what it did not name, and whose fence it so did not ask.
const UNNAMED: Error = Error::Unexpected("a row of an entity that its transaction did not name");

impl<'c> Deref for OwnedTransaction<'c> {
    type Target = OwnedReader<'c>;

    fn deref(&self) -> &OwnedReader<'c> {
        &self.rows
    }
}

impl<'c> DerefMut for OwnedTransaction<'c> {
    fn deref_mut(&mut self) -> &mut OwnedReader<'c> {
        &mut self.rows
    }
}

impl Shard {
    /// Reads rows of a range, until `deadline`.
    ///
    /// # Errors
    /// [`Error::NotOwner`], [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn read(
        &self,
        assignment: &Assignment,
        deadline: Instant,
    ) -> Result<OwnedReader<'static>> {
        let mut connection = self.reader(deadline).await?;
        let permit = fence::permit_read(&mut connection, self.name(), assignment).await?;
        Ok(OwnedReader::permitted(connection, permit))
    }

    /// Writes rows of the entities of `scope` in a transaction, as [`Shard::transaction`] does.
    ///
    /// # Errors
    /// [`Error::NotOwner`] when the shard does not take writes for one of them, and as [`Shard::transaction`].
    pub async fn write<T, F>(
        &self,
        scope: &WriteScope<'_>,
        deadline: Instant,
        work: impl Fn(OwnedTransaction<'static>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let work = &work;
        let owned = |transaction: Transaction| async move {
            work(OwnedTransaction::begin(transaction, self, scope).await?).await
        };
        self.transaction(deadline, owned).await
    }
}
