//! Creating conversations, once for each request however often it is made (INV-IDEM).
//!
//! A direct conversation's id follows from its two members, so creating it is finding it. A group or channel that is made
//! under an idempotency key has an id that follows from its creator and the key, and a digest of the whole request is
//! stored with it, in its transaction: the same request finds it for as long as its row is there, also when it was renamed
//! or has other members, and another request under the key is refused. Two processes that create at once meet at the
//! primary key: the second looks again and finds the conversation that the first has committed.
//!
//! Conversations that are older than the digest, or were made again by `archive rebuild-index`, have no digest. The same
//! request is recognised there as long as the conversation is as the request asks for it; otherwise the answer is a
//! conflict, never a conversation with members that the request does not name.

use std::collections::BTreeSet;

use twox_hash::XxHash3_64;

use super::Store;
use super::conversations::check_title;
use crate::commit_event::{CommitEvent, Left};
use crate::error::{Error, Result, StatementFault};
use crate::guard::Action;
use crate::head::{self, FIRST_MEMBERS, Head, kind_code};
use crate::ids::{ConversationId, Seq, UserId};
use crate::member::{self, Membership};
use crate::model::{Caller, Conversation, ConversationKind, NewConversation, Role, Timestamp};
use crate::owned::{OwnedReader, OwnedTransaction, WriteScope};

/// Most members named when a conversation is created, or added at once.
pub(super) const MEMBERS_AT_ONCE: usize = 1000;
/// How many forged collisions a direct conversation's id steps over before it gives up.
pub(super) const PROBES: u64 = 16;

/// Why a request is refused under a key that was used before.
const OTHER_REQUEST: &str = "this Idempotency-Key was used before with another request (kind, members, title or metadata differ); \
     use a new key for a new conversation";
const FORGOTTEN_REQUEST: &str = "this Idempotency-Key was used before; its first request is not known any more, and its conversation differs from \
     this request; use a new key for a new conversation";
const DELETED: &str = "the conversation that was made under this Idempotency-Key is deleted; use a new key for a new one";

/// A conversation that was checked and can be created.
pub(super) struct Plan {
    pub(super) head: Head,
    /// The creator first, then the others in order.
    pub(super) members: Vec<(UserId, Role)>,
    repeat: Repeat,
}

/// How it is told whether a stored conversation with the planned id is the one that is asked for.
#[derive(Clone, Copy)]
enum Repeat {
    /// It is not: the id is random.
    Never,
    /// It has the same two members.
    SamePair,
    /// It was made by a request with this digest.
    SameRequest(i64),
}

enum Created {
    New,
    Existing {
        /// The relay has yet to tell the lists.
        marked: bool,
    },
    /// Another conversation has the id.
    Taken,
}

impl Store {
    /// Creates a conversation owned by the caller; says whether it is new. A direct one is created or found, whatever the
    /// key. For others, the same request under the same idempotency key by the same caller finds the conversation that it
    /// made, as it is now.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::LimitReached`]; [`Error::NotAccepted`] for a direct one while one of the two blocks the other, and
    /// for a new one with a user who blocks the caller; [`Error::RateLimited`] for one that would be new;
    /// [`Error::IdempotencyConflict`] for another request under the key, or when its conversation is deleted; [`Error::NotMember`] when the caller has left it; [`Error::ShardUnavailable`],
    /// [`Error::DeadlineExceeded`].
    pub async fn create_conversation(
        &self,
        caller: &Caller,
        new: NewConversation,
        idempotency_key: Option<&str>,
    ) -> Result<(Conversation, bool)> {
        let not_accepted = self.refusal_by_members(caller, &new).await?;
        for probe in 0..PROBES {
            let plan = self.plan(caller, &new, idempotency_key, probe)?;
            let id = plan.head.id;
            let action = match new.kind {
                ConversationKind::Channel => Action::StartChannel,
                ConversationKind::Direct | ConversationKind::Group => Action::Start,
            };
            let charge = self.act(action, caller).await;
            let refusal = not_accepted.as_ref().or(charge.as_ref().err());
            let created = self.create(caller, &plan, refusal).await;
            if let Ok(charge) = charge {
                charge.settle(&created, |created| matches!(created, Created::New));
            }
            match created? {
                Created::New => {
                    self.listener
                        .committed(vec![CommitEvent::ConversationChanged {
                            conversation: id,
                            rev: plan.head.rev,
                            left: Left::Nobody,
                        }]);
                    self.relay_now(caller, id).await;
                    return Ok((self.conversation(caller, id).await?, true));
                }
                Created::Existing { marked } => {
                    if new.kind == ConversationKind::Direct && !marked {
                        self.list_again(caller, id).await?;
                    }
                    return Ok((self.conversation(caller, id).await?, false));
                }
                Created::Taken => {}
            }
        }
        Err(Error::Conflict(
            "no free id was found for this conversation",
        ))
    }

    /// Checks the input and chooses the id.
    pub(super) fn plan(
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
            user.check_new()?;
            self.key(user)?;
        }
        let (id, creator_role) = self.place(caller, new, (&others, key), probe)?;
        self.settings()
            .limits
            .check_members(new.kind, others.len() as u64 + 1)?;
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
        let repeat = match (new.kind, key) {
            (ConversationKind::Direct, _) => Repeat::SamePair,
            (_, Some(_)) => Repeat::SameRequest(digest(&head, &others)?),
            (_, None) => Repeat::Never,
        };
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
            repeat,
        })
    }

    /// The id of a new conversation, and its creator's role there.
    fn place(
        &self,
        caller: &Caller,
        new: &NewConversation,
        (others, key): (&BTreeSet<&UserId>, Option<&str>),
        probe: u64,
    ) -> Result<(ConversationId, Role)> {
        let me = (&caller.user, self.key(&caller.user)?);
        if new.kind == ConversationKind::Direct {
            let other = match others.iter().copied().collect::<Vec<_>>()[..] {
                [other] => other,
                // Notes to oneself.
                [] if new.members.contains(&caller.user) => &caller.user,
                _ => {
                    return Err(Error::invalid(
                        "members",
                        "a direct conversation has exactly one other member, or names its creator for notes",
                    ));
                }
            };
            if new.title.is_some() {
                return Err(Error::invalid("title", "a direct conversation has none"));
            }
            let other = (other, self.key(other)?);
            return Ok((ConversationId::direct(me, other, probe), Role::Member));
        }
        let id = match key {
            Some(key) => ConversationId::derived(me, "create", key),
            None => ConversationId::new(me.1, rand::random()),
        };
        Ok((id, Role::Owner))
    }

    /// Creates the conversation unless its id is taken; with a `refusal`, only finds it.
    async fn create(
        &self,
        caller: &Caller,
        plan: &Plan,
        refusal: Option<&Error>,
    ) -> Result<Created> {
        if let (Repeat::Never, Some(refusal)) = (plan.repeat, refusal) {
            return Err(refusal.clone());
        }
        let create = |mut transaction: OwnedTransaction<'static>| async move {
            create(&mut transaction, plan, refusal).await
        };
        self.write_planned(caller, plan.head.id, create).await
    }

    /// Makes a transaction in which a conversation may be created that is not there.
    pub(super) async fn write_planned<T, F>(
        &self,
        caller: &Caller,
        id: ConversationId,
        work: impl Fn(OwnedTransaction<'static>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let work = &work;
        let attempt = || {
            self.router.call(
                id.owner_key(),
                caller.deadline,
                |shard, assignment| async move {
                    let scope = WriteScope::conversation(&assignment, id);
                    shard.write(&scope, caller.deadline, work).await
                },
            )
        };
        match attempt().await {
            // Another process created it between the look and the insert: look again.
            Err(Error::Statement {
                fault: StatementFault::UniqueKey,
                ..
            }) => attempt().await,
            outcome => outcome,
        }
    }
}

/// Creates the conversation unless its id is taken, by itself or by another, or there is a `refusal`.
async fn create(
    transaction: &mut OwnedTransaction<'_>,
    plan: &Plan,
    refusal: Option<&Error>,
) -> Result<Created> {
    let id = plan.head.id;
    if let Some(stored) = head::lock(transaction, &[id]).await?.pop() {
        return recognise(transaction, &stored, plan).await;
    }
    if let Some(refusal) = refusal {
        return Err(refusal.clone());
    }
    insert(transaction, plan, &plan.head).await?;
    Ok(Created::New)
}

/// Whether a stored conversation is the one that is asked for.
async fn recognise(rows: &mut OwnedReader<'_>, stored: &Head, plan: &Plan) -> Result<Created> {
    let same = match plan.repeat {
        Repeat::Never => false,
        Repeat::SamePair => {
            let same = is_same_pair(rows, stored, plan).await?;
            if same {
                stored.require_accepted()?;
            }
            same
        }
        Repeat::SameRequest(digest) => {
            require_same_request(rows, stored, (plan, digest)).await?;
            true
        }
    };
    Ok(if same {
        Created::Existing {
            marked: stored.marked,
        }
    } else {
        Created::Taken
    })
}

/// Whether a stored conversation is the direct one of the planned pair. A forged collision must not open a stranger's
/// conversation.
pub(super) async fn is_same_pair(
    rows: &mut OwnedReader<'_>,
    stored: &Head,
    plan: &Plan,
) -> Result<bool> {
    let users: Vec<&UserId> = plan.members.iter().map(|(user, _)| user).collect();
    Ok(stored.kind == ConversationKind::Direct
        && stored.member_count == users.len() as u64
        && member::some(rows, stored.id, &users).await?.len() == users.len())
}

/// Writes a conversation that is new, with its members.
pub(super) async fn insert(
    transaction: &mut OwnedTransaction<'_>,
    plan: &Plan,
    head: &Head,
) -> Result<()> {
    let membership = |(user, role): &(UserId, Role)| Membership {
        user: user.clone(),
        role: Some(*role),
        read_seq: Seq(0),
        delivered_seq: Seq(0),
        rev: head.rev,
        joined_at: head.created_at,
    };
    let members: Vec<Membership> = plan.members.iter().map(membership).collect();
    let digest = match plan.repeat {
        Repeat::SameRequest(digest) => Some(digest),
        Repeat::Never | Repeat::SamePair => None,
    };
    head::insert(transaction, head, digest).await?;
    member::save(transaction, head.id, &members).await
}

/// Whether the stored conversation was made by the same request.
async fn require_same_request(
    rows: &mut OwnedReader<'_>,
    stored: &Head,
    (plan, digest): (&Plan, i64),
) -> Result<()> {
    if stored.deleted_at.is_some() {
        return Err(Error::IdempotencyConflict(DELETED));
    }
    let first = head::request_digest(rows, stored.id).await?;
    let (same, refusal) = match first {
        Some(first) => (first == digest, OTHER_REQUEST),
        None => (is_as_planned(rows, stored, plan).await?, FORGOTTEN_REQUEST),
    };
    if same && stored.created_by == plan.head.created_by {
        Ok(())
    } else {
        Err(Error::IdempotencyConflict(refusal))
    }
}

/// Whether the stored conversation is now as the request asks for it.
async fn is_as_planned(rows: &mut OwnedReader<'_>, stored: &Head, plan: &Plan) -> Result<bool> {
    let (head, users) = (&plan.head, plan.members.iter().map(|(user, _)| user));
    let alike = stored.kind == head.kind
        && stored.title == head.title
        && stored.metadata == head.metadata
        && stored.member_count == head.member_count;
    if !alike {
        return Ok(false);
    }
    let users: Vec<&UserId> = users.collect();
    let present = member::some(rows, stored.id, &users).await?;
    Ok(present.iter().filter(|member| member.is_active()).count() == users.len())
}

/// XXH3-64 over the request, each part with its length before it: kind, title, metadata with its keys in order, and the
/// members as a set. It is stored, so the same request has to give the same number in every later version.
fn digest(head: &Head, others: &BTreeSet<&UserId>) -> Result<i64> {
    let metadata = head.metadata.as_deref().map(in_order).transpose()?;
    let mut request = Vec::with_capacity(256);
    let mut part = |text: &str| {
        request.extend_from_slice(&(text.len() as u64).to_le_bytes());
        request.extend_from_slice(text.as_bytes());
    };
    part(&kind_code(head.kind).to_string());
    part(head.title.as_deref().unwrap_or_default());
    part(metadata.as_deref().unwrap_or_default());
    others.iter().for_each(|user| part(user.as_str()));
    Ok(XxHash3_64::oneshot(&request).cast_signed())
}

/// A JSON object with the keys of every object in order, and without white space.
fn in_order(json: &str) -> Result<String> {
    let mut value: serde_json::Value =
        serde_json::from_str(json).map_err(|error| Error::invalid("metadata", error))?;
    value.sort_all_objects();
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::UserKey;

    fn digest_of(title: Option<&str>, metadata: Option<&str>, others: &[&str]) -> i64 {
        let id = ConversationId::new(UserKey(1), 2);
        let alice = UserId::new("alice").unwrap();
        let mut head = Head::new(id, ConversationKind::Group, alice, Timestamp(0));
        head.title = title.map(str::to_owned);
        head.metadata = metadata.map(str::to_owned);
        let others: Vec<UserId> = others
            .iter()
            .map(|name| UserId::new(*name).unwrap())
            .collect();
        digest(&head, &others.iter().collect()).unwrap()
    }

    #[test]
    fn stored_digests_stay_comparable() {
        let digest = digest_of(Some("Lunch"), Some(r#"{"b":1,"a":[2]}"#), &["bob", "carol"]);
        assert_eq!(
            digest, -6_881_675_373_661_007_105,
            "a changed value makes every stored one worthless"
        );
    }

    #[test]
    fn requests_are_told_apart_by_what_they_mean() {
        let first = digest_of(Some("x"), Some(r#"{"a":{"c":1,"d":2},"b":3}"#), &["b", "c"]);
        let again = digest_of(
            Some("x"),
            Some(r#"{ "b":3, "a":{"d":2,"c":1} }"#),
            &["c", "b", "c"],
        );
        assert_eq!(first, again);
        let others = [
            digest_of(Some("x"), Some(r#"{"a":{"c":1,"d":2},"b":4}"#), &["b", "c"]),
            digest_of(Some("x"), None, &["b", "c"]),
            digest_of(None, Some(r#"{"a":{"c":1,"d":2},"b":3}"#), &["b", "c"]),
            digest_of(Some("x"), Some(r#"{"a":{"c":1,"d":2},"b":3}"#), &["b", "d"]),
            digest_of(Some("x"), Some(r#"{"a":{"c":1,"d":2},"b":3}"#), &["bc"]),
        ];
        assert!(!others.contains(&first));
    }
}
