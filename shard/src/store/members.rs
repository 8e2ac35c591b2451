//! Members: listing, adding, roles, leaving.
//!
//! Leaving is final: a member who left is not added by others, who can only ask; the member comes back by adding themselves.
//! A member who was removed is added like anybody else. And nobody is made owner who has written nothing: an owner cannot leave
//! before there is another.

use std::collections::BTreeSet;

use super::creating::MEMBERS_AT_ONCE;
use super::{By, Store};
use crate::change::{Change, ListsToMark};
use crate::commit_event::{CommitEvent, Left};
use crate::departure::{self, Departure};
use crate::error::{Error, Result};
use crate::guard::Action;
use crate::head::FIRST_MEMBERS;
use crate::history;
use crate::ids::{ConversationId, UserId};
use crate::member::{self, Membership, StoredMembership};
use crate::message;
use crate::model::{
    Caller, Conversation, ConversationKind, Member, MemberList, NewMembers, Role, Timestamp,
};
use crate::owned::OwnedReader;

/// What came of adding members.
#[derive(Clone, Copy, Debug, Default)]
struct Added {
    joined: bool,
    /// Somebody has left, and was asked back.
    asked: bool,
}

/// What came of removing a member.
enum Removal {
    Removed,
    PutAway,
}

/// Most members in a page.
const MEMBERS_PAGE_MAX: u32 = 200;

impl Store {
    /// A page of members, by id.
    ///
    /// # Errors
    /// [`Error::NotMember`], [`Error::Invalid`] for a foreign cursor.
    pub async fn members(
        &self,
        caller: &Caller,
        id: ConversationId,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<MemberList> {
        let after = cursor.map(|cursor| {
            UserId::new(cursor)
                .map_err(|_| Error::invalid("cursor", "pass the `nextCursor` of the page before"))
        });
        let after = after.transpose()?;
        let limit = limit.clamp(1, MEMBERS_PAGE_MAX) as usize;
        let after: &[u8] = after.as_ref().map_or(&[], |user| user.as_ref());
        let mut members = self
            .router
            .call(
                id.owner_key(),
                caller.deadline,
                |shard, assignment| async move {
                    let (me, deadline) = ((id, &caller.user), caller.deadline);
                    let (mut rows, access) =
                        history::access(&shard, &assignment, me, deadline).await?;
                    let page = member::page(&mut rows, id, after, limit + 1).await?;
                    let complete =
                        |member: StoredMembership| member.complete(&access.latest_senders);
                    Ok(page.into_iter().map(complete).collect::<Vec<_>>())
                },
            )
            .await?;
        let more = members.len() > limit;
        members.truncate(limit);
        let next_cursor = members
            .last()
            .filter(|_| more)
            .map(|last| last.user.as_str().to_owned());
        Ok(MemberList {
            members: members.into_iter().map(Membership::into_member).collect(),
            next_cursor,
        })
    }

    /// Adds members; those who are members already stay as they are, and those who have left are asked back: says whether there
    /// are any. They come back by adding themselves. Admins may; only owners may add admins.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::NotAccepted`] when one of those who are no members blocks the caller,
    /// [`Error::LimitReached`], [`Error::RateLimited`], and as [`Store::conversation`].
    pub async fn add_members(
        &self,
        caller: &Caller,
        id: ConversationId,
        new: NewMembers,
    ) -> Result<(Conversation, bool)> {
        let users: BTreeSet<UserId> = new.members.into_iter().collect();
        if users.is_empty() || users.len() > MEMBERS_AT_ONCE {
            return Err(Error::invalid(
                "members",
                format!("1 to {MEMBERS_AT_ONCE} users"),
            ));
        }
        for user in &users {
            user.check_new()?;
            self.key(user)?;
        }
        if new.role == Role::Owner {
            return Err(Error::invalid(
                "role",
                "add them as member or admin; change the role afterwards",
            ));
        }
        if users.len() == 1 && users.contains(&caller.user) && new.role == Role::Member {
            self.come_back(caller, id).await?;
            return Ok((self.conversation(caller, id).await?, false));
        }
        let blockers = &self.blockers_among(caller, &users).await?;
        let charge = self.act(Action::AddMembers, caller).await;
        let (users, role, refusal) = (&users, new.role, charge.as_ref().err());
        let add = |mut change: Change| async move {
            require_members_can_change(&change)?;
            let needed = if role == Role::Admin {
                Role::Owner
            } else {
                Role::Admin
            };
            if !change.has(needed) {
                return Err(Error::Forbidden(
                    "only admins can add members, and only owners can add admins",
                ));
            }
            let asked: Vec<&UserId> = users.iter().collect();
            let present = member::some(&mut change.rows, id, &asked).await?;
            let active: BTreeSet<&UserId> = present
                .iter()
                .filter(|m| m.is_active())
                .map(|m| &m.user)
                .collect();
            let mut joining: Vec<&UserId> = asked
                .into_iter()
                .filter(|user| !active.contains(user))
                .collect();
            if joining.is_empty() {
                return Ok(change.unchanged(Added::default()));
            }
            if joining.iter().any(|user| blockers.contains(*user)) {
                return Err(Error::NotAccepted);
            }
            if let Some(refusal) = refusal {
                return Err(refusal.clone());
            }
            let departed = departure::of(&mut change.rows, id, &joining).await?;
            for (user, how) in &departed {
                if *how == Departure::Left {
                    let asked_back = Some(Departure::AskedBack);
                    departure::set(&mut change.rows, (id, user), asked_back).await?;
                }
            }
            joining.retain(|user| !departed.iter().any(|(departed, _)| departed == *user));
            let added = Added {
                joined: !joining.is_empty(),
                asked: !departed.is_empty(),
            };
            if joining.is_empty() {
                return Ok(change.unchanged(added));
            }
            self.join(&mut change, &joining, role).await?;
            change.save(added).await
        };
        let added = self.change(caller, id, add).await;
        if let Ok(charge) = charge {
            charge.settle(&added, |added| added.joined || added.asked);
        }
        let asked = added?.asked;
        self.relay_now(caller, id).await;
        Ok((self.conversation(caller, id).await?, asked))
    }

    /// Makes the caller a member again, who has left and was asked back since. A member stays as they are.
    async fn come_back(&self, caller: &Caller, id: ConversationId) -> Result<()> {
        let join = |mut change: Change| async move {
            let me = &caller.user;
            let member = member::one(&mut change.rows, id, me).await?;
            if member.is_some_and(|member| member.is_active()) {
                return Ok(change.unchanged(()));
            }
            let departed = departure::of(&mut change.rows, id, &[me]).await?;
            if !departed.contains(&(me.clone(), Departure::AskedBack)) {
                return Err(Error::NotMember);
            }
            self.join(&mut change, &[me], Role::Member).await?;
            change.save(()).await
        };
        let server = By::Server(caller.deadline); // the caller is no member
        self.change_by(server, id, join).await?;
        self.relay_now(caller, id).await;
        Ok(())
    }

    /// Takes users who are no members into a conversation.
    async fn join(&self, change: &mut Change, users: &[&UserId], role: Role) -> Result<()> {
        let id = change.head.id;
        let count = change.head.member_count + users.len() as u64;
        let limits = &self.settings().limits;
        limits.check_members(change.head.kind, count)?;
        let rev = change.head.change_members();
        let head_seq = change.head.head_seq; // nothing is unread for those who join now
        let membership = |user: &&UserId| Membership {
            user: (*user).clone(),
            role: Some(role),
            read_seq: head_seq,
            delivered_seq: head_seq,
            rev,
            joined_at: Timestamp::now(),
        };
        let memberships: Vec<Membership> = users.iter().map(membership).collect();
        member::save(&mut change.rows, id, &memberships).await?;
        change.head.member_count = count;
        let joined = users.iter().map(|user| (*user).clone()).collect();
        self.members_changed(change, joined).await?;
        change.events.push(CommitEvent::ConversationChanged {
            conversation: id,
            rev,
            left: Left::Nobody,
        });
        Ok(())
    }

    /// Gives a member another role. Owners may; a conversation keeps at least one owner, and who is made owner has written in it.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Conflict`] for the last owner and for a new one who has written nothing, [`Error::NotFound`] for
    /// a user that is no member.
    pub async fn change_role(
        &self,
        caller: &Caller,
        id: ConversationId,
        user: &UserId,
        role: Role,
    ) -> Result<Member> {
        let set = |mut change: Change| async move {
            require_members_can_change(&change)?;
            if !change.has(Role::Owner) {
                return Err(Error::Forbidden("only owners can change roles"));
            }
            let mut membership = active(&mut change, user).await?;
            if membership.role == Some(role) {
                return Ok(change.unchanged(membership.into_member()));
            }
            if membership.role == Some(Role::Owner) {
                require_another_owner(&mut change.rows, id, user).await?;
            }
            if role == Role::Owner {
                require_writer(&mut change, user).await?;
            }
            membership.role = Some(role);
            membership.rev = change.head.change_members();
            member::save(&mut change.rows, id, std::slice::from_ref(&membership)).await?;
            change.events.push(CommitEvent::ConversationChanged {
                conversation: id,
                rev: membership.rev,
                left: Left::Nobody,
            });
            change.save(membership.into_member()).await
        };
        self.change(caller, id, set).await
    }

    /// Removes a member, or leaves. Admins may remove members, owners anybody. Leaving a direct conversation puts it away: it is in
    /// the caller's list again with its next message.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Conflict`] for the last owner while others remain, [`Error::NotFound`].
    pub async fn remove_member(
        &self,
        caller: &Caller,
        id: ConversationId,
        user: &UserId,
    ) -> Result<()> {
        let remove = |mut change: Change| async move {
            if change.head.kind == ConversationKind::Direct && *user == caller.user {
                return Ok(change.unchanged(Removal::PutAway));
            }
            require_members_can_change(&change)?;
            let mut membership = active(&mut change, user).await?;
            let leaving = *user == caller.user;
            let outranks = change.has(Role::Owner)
                || (change.has(Role::Admin) && membership.role < Some(Role::Admin));
            if !leaving && !outranks {
                return Err(Error::Forbidden(
                    "admins can remove members, owners anybody",
                ));
            }
            if membership.role == Some(Role::Owner) && change.head.member_count > 1 {
                require_another_owner(&mut change.rows, id, user).await?;
            }
            membership.role = None;
            membership.rev = change.head.change_members();
            member::save(&mut change.rows, id, std::slice::from_ref(&membership)).await?;
            let how = leaving.then_some(Departure::Left);
            departure::set(&mut change.rows, (id, user), how).await?;
            change.head.member_count = change.head.member_count.saturating_sub(1);
            self.members_changed(&mut change, vec![user.clone()])
                .await?;
            change.events.push(CommitEvent::ConversationChanged {
                conversation: id,
                rev: membership.rev,
                left: Left::One(user.clone()),
            });
            change.save(Removal::Removed).await
        };
        match self.change(caller, id, remove).await? {
            Removal::Removed => self.relay_now(caller, id).await,
            Removal::PutAway => self.put_away(caller, id).await?,
        }
        Ok(())
    }

    /// Takes a change of the members into the head, and decides which lists follow.
    async fn members_changed(&self, change: &mut Change, users: Vec<UserId>) -> Result<()> {
        let was_relayed = change.head.relayed;
        change.head.set_relayed(self.settings().relay.max_members);
        let first = member::page(&mut change.rows, change.head.id, &[], FIRST_MEMBERS).await?;
        change.head.first_members = first.into_iter().map(|member| member.user).collect();
        change.lists = match (was_relayed, change.head.relayed) {
            (false, false) => ListsToMark::Users(users),
            // Past members are not among those a large conversation tells; a crossing tells them by themselves.
            (true, false) | (false, true) => {
                let marks: Vec<_> = users.iter().map(|user| (change.head.id, user)).collect();
                crate::list_marks::mark(&mut change.rows, &marks).await?;
                ListsToMark::All
            }
            (true, true) => ListsToMark::Members,
        };
        Ok(())
    }
}

fn require_members_can_change(change: &Change) -> Result<()> {
    if change.head.kind == ConversationKind::Direct {
        return Err(Error::Forbidden(
            "the members of a direct conversation do not change",
        ));
    }
    Ok(())
}

/// Nobody is made owner who has written nothing: not in the messages that are not archived.
async fn require_writer(change: &mut Change, user: &UserId) -> Result<()> {
    let id = change.head.id;
    if change.head.latest_senders.newest_of(user).is_some()
        || message::has_sent(&mut change.rows, id, user).await?
    {
        return Ok(());
    }
    Err(Error::Conflict(
        "only a member who has written in the conversation can be made owner",
    ))
}

async fn active(change: &mut Change, user: &UserId) -> Result<Membership> {
    let stored = member::one(&mut change.rows, change.head.id, user).await?;
    let stored = stored.filter(StoredMembership::is_active);
    Ok(change
        .head
        .complete(stored.ok_or(Error::NotFound("member"))?))
}

async fn require_another_owner(
    rows: &mut OwnedReader<'_>,
    id: ConversationId,
    user: &UserId,
) -> Result<()> {
    if member::has_other_owner(rows, id, user).await? {
        return Ok(());
    }
    Err(Error::Conflict(
        "a conversation keeps at least one owner; make somebody else owner first",
    ))
}
