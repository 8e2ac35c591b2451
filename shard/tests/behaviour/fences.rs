//! The fence as a type (INV-OWNER): what each kind of reader and transaction asks, and what a transaction may write.

use std::time::Instant;

use backscroll_shard::db::Value;
use backscroll_shard::error::{Error, Result};
use backscroll_shard::fence::FenceState;
use backscroll_shard::head::{self, Head};
use backscroll_shard::history;
use backscroll_shard::ids::{ConversationId, Epoch, KeyFunction, UserId, UserKey};
use backscroll_shard::map::Assignment;
use backscroll_shard::model::{ConversationKind, Timestamp};
use backscroll_shard::node::Shard;
use backscroll_shard::owned::{Entity, OwnedTransaction, WriteScope};
use backscroll_shard::range::KeyRange;

use crate::bed::{Bed, PATIENCE, user};

crate::on_every_backend!(
    every_statement_that_asks_a_fence_has_the_same_answer,
    a_transaction_on_several_ranges_needs_all_of_their_fences,
    a_server_that_is_not_the_writer_finds_no_fence,
    a_transaction_writes_only_what_it_named,
);

const STATES: [FenceState; 4] = [
    FenceState::Open,
    FenceState::Moving,
    FenceState::Frozen,
    FenceState::Gone,
];

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

fn home_of(bed: &Bed, key: UserKey) -> Assignment {
    bed.store.map().locate(key).clone()
}

fn key(name: &UserId) -> UserKey {
    KeyFunction::Hashed.key(name).unwrap()
}

fn is_owner<T>(asked: Result<T>) -> bool {
    match asked {
        Ok(_) => true,
        Err(Error::NotOwner(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Whether a lane's first statement may write the conversation.
async fn lane_may_write(shard: &Shard, scope: &WriteScope<'_>, id: ConversationId) -> bool {
    let mut connection = shard.primary().writer(soon()).await.unwrap();
    connection.begin().await.unwrap();
    let locked = head::lock_with_fences(&mut connection, scope).await;
    let (transaction, heads) = locked.unwrap();
    let may_write = transaction.may_write(id);
    assert_eq!(
        heads.len(),
        usize::from(may_write),
        "only what it may write"
    );
    drop(transaction);
    connection.rollback().await;
    may_write
}

/// Whether a single transaction may write the conversation.
async fn may_write(shard: &Shard, scope: &WriteScope<'_>) -> bool {
    let nothing = |_: OwnedTransaction<'static>| async { Ok(()) };
    is_owner(shard.write(scope, soon(), nothing).await)
}

/// Fences as they are stored against fences as they are asked for, in every state, with every epoch and range; by each of
/// the statements that ask.
async fn every_statement_that_asks_a_fence_has_the_same_answer(bed: &Bed) {
    let alice = user("alice");
    let id = bed.group("alice", &["bob"]).await;
    bed.settle().await;
    let unknown = ConversationId::new(id.owner_key(), 7);
    let home = home_of(bed, id.owner_key());
    let shard = bed.store.router().shard(&home.shard).unwrap().clone();
    let mut operator = shard.primary().reader(soon()).await.unwrap();
    let after = id.owner_key().0.saturating_add(1);
    let ends = [home.range.end, Some(after), None];
    let start = UserKey(home.range.start).to_bytes();
    for (state, end, epoch) in combinations(ends) {
        let stored_end = end.map(|end| UserKey(end).to_bytes());
        let set = "UPDATE fences SET state = ?, range_end = ?, epoch = ? WHERE range_start = ?";
        let args = [
            Value::from(state.name()),
            Value::from(stored_end.as_ref()),
            Value::from(epoch),
            Value::from(&start),
        ];
        operator.execute(set, &args).await.unwrap();
        for (asked_end, asked_epoch) in ends.iter().flat_map(|end| [(*end, 1), (*end, 2)]) {
            let asked = Assignment {
                range: KeyRange {
                    start: home.range.start,
                    end: asked_end,
                },
                shard: home.shard.clone(),
                epoch: Epoch(asked_epoch),
            };
            let is_it = asked_end == end && Epoch(asked_epoch) == epoch;
            let what =
                format!("{state:?} {end:?} {epoch} asked for as {asked_end:?} {asked_epoch}");
            let reads = is_it && state != FenceState::Gone;
            let member = history::access(&shard, &asked, (id, &alice), soon()).await;
            assert_eq!(is_owner(member), reads, "a member: {what}");
            let nothing = history::access(&shard, &asked, (unknown, &alice), soon()).await;
            let nothing = matches!(nothing, Err(Error::NotMember)) || is_owner(nothing);
            assert_eq!(nothing, reads, "no row: {what}");
            let alone = shard.read(&asked, soon()).await;
            assert_eq!(is_owner(alone), reads, "alone: {what}");
            let writes = is_it && matches!(state, FenceState::Open | FenceState::Moving);
            let scope = WriteScope::conversation(&asked, id);
            assert_eq!(may_write(&shard, &scope).await, writes, "{what}");
            let lane = lane_may_write(&shard, &scope, id).await;
            assert_eq!(lane, writes, "a lane: {what}");
            let marks = operator.execute("DELETE FROM move_marks", &[]).await;
            let marked = is_it && state == FenceState::Moving;
            assert_eq!(marks.unwrap(), u64::from(marked), "the mark: {what}");
        }
    }
    let elsewhere = Assignment {
        range: KeyRange {
            start: id.owner_key().0,
            end: home.range.end,
        },
        ..home.clone()
    };
    let scope = WriteScope::conversation(&elsewhere, id);
    assert!(!is_owner(shard.read(&elsewhere, soon()).await), "no fence");
    assert!(!may_write(&shard, &scope).await, "no fence");
    assert!(!lane_may_write(&shard, &scope, id).await, "no fence");
}

fn combinations(ends: [Option<u64>; 3]) -> impl Iterator<Item = (FenceState, Option<u64>, Epoch)> {
    let of_state = move |state| ends.into_iter().map(move |end| (state, end));
    let states = STATES.into_iter().flat_map(of_state);
    states.flat_map(|(state, end)| [(state, end, Epoch(2)), (state, end, Epoch(1))])
}

/// Also on a connection that was open before another server of the cluster became the writer.
async fn a_server_that_is_not_the_writer_finds_no_fence(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    bed.settle().await;
    let home = home_of(bed, id.owner_key());
    let shard = bed.store.router().shard(&home.shard).unwrap().clone();
    let scope = WriteScope::conversation(&home, id);
    assert!(lane_may_write(&shard, &scope, id).await);
    let mut operator = shard.primary().reader(soon()).await.unwrap();
    let mut lane = shard.primary().writer(soon()).await.unwrap();
    let other = "INSERT INTO writer (slot, server, since) VALUES (1, 'elsewhere:3306', 0)";
    operator.execute(other, &[]).await.unwrap();
    lane.begin().await.unwrap();
    let (transaction, heads) = head::lock_with_fences(&mut lane, &scope).await.unwrap();
    assert!(!transaction.may_write(id));
    assert!(heads.is_empty());
    drop(transaction);
    lane.rollback().await;
    drop(lane);
    let nothing = |_: OwnedTransaction<'static>| async { Ok(()) };
    let refused = shard.write(&scope, soon(), nothing).await;
    // A connection that is new is not even handed out.
    let is_refused = matches!(
        refused,
        Err(Error::NotOwner(_) | Error::ShardUnavailable(_) | Error::WrongDatabase(_))
    );
    assert!(is_refused, "{refused:?}");
    operator.execute("DELETE FROM writer", &[]).await.unwrap();
    assert!(lane_may_write(&shard, &scope, id).await);
    assert!(may_write(&shard, &scope).await);
}

async fn a_transaction_on_several_ranges_needs_all_of_their_fences(bed: &Bed) {
    let alice = user("alice");
    let home = home_of(bed, key(&alice));
    let shard = bed.store.router().shard(&home.shard).unwrap().clone();
    let stale = Assignment {
        epoch: home.epoch.next(),
        ..home.clone()
    };
    let mut scope = WriteScope::users(&home, [(key(&alice), &alice)]);
    assert!(may_write(&shard, &scope).await);
    scope.add(&stale, Entity::User(key(&alice), alice.clone()));
    assert!(!may_write(&shard, &scope).await, "one of two is stale");
    // An assignment says nothing about keys that are not in its range.
    let mut names = (0..).map(|n| user(&format!("reader{n}")));
    let other = names.find(|name| !home.range.contains(key(name))).unwrap();
    let scope = WriteScope::users(&home, [(key(&other), &other)]);
    assert!(!may_write(&shard, &scope).await, "a key of another range");
}

async fn a_transaction_writes_only_what_it_named(bed: &Bed) {
    let alice = user("alice");
    let home = home_of(bed, key(&alice));
    let shard = bed.store.router().shard(&home.shard).unwrap().clone();
    let [named, other] = [1, 2].map(|low| {
        let id = ConversationId::new(key(&alice), low);
        Head::new(id, ConversationKind::Group, alice.clone(), Timestamp(1))
    });
    let scope = WriteScope::conversation(&home, named.id);
    for (head, is_written) in [(&named, true), (&other, false)] {
        let insert = |mut transaction: OwnedTransaction<'static>| async move {
            head::insert(&mut transaction, head, None).await
        };
        let written = shard.write(&scope, soon(), insert).await;
        match written {
            Ok(()) => assert!(is_written),
            Err(error) => assert!(
                !is_written && matches!(error, Error::Unexpected(_)),
                "{error}"
            ),
        }
    }
    let mut rows = shard.read(&home, soon()).await.unwrap();
    let stored = head::read(&mut rows, &[named.id, other.id]).await.unwrap();
    let stored: Vec<ConversationId> = stored.iter().map(|head| head.id).collect();
    assert_eq!(stored, [named.id]);
}
