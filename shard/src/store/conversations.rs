//! Creating, reading, renaming and deleting conversations.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{HELD, Store};
use crate::archive;
use crate::conversation::{self, FIRST_MEMBERS, Head, Told};
use crate::db::Connection;
use crate::error::{Error, Result};
use crate::fence;
use crate::history;
use crate::ids::{ConversationId, Seq, UserId};
use crate::map::Assignment;
use crate::member::{self, Membership};
use crate::message::check_object;
use crate::model::{
    Caller, Conversation, ConversationKind, ConversationPatch, NewConversation, RawJson, Role,
    Timestamp,
};
use crate::node::Shard;
use crate::seams::{Event, Left};

/// Longest title in characters.
const TITLE_MAX: usize = 255;
/// Most members named when a conversation is created, or added at once.
pub(super) const MEMBERS_AT_ONCE: usize = 1000;
/// How many forged collisions a direct conversation's id steps over before it gives up.
const PROBES: u64 = 16;

/// A conversation that was checked and can be created.
struct Plan {
    head: Head,
    members: Vec<(UserId, Role)>,
    /// The id follows from the input, so that the same call again finds the same conversation.
    repeatable: bool,
}

enum Created {
    New,
    Existing,
    /// Another conversation has the id.
    Taken,
}

impl Store {
    /// Creates a conversation owned by the caller; says whether it is new. A direct one is created or found. With an
    /// idempotency key, the same key by the same caller finds the conversation it made.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::LimitReached`], [`Error::IdempotencyConflict`], [`Error::ShardUnavailable`],
    /// [`Error::DeadlineExceeded`].
    pub async fn create_conversation(
        &self,
        caller: &Caller,
        new: NewConversation,
        idempotency_key: Option<&str>,
    ) -> Result<(Conversation, bool)> {
        for probe in 0..PROBES {
            let plan = self.plan(caller, &new, idempotency_key, probe)?;
            let id = plan.head.id;
            match self.create(caller, &plan).await? {
                Created::New => {
                    self.listener.committed(vec![Event::ConversationChanged {
                        conversation: id,
                        rev: plan.head.rev,
                        left: Left::Nobody,
                    }]);
                    self.relay_now(caller, id).await;
                    return Ok((self.conversation(caller, id).await?, true));
                }
                Created::Existing => return Ok((self.conversation(caller, id).await?, false)),
                Created::Taken if plan.repeatable && new.kind != ConversationKind::Direct => {
                    return Err(Error::IdempotencyConflict);
                }
                Created::Taken => {}
            }
        }
        Err(Error::Conflict(
            "no free id was found for this conversation",
        ))
    }

    /// Checks the input and chooses the id.
    fn plan(
        &self,
        caller: &Caller,
        new: &NewConversation,
        key: Option<&str>,
        probe: u64,
    ) -> Result<Plan> {
        let others: BTreeSet<&UserId> = new
            .members
            .iter()
            .filter(|user| **user != caller.user)
            .collect();
        for user in &others {
            self.key(user)?;
        }
        let my_key = self.key(&caller.user)?;
        let (id, creator_role) = match new.kind {
            ConversationKind::Direct => {
                let [other] = others.iter().copied().collect::<Vec<_>>()[..] else {
                    return Err(Error::invalid(
                        "members",
                        "a direct conversation has exactly one other member",
                    ));
                };
                if new.title.is_some() {
                    return Err(Error::invalid("title", "a direct conversation has none"));
                }
                (
                    ConversationId::direct(
                        (&caller.user, my_key),
                        (other, self.key(other)?),
                        probe,
                    ),
                    Role::Member,
                )
            }
            ConversationKind::Group | ConversationKind::Channel => {
                let id = match key {
                    Some(key) => ConversationId::derived((&caller.user, my_key), "create", key),
                    None => ConversationId::new(my_key, rand::random()),
                };
                (id, Role::Owner)
            }
        };
        self.check_member_count(new.kind, others.len() as u64 + 1)?;
        if others.len() > MEMBERS_AT_ONCE {
            return Err(Error::LimitReached {
                what: "members at once; add the others afterwards",
                max: MEMBERS_AT_ONCE as u64,
            });
        }
        let mut head = Head::new(id, new.kind, caller.user.clone(), Timestamp::now());
        head.title = new.title.as_deref().map(check_title).transpose()?;
        head.metadata = self.check_metadata(new.metadata.as_ref())?;
        head.member_count = others.len() as u64 + 1;
        head.set_relayed(self.settings().relay.max_members);
        head.change_members();
        head.marked = true;
        let mut members = vec![(caller.user.clone(), creator_role)];
        members.extend(others.into_iter().map(|user| (user.clone(), Role::Member)));
        head.first_members = members
            .iter()
            .take(FIRST_MEMBERS)
            .map(|(user, _)| user.clone())
            .collect();
        Ok(Plan {
            head,
            members,
            repeatable: key.is_some() || new.kind == ConversationKind::Direct,
        })
    }

    async fn create(&self, caller: &Caller, plan: &Plan) -> Result<Created> {
        let attempt = || {
            self.router.call(
                plan.head.id.owner_key(),
                caller.deadline,
                |shard, assignment| async move {
                    let mut connection = shard.begin(caller.deadline).await?;
                    let created = create(&mut connection, &shard, &assignment, plan).await?;
                    connection.commit().await?;
                    Ok(created)
                },
            )
        };
        match attempt().await {
            // Somebody created it between our look and our insert: look again.
            Err(Error::Database(error))
                if error
                    .as_database_error()
                    .is_some_and(sqlx::error::DatabaseError::is_unique_violation) =>
            {
                attempt().await
            }
            outcome => outcome,
        }
    }

    pub(super) fn check_member_count(&self, kind: ConversationKind, count: u64) -> Result<()> {
        let limits = &self.settings().limits;
        let (what, max) = match kind {
            ConversationKind::Direct => ("members of a direct conversation", 2),
            ConversationKind::Group => ("members of a group", u64::from(limits.group_members)),
            ConversationKind::Channel => {
                ("members of a channel", u64::from(limits.channel_members))
            }
        };
        if count > max {
            Err(Error::LimitReached { what, max })
        } else {
            Ok(())
        }
    }

    fn check_metadata(&self, metadata: Option<&RawJson>) -> Result<Option<String>> {
        let check = |json| check_object("metadata", json, self.settings().limits.metadata_bytes);
        Ok(metadata.map(check).transpose()?.flatten())
    }

    /// One conversation as the caller sees it.
    ///
    /// # Errors
    /// [`Error::NotMember`], [`Error::ShardUnavailable`], [`Error::DeadlineExceeded`].
    pub async fn conversation(&self, caller: &Caller, id: ConversationId) -> Result<Conversation> {
        let (head, me, members) = self
            .router
            .call(
                id.owner_key(),
                caller.deadline,
                |shard, assignment| async move {
                    let mut connection = shard.reader(caller.deadline).await?;
                    history::access(&mut connection, &shard, &assignment, (id, &caller.user))
                        .await?;
                    let head = conversation::heads(&mut connection, &[id], false)
                        .await?
                        .pop()
                        .ok_or(Error::NotMember)?;
                    let me = member::one(&mut connection, id, &caller.user)
                        .await?
                        .ok_or(Error::NotMember)?;
                    Ok((
                        head,
                        me,
                        member::page(&mut connection, id, &[], FIRST_MEMBERS).await?,
                    ))
                },
            )
            .await?;
        view(head, me, members)
    }

    /// Renames it or replaces its metadata (admins), pins or mutes it (each for themselves).
    ///
    /// # Errors
    /// [`Error::Forbidden`], and as [`Store::conversation`].
    pub async fn update_conversation(
        &self,
        caller: &Caller,
        id: ConversationId,
        patch: ConversationPatch,
    ) -> Result<Conversation> {
        let title = patch.title.as_deref().map(check_title).transpose()?;
        let metadata = self.check_metadata(patch.metadata.as_ref())?;
        if title.is_some() || patch.metadata.is_some() {
            let (title, metadata) = (
                title.as_ref(),
                patch.metadata.is_some().then_some(&metadata),
            );
            let rename = |shard: Arc<Shard>, assignment| async move {
                let mut change = self.begin(&shard, &assignment, caller, id).await?;
                if change.head.kind == ConversationKind::Direct {
                    return Err(Error::Forbidden(
                        "a direct conversation has no title or metadata of its own",
                    ));
                }
                if !change.me.has(Role::Admin) {
                    return Err(Error::Forbidden(
                        "only admins can rename a conversation or change its metadata",
                    ));
                }
                if title.is_some() {
                    change.head.title = title.cloned();
                }
                if let Some(metadata) = metadata {
                    change.head.metadata.clone_from(metadata);
                }
                let rev = change.head.next_rev();
                change.told = Told::Everybody;
                change.events.push(Event::ConversationChanged {
                    conversation: id,
                    rev,
                    left: Left::Nobody,
                });
                self.commit(&shard, change).await
            };
            self.router
                .call(id.owner_key(), caller.deadline, rename)
                .await?;
            self.relay_now(caller, id).await;
        }
        if patch.pinned.is_some() || patch.muted.is_some() {
            self.conversation(caller, id).await?; // a member, then
            self.set_list_flags(caller, id, (patch.pinned, patch.muted))
                .await?;
        }
        self.conversation(caller, id).await
    }

    /// Deletes a conversation for all its members. Its owner may.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Conflict`] under a legal hold, and as [`Store::conversation`].
    pub async fn delete_conversation(&self, caller: &Caller, id: ConversationId) -> Result<()> {
        let delete = |shard: Arc<Shard>, assignment| async move {
            let mut change = self.begin(&shard, &assignment, caller, id).await?;
            if change.head.kind == ConversationKind::Direct {
                return Err(Error::Forbidden("a direct conversation cannot be deleted"));
            }
            if !change.me.has(Role::Owner) {
                return Err(Error::Forbidden("only the owner can delete a conversation"));
            }
            if archive::is_held(&mut change.connection, id).await? {
                return Err(Error::Conflict(HELD));
            }
            let now = Timestamp::now();
            change.head.deleted_at = Some(now);
            // Its rows, and its copies in the archive, are removed by the archive's job (INV-ERASE).
            archive::request_erasure(&mut change.connection, id, Seq(0), now).await?;
            let rev = change.head.next_rev();
            change.told = Told::Everybody;
            change.events.push(Event::ConversationChanged {
                conversation: id,
                rev,
                left: Left::Everybody,
            });
            self.commit(&shard, change).await
        };
        self.router
            .call(id.owner_key(), caller.deadline, delete)
            .await?;
        self.relay_now(caller, id).await;
        Ok(())
    }
}

/// In a write transaction: creates the conversation unless its id is taken, by itself or by another.
async fn create(
    connection: &mut Connection,
    shard: &Shard,
    assignment: &Assignment,
    plan: &Plan,
) -> Result<Created> {
    fence::require_write(connection, shard.name(), assignment).await?;
    let id = plan.head.id;
    if let Some(stored) = conversation::heads(connection, &[id], true).await?.pop() {
        return is_the_same(connection, &stored, plan).await;
    }
    let membership = |(user, role): &(UserId, Role)| Membership {
        user: user.clone(),
        role: Some(*role),
        read_seq: Seq(0),
        delivered_seq: Seq(0),
        rev: plan.head.rev,
        joined_at: plan.head.created_at,
    };
    let members: Vec<Membership> = plan.members.iter().map(membership).collect();
    conversation::insert(connection, &plan.head).await?;
    member::save(connection, id, &members).await?;
    Ok(Created::New)
}

/// Whether a stored conversation is the one that was asked for: for direct ones, whether its members are the pair (a
/// forged collision must not open a stranger's conversation); else whether the same caller made it.
async fn is_the_same(connection: &mut Connection, stored: &Head, plan: &Plan) -> Result<Created> {
    if stored.kind != plan.head.kind || stored.deleted_at.is_some() || !plan.repeatable {
        return Ok(Created::Taken);
    }
    let users: Vec<&UserId> = plan.members.iter().map(|(user, _)| user).collect();
    let same = match stored.kind {
        ConversationKind::Direct => {
            let present = member::some(connection, stored.id, &users).await?;
            present.len() == users.len()
        }
        _ => stored.created_by == plan.head.created_by && stored.title == plan.head.title,
    };
    Ok(if same {
        Created::Existing
    } else {
        Created::Taken
    })
}

fn check_title(title: &str) -> Result<String> {
    let title = title.trim();
    if title.is_empty() || title.chars().count() > TITLE_MAX || title.chars().any(char::is_control)
    {
        return Err(Error::invalid(
            "title",
            "1 to 255 characters without control characters",
        ));
    }
    Ok(title.to_owned())
}

/// A conversation as `me` sees it.
fn view(head: Head, mut me: Membership, mut members: Vec<Membership>) -> Result<Conversation> {
    head.writers.move_on(members.iter_mut().chain([&mut me]));
    let metadata = RawJson::parse(head.metadata.unwrap_or_else(|| "{}".into()));
    Ok(Conversation {
        id: head.id,
        kind: head.kind,
        title: head.title,
        metadata: metadata
            .map_err(|error| Error::Corrupt(format!("a conversation's metadata: {error}")))?,
        created_by: head.created_by,
        created_at: head.created_at,
        head_seq: head.head_seq,
        rev: head.rev,
        member_count: head.member_count,
        members: members.into_iter().map(Membership::into_member).collect(),
        last_message: head.last,
        role: me.role.unwrap_or(Role::Member),
        read_seq: me.read_seq,
        delivered_seq: me.delivered_seq,
        unread_count: head.head_seq.0.saturating_sub(me.read_seq.0),
    })
}
