//! Search: what is found, by whom, in which order, and how a search goes on. Both tiers together are tested with the archive.

use std::collections::BTreeSet;
use std::time::Duration;

use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, MessageId, Seq};
use backscroll_shard::model::{
    Caller, ConversationKind, DeliveryStatus, SearchPage, SearchRequest,
};
use backscroll_shard::settings::StoreSettings;

use crate::bed::{Bed, caller, user};

crate::on_every_backend!(with short:
    a_member_finds_messages_newest_first,
    hits_say_where_the_words_are_and_are_as_pages_show_them,
    nobody_finds_what_they_may_not_read,
    all_of_mine_is_searched_the_latest_activity_first,
    a_conversation_that_moves_to_the_front_is_searched_once,
    a_request_is_bounded_and_the_next_goes_on,
    what_makes_no_sense_is_refused,
    a_user_searches_once_at_a_time,
);

/// Few messages a request.
fn short(settings: &mut StoreSettings) {
    settings.search.messages = 20;
}

fn request(q: &str) -> SearchRequest {
    SearchRequest {
        q: q.into(),
        ..SearchRequest::default()
    }
}

async fn search(bed: &Bed, name: &str, request: SearchRequest) -> SearchPage {
    bed.store.search(&caller(name), request).await.unwrap()
}

/// The ids of all hits, over as many requests as it takes.
async fn find_all(bed: &Bed, name: &str, mut request: SearchRequest) -> Vec<MessageId> {
    let mut found = Vec::new();
    loop {
        let page = search(bed, name, request.clone()).await;
        assert!(page.scanned.messages <= 20, "{page:?}");
        found.extend(page.hits.iter().map(|hit| hit.message.id));
        assert_eq!(page.complete, page.cursor.is_none(), "{page:?}");
        let Some(cursor) = page.cursor else {
            return found;
        };
        request.cursor = Some(cursor);
    }
}

fn message(conversation: ConversationId, seq: u64) -> MessageId {
    let seq = Seq(seq);
    MessageId { conversation, seq }
}

async fn a_member_finds_messages_newest_first(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    for content in [
        "Grüße aus Köln",
        "nothing",
        "KOLN again",
        "die Straße nach koln",
    ] {
        bed.say("bob", id, content).await;
    }
    let here = |q: &str| SearchRequest {
        conversation_id: Some(id),
        ..request(q)
    };
    let seqs = async |q: &str| -> Vec<u64> {
        let found = find_all(bed, "alice", here(q)).await;
        found.into_iter().map(|it| it.seq.0).collect()
    };
    assert_eq!(seqs("köln").await, [4, 3, 1]);
    assert_eq!(seqs("koln strasse").await, [4]);
    assert_eq!(seqs("\"aus koln\"").await, [1]);
    assert_eq!(seqs("from:bob from:alice oln").await, [4, 3, 1]);
    assert_eq!(seqs("from:alice").await, [] as [u64; 0]);
    assert_eq!(seqs("absent").await, [] as [u64; 0]);
    let (alice, bob) = (caller("alice"), caller("bob"));
    bed.say("alice", id, "from Köln").await;
    bed.store
        .delete_message(&alice, message(id, 4))
        .await
        .unwrap();
    let edited = bed
        .store
        .edit_message(&bob, message(id, 2), "Kölner".into());
    edited.await.unwrap();
    assert_eq!(seqs("köln").await, [5, 3, 2, 1]);
    assert_eq!(seqs("nothing").await, [] as [u64; 0], "it was edited");
}

async fn hits_say_where_the_words_are_and_are_as_pages_show_them(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    bed.say("alice", id, "😀 Crème brûlée").await;
    bed.store.mark_read(&caller("bob"), id, None).await.unwrap();
    let page = search(bed, "alice", request("BRULEE cre")).await;
    assert_eq!(page.hits.len(), 1);
    assert_eq!(page.hits[0].ranges, [[3, 6], [9, 15]]);
    assert_eq!(page.hits[0].message, bed.log("alice", id).await[0]);
    assert_eq!(page.hits[0].message.status, DeliveryStatus::Read);
    assert_eq!((page.scanned.messages, page.scanned.bytes), (1, 20));
    let to = page.searched_to.unwrap();
    assert_eq!((to.conversation_id, to.seq), (id, Seq(1)));
}

async fn nobody_finds_what_they_may_not_read(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    bed.say("alice", id, "the secret").await;
    bed.settle().await;
    let stranger = search(bed, "mallory", request("secret")).await;
    assert_eq!((stranger.hits.len(), stranger.scanned.messages), (0, 0));
    assert!(stranger.complete && stranger.searched_to.is_none());
    let absent = ConversationId::new(id.owner_key(), 1);
    for conversation in [id, absent] {
        for (q, conversation_id) in [
            ("secret".to_owned(), Some(conversation)),
            (format!("secret in:{conversation}"), None),
        ] {
            let asked = SearchRequest {
                conversation_id,
                ..request(&q)
            };
            let refused = bed.store.search(&caller("mallory"), asked).await;
            assert!(matches!(refused, Err(Error::NotMember)), "{refused:?}");
        }
    }
    assert_eq!(find_all(bed, "bob", request("secret")).await.len(), 1);
    let alice = caller("alice");
    bed.store
        .remove_member(&alice, id, &user("bob"))
        .await
        .unwrap();
    // Also before his list says so: the conversation itself is asked.
    assert_eq!(find_all(bed, "bob", request("secret")).await, []);
    // A cursor grants nothing.
    let cursor = format!("9000000000000.9000000000000.{id}.2.1");
    let forged = SearchRequest {
        cursor: Some(cursor),
        ..request("secret")
    };
    for name in ["bob", "mallory"] {
        assert_eq!(find_all(bed, name, forged.clone()).await, []);
    }
    bed.store.delete_conversation(&alice, id).await.unwrap();
    assert_eq!(find_all(bed, "alice", request("secret")).await, []);
}

async fn all_of_mine_is_searched_the_latest_activity_first(bed: &Bed) {
    let mut ids = Vec::new();
    for n in 0..3 {
        let id = bed.group("alice", &["bob"]).await;
        bed.say("bob", id, &format!("hello {n}")).await;
        ids.push(id);
    }
    let channel = bed.create("carol", ConversationKind::Channel, &["alice"]);
    let channel = channel.await.unwrap();
    bed.say("carol", channel, "hello all").await;
    bed.say("alice", ids[1], "Hello").await;
    bed.settle().await;
    let expected = [
        message(ids[1], 2),
        message(ids[1], 1),
        message(channel, 1),
        message(ids[2], 1),
        message(ids[0], 1),
    ];
    for limit in [None, Some(1), Some(2)] {
        let asked = SearchRequest {
            limit,
            ..request("hello")
        };
        assert_eq!(find_all(bed, "alice", asked).await, expected, "{limit:?}");
    }
    let some = request(&format!("hello in:{} in:{}", ids[0], ids[2]));
    let found: BTreeSet<MessageId> = find_all(bed, "alice", some).await.into_iter().collect();
    assert_eq!(found, [message(ids[0], 1), message(ids[2], 1)].into());
}

async fn a_conversation_that_moves_to_the_front_is_searched_once(bed: &Bed) {
    let mut ids = Vec::new();
    for n in 0..6 {
        let id = bed.group("alice", &["bob"]).await;
        bed.say("bob", id, &format!("hello {n}")).await;
        ids.push(id);
    }
    bed.settle().await;
    let mut asked = SearchRequest {
        limit: Some(1),
        ..request("hello")
    };
    let mut found = Vec::new();
    // What is about to be searched, and what was searched already, moves to the front between the requests.
    for moving in [Some(0), Some(5), Some(1), Some(0), None, None, None, None] {
        let page = search(bed, "alice", asked.clone()).await;
        found.extend(page.hits.iter().map(|hit| hit.message.id));
        let Some(cursor) = page.cursor else { break };
        asked.cursor = Some(cursor);
        if let Some(moving) = moving {
            bed.say("bob", ids[moving], "news").await;
            bed.settle().await;
        }
    }
    let expected: Vec<MessageId> = ids.iter().rev().map(|id| message(*id, 1)).collect();
    assert_eq!(found, expected);
}

async fn a_request_is_bounded_and_the_next_goes_on(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    for n in 0..50 {
        let content = if n % 15 == 0 { "needle" } else { "hay" };
        bed.say("bob", id, content).await;
    }
    let here = SearchRequest {
        conversation_id: Some(id),
        ..request("needle")
    };
    let page = search(bed, "alice", here.clone()).await;
    assert_eq!(page.hits.len(), 2, "{page:?}");
    assert_eq!((page.complete, page.scanned.messages), (false, 20));
    assert_eq!(page.searched_to.unwrap().seq, Seq(31));
    let seqs = find_all(bed, "alice", here.clone()).await.into_iter();
    assert_eq!(seqs.map(|it| it.seq.0).collect::<Vec<_>>(), [46, 31, 16, 1]);
    // An answer is bounded in bytes as well, and has one hit at least.
    let many = SearchRequest {
        conversation_id: Some(id),
        ..request("hay")
    };
    let alice = caller("alice");
    let few = bed.store.search_within(&alice, many.clone(), 1000);
    assert_eq!(few.await.unwrap().hits.len(), 2);
    let one = bed.store.search_within(&alice, many, 1);
    assert_eq!(one.await.unwrap().hits.len(), 1);
}

async fn what_makes_no_sense_is_refused(bed: &Bed) {
    for (asked, field) in [
        (request(""), "q: "),
        (
            SearchRequest {
                cursor: Some("next".into()),
                ..request("x")
            },
            "cursor: ",
        ),
        (
            SearchRequest {
                limit: Some(101),
                ..request("x")
            },
            "limit: ",
        ),
        (
            SearchRequest {
                after: Some("yesterday".into()),
                ..request("x")
            },
            "after: ",
        ),
    ] {
        let refused = bed.store.search(&caller("alice"), asked).await.unwrap_err();
        assert!(refused.to_string().starts_with(field), "{refused}");
    }
}

async fn a_user_searches_once_at_a_time(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    for _ in 0..20 {
        bed.say("bob", id, "hay").await;
    }
    let store = &bed.store;
    let searches = (0..20).map(|_| async {
        let page = store.search(&caller("alice"), request("needle")).await;
        assert!(page.unwrap().complete);
    });
    bed.settle().await;
    futures_util::future::join_all(searches).await;
    let impatient = Caller::new(user("alice"), Duration::from_millis(0));
    let late = store.search(&impatient, request("needle")).await;
    assert!(matches!(late, Err(Error::DeadlineExceeded)), "{late:?}");
}
