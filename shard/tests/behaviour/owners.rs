//! INV-OWNER for readers that ask several shards at once: no answer comes from a shard that gave the key up.

use std::time::{Duration, Instant};

use backscroll_shard::db::{Connection, Database, Value};
use backscroll_shard::head;
use backscroll_shard::ids::{ConversationId, KeyFunction, Seq, ShardName, UserId, UserKey};
use backscroll_shard::map::Assignment;
use backscroll_shard::member;
use backscroll_shard::model::{Caller, ConversationKind, ListEntry, NewConversation, SyncRequest};
use backscroll_shard::owned::{OwnedReader, OwnedTransaction};
use backscroll_shard::settings::{DatabaseUrl, Span, StoreSettings};
use backscroll_shard::store::Store;
use backscroll_testkit::warnings;

use crate::bed::{Bed, PATIENCE, caller, text, user};
use crate::logged;

crate::on_every_backend!(
    a_large_conversation_is_listed_as_its_new_owner_has_it,
    a_large_conversation_is_listed_while_its_range_is_frozen,
    a_list_does_not_wait_for_a_range_without_an_owner,
    a_batch_is_cut_anew_where_its_range_was_split,
);

/// Settings under which a conversation of five is not relayed, and a map is only read anew when a shard refuses.
fn settings(bed: &Bed) -> StoreSettings {
    let mut settings = bed.settings.clone();
    settings.relay.max_members = 3;
    settings.directory.refresh_interval = Span::secs(3600);
    settings
}

fn home_of(bed: &Bed, name: &UserId) -> Assignment {
    let key = KeyFunction::Hashed.key(name).unwrap();
    bed.store.map().locate(key).clone()
}

/// A user whose own list is on another shard than alice's conversations.
fn somebody_elsewhere(bed: &Bed) -> UserId {
    let home = home_of(bed, &user("alice")).shard;
    let mut names = (0..).map(|n| user(&format!("reader{n}")));
    names.find(|name| home_of(bed, name).shard != home).unwrap()
}

async fn connect(bed: &Bed, url: &DatabaseUrl) -> Connection {
    let database = Database::open_any(url, &bed.settings.pool).unwrap();
    database.writer(Instant::now() + PATIENCE).await.unwrap()
}

async fn connect_to_shard(bed: &Bed, name: &ShardName) -> Connection {
    let mut shards = bed.settings.shards.iter();
    let shard = shards.find(|shard| shard.name == *name).unwrap();
    connect(bed, &shard.primary).await
}

/// What a move leaves behind, for part of a range: rows on both shards, the map and both fences.
async fn move_range(bed: &Bed, from: &Assignment, at: u64, ids: &[ConversationId]) -> ShardName {
    let mut shards = bed.settings.shards.iter().map(|shard| &shard.name);
    let to = shards.find(|name| **name != from.shard).unwrap().clone();
    let (start, end) = (
        from.range.start.to_be_bytes(),
        from.range.end.map(u64::to_be_bytes),
    );
    let cut = at.to_be_bytes();
    let mut source = connect_to_shard(bed, &from.shard).await;
    let mut target = connect_to_shard(bed, &to).await;
    let mut source_rows = OwnedReader::for_job(&mut source);
    let mut target_rows = OwnedTransaction::for_job(&mut target);
    for head in head::read(&mut source_rows, ids).await.unwrap() {
        head::insert(&mut target_rows, &head, None).await.unwrap();
        let members = member::of_conversations(&mut source_rows, &[head.id])
            .await
            .unwrap();
        let members = members.into_iter();
        let members: Vec<_> = members.map(|(_, member)| head.complete(member)).collect();
        member::save(&mut target_rows, head.id, &members)
            .await
            .unwrap();
    }
    let mut directory = connect(bed, &bed.settings.directory.url).await;
    if at == from.range.start {
        let gone = "UPDATE fences SET state = 'gone' WHERE range_start = ?";
        execute(&mut source, gone, &[Value::from(&start)]).await;
        let moved = "UPDATE ranges SET shard = ?, epoch = 2 WHERE range_start = ?";
        execute(
            &mut directory,
            moved,
            &[Value::from(to.as_str()), Value::from(&start)],
        )
        .await;
    } else {
        let shorter = [Value::from(&cut), Value::from(&start)];
        let fence = "UPDATE fences SET range_end = ?, epoch = 2 WHERE range_start = ?";
        execute(&mut source, fence, &shorter).await;
        let range = "UPDATE ranges SET range_end = ?, epoch = 2 WHERE range_start = ?";
        execute(&mut directory, range, &shorter).await;
        let rest = [
            Value::from(&cut),
            Value::from(end.as_ref()),
            Value::from(to.as_str()),
        ];
        let insert =
            "INSERT INTO ranges (range_start, range_end, shard, epoch) VALUES (?, ?, ?, 2)";
        execute(&mut directory, insert, &rest).await;
    }
    let open = "INSERT INTO fences (range_start, range_end, epoch, state) VALUES (?, ?, 2, 'open')";
    execute(
        &mut target,
        open,
        &[Value::from(&cut), Value::from(end.as_ref())],
    )
    .await;
    to
}

async fn execute(connection: &mut Connection, statement: &str, args: &[Value<'_>]) {
    assert_eq!(
        connection.execute(statement, args).await.unwrap(),
        1,
        "{statement}"
    );
}

async fn large(store: &Store, owner: &str, reader: &UserId) -> ConversationId {
    let others = ["bob", "carol", "dave"].map(user);
    let new = NewConversation {
        kind: ConversationKind::Channel,
        members: others.into_iter().chain([reader.clone()]).collect(),
        title: Some("all".into()),
        metadata: None,
    };
    let created = store.create_conversation(&caller(owner), new, None).await;
    let id = created.unwrap().0.id;
    store.send(&caller("bob"), id, text("one")).await.unwrap();
    store.relay_idle(Instant::now() + PATIENCE).await.unwrap();
    id
}

/// What all three ways say that show the list of a user.
async fn seen(store: &Store, reader: &UserId) -> Vec<ListEntry> {
    let me = Caller::new(reader.clone(), PATIENCE);
    let list = store.list_conversations(&me, None, 10).await.unwrap();
    let synced = store.sync(&me, SyncRequest::default()).await.unwrap();
    let mut synced: Vec<ListEntry> = synced
        .changes
        .into_iter()
        .filter_map(|change| change.conversation)
        .collect();
    synced.sort_by_key(|entry| std::cmp::Reverse(entry.last_activity_at));
    assert_eq!(synced, list.conversations);
    let unread = store.unread_count(&me).await.unwrap();
    let total = list.conversations.iter().map(|entry| entry.unread_count);
    assert_eq!(unread.total, total.sum::<u64>());
    list.conversations
}

async fn a_large_conversation_is_listed_as_its_new_owner_has_it(bed: &Bed) {
    let reader = somebody_elsewhere(bed);
    let stale = Bed::another(&settings(bed)).await;
    let id = large(&stale, "alice", &reader).await;
    assert_eq!(seen(&stale, &reader).await[0].head_seq, Seq(1));
    let from = home_of(bed, &user("alice"));
    move_range(bed, &from, from.range.start, &[id]).await;
    let fresh = Bed::another(&settings(bed)).await;
    fresh.send(&caller("bob"), id, text("two")).await.unwrap();
    assert_eq!(
        stale.map().locate(id.owner_key()).shard,
        from.shard,
        "it has not noticed"
    );
    for store in [&stale, &fresh] {
        let entry = &seen(store, &reader).await[0];
        let last = entry.last_message.as_ref().unwrap();
        assert_eq!((entry.head_seq, last.content.as_str()), (Seq(2), "two"));
        assert_eq!(entry.unread_count, 2);
    }
    stale.close(Instant::now() + PATIENCE).await;
    fresh.close(Instant::now() + PATIENCE).await;
}

async fn set_fence(bed: &Bed, of: &Assignment, state: &str) {
    let start = UserKey(of.range.start).to_bytes();
    let mut connection = connect_to_shard(bed, &of.shard).await;
    let set = "UPDATE fences SET state = ? WHERE range_start = ?";
    execute(
        &mut connection,
        set,
        &[Value::from(state), Value::from(&start)],
    )
    .await;
}

async fn a_large_conversation_is_listed_while_its_range_is_frozen(bed: &Bed) {
    let reader = somebody_elsewhere(bed);
    let store = Bed::another(&settings(bed)).await;
    let id = large(&store, "alice", &reader).await;
    for state in ["moving", "frozen"] {
        set_fence(bed, &home_of(bed, &user("alice")), state).await;
        let entry = &seen(&store, &reader).await[0];
        assert_eq!((entry.id, entry.head_seq), (id, Seq(1)), "{state}");
    }
    store.close(Instant::now() + PATIENCE).await;
}

/// In the middle of a move nobody owns the range: what was last read is shown, and the list does not wait long.
async fn a_list_does_not_wait_for_a_range_without_an_owner(bed: &Bed) {
    warnings::expect(logged::LISTED_AS_THEY_WERE);
    let reader = somebody_elsewhere(bed);
    let store = Bed::another(&settings(bed)).await;
    let id = large(&store, "alice", &reader).await;
    let before = seen(&store, &reader).await.remove(0);
    assert!(!before.stale && before.unread_count == 1, "{before:?}");
    set_fence(bed, &home_of(bed, &user("alice")), "gone").await;
    let begun = Instant::now();
    let me = Caller::new(reader.clone(), PATIENCE);
    let list = store.list_conversations(&me, None, 10).await.unwrap();
    assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
    let known = ListEntry {
        stale: true,
        ..before.clone()
    };
    assert_eq!(list.conversations, [known]);
    assert_eq!(store.unread_count(&me).await.unwrap().total, 1);
    // A process that has not read it yet has what the entry holds, and says so.
    let fresh = Bed::another(&settings(bed)).await;
    let list = fresh.list_conversations(&me, None, 10).await.unwrap();
    let [entry] = &list.conversations[..] else {
        panic!("{list:?}")
    };
    let shown = (entry.id, entry.title.as_deref(), entry.stale);
    assert_eq!(shown, (id, Some("all"), true));
    set_fence(bed, &home_of(bed, &user("alice")), "open").await;
    for store in [store, fresh] {
        assert_eq!(seen(&store, &reader).await[0], before);
        store.close(Instant::now() + PATIENCE).await;
    }
}

/// Conversations that were in one range are asked for together by a router that has not noticed that they no longer are.
async fn a_batch_is_cut_anew_where_its_range_was_split(bed: &Bed) {
    let reader = somebody_elsewhere(bed);
    let home = home_of(bed, &user("alice"));
    let key = |name: &UserId| KeyFunction::Hashed.key(name).unwrap();
    let names = (0..).map(|n| user(&format!("owner{n}")));
    let mut owners: Vec<UserId> = names
        .filter(|name| home_of(bed, name) == home)
        .take(2)
        .collect();
    owners.sort_by_key(key);
    let mut stale = Vec::new();
    for _ in 0..3 {
        stale.push(Bed::another(&settings(bed)).await);
    }
    let mut ids = Vec::new();
    for owner in &owners {
        ids.push(large(&stale[0], owner.as_str(), &reader).await);
    }
    let cut = key(&owners[1]).0;
    move_range(bed, &home, cut, &ids[1..]).await;
    let fresh = Bed::another(&settings(bed)).await;
    for (id, content) in [(ids[1], "two"), (ids[1], "three"), (ids[0], "two")] {
        fresh.send(&caller("bob"), id, text(content)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await; // for the order of the list
    }
    for store in &stale {
        let known = store.map().locate(UserKey(cut)).range;
        assert_eq!(known, home.range, "not noticed");
    }
    let deadline = Instant::now() + PATIENCE;
    let heads = stale[0].heads(&ids, deadline).await;
    let pairs: Vec<_> = ids.iter().map(|id| (*id, reader.clone())).collect();
    let standings = stale[1].standings(&pairs, deadline).await;
    for (pair, head_seq) in pairs.iter().zip([Seq(2), Seq(3)]) {
        assert_eq!(heads[&pair.0].unwrap().head_seq, head_seq);
        assert_eq!(standings[pair].unwrap().head.head_seq, head_seq);
    }
    let listed = seen(&stale[2], &reader).await;
    let listed: Vec<_> = listed.iter().map(|it| (it.id, it.head_seq)).collect();
    assert_eq!(listed, [(ids[0], Seq(2)), (ids[1], Seq(3))]);
    for store in stale.iter().chain([&fresh]) {
        store.close(Instant::now() + PATIENCE).await;
    }
}
