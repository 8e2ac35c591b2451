//! What users are told apart from messages: numbered, bounded, read one by one or all at once.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backscroll_shard::cold_tier::NoArchive;
use backscroll_shard::commit_event::{CommitEvent, CommitListener};
use backscroll_shard::db::{Database, Value};
use backscroll_shard::error::Error;
use backscroll_shard::ids::{NotificationId, UserId};
use backscroll_shard::model::{
    Caller, NewNotification, Notification, NotificationFilter, NotificationPriority,
    NotificationRecord, RawJson,
};
use backscroll_shard::store::Store;
use backscroll_shard::tasks::Supervisor;
use serde_json::json;

use crate::bed::{Bed, PATIENCE, caller, user};

crate::on_every_backend!(
    notifications_are_listed_newest_first_in_pages,
    those_of_one_type_are_listed,
    those_of_another_system_are_stored_once,
    each_is_read_once_and_told,
    old_ones_fall_out,
    numbers_have_no_hole_however_many_send,
    only_the_owner_s_are_seen,
    what_breaks_a_rule_is_refused,
    a_range_that_is_frozen_fails_alone,
);

fn offer(users: &[&str], title: &str) -> NewNotification {
    NewNotification {
        user_ids: users.iter().map(|name| user(name)).collect(),
        kind: "offer".to_owned(),
        title: title.to_owned(),
        ..NewNotification::default()
    }
}

async fn send(store: &Store, users: &[&str], title: &str) -> Vec<(UserId, Notification)> {
    let outcome = store.notify(&caller("admin"), offer(users, title)).await;
    let outcome = outcome.unwrap();
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    outcome.sent
}

async fn all(bed: &Bed, name: &str, unread: bool) -> Vec<Notification> {
    let caller = caller(name);
    let filter = NotificationFilter { unread, kind: None };
    let list = bed.store.notifications(&caller, None, filter, 100).await;
    let list = list.unwrap();
    assert_eq!(list.next_cursor, None);
    list.notifications
}

async fn titles(bed: &Bed, name: &str, unread: bool) -> Vec<String> {
    let all = all(bed, name, unread).await;
    all.into_iter().map(|one| one.title).collect()
}

async fn unread(bed: &Bed, name: &str) -> u64 {
    let unread = bed.store.unread_notifications(&caller(name)).await;
    unread.unwrap().total
}

async fn notifications_are_listed_newest_first_in_pages(bed: &Bed) {
    let new = NewNotification {
        user_ids: vec![user("bob"), user("carol"), user("bob")],
        kind: "team.invitation".to_owned(),
        priority: NotificationPriority::Urgent,
        title: "Fußball ⚽".to_owned(),
        body: "Two\nlines".to_owned(),
        action_url: Some("/teams/7".to_owned()),
        metadata: Some(RawJson::of(&json!({"team": 7}))),
    };
    let outcome = bed.store.notify(&caller("admin"), new).await.unwrap();
    assert_eq!(outcome.sent.len(), 2, "each user once");
    let first = all(bed, "bob", false).await.remove(0);
    assert!(outcome.sent.contains(&(user("bob"), first.clone())));
    assert_eq!(
        (first.id, first.kind.as_str(), first.priority),
        (
            NotificationId(1),
            "team.invitation",
            NotificationPriority::Urgent
        )
    );
    assert_eq!(
        (first.title.as_str(), first.body.as_str()),
        ("Fußball ⚽", "Two\nlines")
    );
    assert_eq!(first.action_url.as_deref(), Some("/teams/7"));
    assert_eq!(first.metadata.get(), r#"{"team":7}"#);
    assert_eq!(first.read_at, None);
    for n in 2..=7 {
        send(&bed.store, &["bob"], &n.to_string()).await;
    }
    let mut cursor = None;
    let mut seen = Vec::new();
    loop {
        let page = bed
            .store
            .notifications(
                &caller("bob"),
                cursor.as_deref(),
                NotificationFilter::default(),
                3,
            )
            .await
            .unwrap();
        seen.extend(page.notifications.iter().map(|one| one.id.0));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, [7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(
        (unread(bed, "bob").await, unread(bed, "carol").await),
        (7, 1)
    );
    assert_eq!(titles(bed, "nobody", false).await, Vec::<String>::new());
    assert_eq!(unread(bed, "nobody").await, 0);
    let bob = caller("bob");
    let every = NotificationFilter::default();
    let foreign = bed.store.notifications(&bob, Some("x"), every, 3).await;
    assert!(matches!(foreign, Err(Error::Invalid(_))));
}

async fn those_of_one_type_are_listed(bed: &Bed) {
    let bob = caller("bob");
    for n in 1..=8 {
        let kind = if n % 2 == 0 {
            "team:invitation"
        } else {
            "offer"
        };
        let mut new = offer(&["bob"], &n.to_string());
        new.kind = kind.to_owned();
        bed.store.notify(&caller("admin"), new).await.unwrap();
    }
    let read = bed.store.read_notification(&bob, NotificationId(4)).await;
    read.unwrap();
    let pages = async |filter: NotificationFilter<'static>| {
        let mut cursor = None;
        let mut seen = Vec::new();
        loop {
            let page = bed.store.notifications(&bob, cursor.as_deref(), filter, 2);
            let page = page.await.unwrap();
            seen.extend(page.notifications.iter().map(|one| one.id.0));
            cursor = page.next_cursor;
            if cursor.is_none() {
                return seen;
            }
        }
    };
    let of = |kind, unread| NotificationFilter {
        unread,
        kind: Some(kind),
    };
    assert_eq!(pages(of("team:invitation", false)).await, [8, 6, 4, 2]);
    assert_eq!(pages(of("team:invitation", true)).await, [8, 6, 2]);
    assert_eq!(pages(of("offer", false)).await, [7, 5, 3, 1]);
    assert_eq!(pages(of("Offer", false)).await, [0; 0]);
    for kind in ["", "a b", "é"] {
        let wrong = bed
            .store
            .notifications(&bob, None, of(kind, false), 2)
            .await;
        assert!(matches!(wrong, Err(Error::Invalid(_))), "{kind}");
    }
}

fn record(at: i64, title: &str) -> NotificationRecord {
    let record =
        json!({"user": "bob", "at": at, "type": "offer", "title": title, "read": at % 2 == 0});
    serde_json::from_value(record).unwrap()
}

async fn those_of_another_system_are_stored_once(bed: &Bed) {
    const AT: i64 = 1_551_441_600_000;
    let bob = user("bob");
    let store = async |records: &[NotificationRecord]| {
        bed.store.import_notifications(&bob, records).await.unwrap()
    };
    let keep = usize::try_from(bed.settings.limits.notifications).unwrap();
    let records: Vec<NotificationRecord> = (0..10)
        .map(|n| record(AT + n / 2, &n.to_string()))
        .collect();
    // In parts that overlap, as after an interruption.
    assert_eq!(store(&records[..5]).await, 5);
    assert_eq!(store(&records[3..8]).await, 3);
    assert_eq!(store(&records).await, 2);
    assert_eq!(store(&records).await, 0);
    let expected = ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"];
    assert_eq!(titles(bed, "bob", false).await, expected);
    assert_eq!(titles(bed, "bob", true).await, ["7", "6", "3", "2"]);
    // What is sent here is newer; nothing of another system comes after it.
    send(&bed.store, &["bob"], "live").await;
    assert_eq!(store(&[record(AT + 9, "late")]).await, 0);
    assert_eq!(titles(bed, "bob", false).await[0], "live");
    // Of very many the newest are stored.
    let many = 0..i64::try_from(keep).unwrap() + 7;
    let mut many: Vec<NotificationRecord> = many.map(|n| record(AT + n, &n.to_string())).collect();
    for one in &mut many {
        one.user = user("carol");
    }
    let stored = bed.store.import_notifications(&user("carol"), &many).await;
    assert_eq!(stored.unwrap(), keep as u64);
    let wrong = [record(AT + keep as i64 * 2, "")];
    let wrong = bed.store.import_notifications(&user("dave"), &wrong).await;
    assert!(matches!(wrong, Err(Error::Invalid(_))));
    assert_eq!(titles(bed, "dave", false).await, Vec::<String>::new());
}

#[derive(Default)]
struct Told(Mutex<Vec<CommitEvent>>);

impl CommitListener for Told {
    fn committed(&self, events: Vec<CommitEvent>) {
        self.0.lock().unwrap().extend(events);
    }
}

async fn each_is_read_once_and_told(bed: &Bed) {
    let told = Arc::new(Told::default());
    let listener = Arc::clone(&told) as Arc<dyn CommitListener>;
    let supervisor = Supervisor::default();
    let store = Store::open(&bed.settings, Arc::new(NoArchive), listener, &supervisor)
        .await
        .unwrap();
    let bob = caller("bob");
    for title in ["a", "b", "c"] {
        send(&store, &["bob"], title).await;
    }
    let read = store.read_notification(&bob, NotificationId(2)).await;
    let read = read.unwrap();
    assert!(read.title == "b" && read.read_at.is_some());
    let again = store.read_notification(&bob, NotificationId(2)).await;
    assert_eq!(again.unwrap(), read, "the first time counts");
    assert_eq!(titles(bed, "bob", true).await, ["c", "a"]);
    assert_eq!(titles(bed, "bob", false).await, ["c", "b", "a"]);
    assert_eq!(unread(bed, "bob").await, 2);
    let missing = store.read_notification(&bob, NotificationId(4)).await;
    assert!(matches!(missing, Err(Error::NotFound(_))));
    store.read_notifications(&bob).await.unwrap();
    store.read_notifications(&bob).await.unwrap();
    store.read_notifications(&caller("nobody")).await.unwrap();
    assert_eq!(unread(bed, "bob").await, 0);
    let all = store
        .notifications(&bob, None, NotificationFilter::default(), 10)
        .await
        .unwrap();
    assert_eq!(all.notifications[1], read, "read before");
    store.close(Instant::now() + PATIENCE).await;
    let events: Vec<String> = told
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|event| match event {
            CommitEvent::Notified { user, notification } => {
                format!("{user} {}", notification.title)
            }
            CommitEvent::NotificationsRead {
                user,
                ids: (from, to),
            } => format!("{user} read {from} to {to}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        events,
        [
            "bob a",
            "bob b",
            "bob c",
            "bob read 2 to 2",
            "bob read 1 to 3"
        ]
    );
}

async fn old_ones_fall_out(bed: &Bed) {
    let mut settings = bed.settings.clone();
    settings.limits.notifications = 3;
    let store = Bed::another(&settings).await;
    for n in 1..=5 {
        send(&store, &["bob", "carol"], &n.to_string()).await;
    }
    for name in ["bob", "carol"] {
        assert_eq!(titles(bed, name, false).await, ["5", "4", "3"]);
        assert_eq!(unread(bed, name).await, 3);
    }
    let bob = caller("bob");
    let gone = store.read_notification(&bob, NotificationId(2)).await;
    assert!(matches!(gone, Err(Error::NotFound(_))));
    store.close(Instant::now() + PATIENCE).await;
}

async fn numbers_have_no_hole_however_many_send(bed: &Bed) {
    let other = Bed::another(&bed.settings).await;
    let sends = (0..30).map(|n| {
        let store = if n % 2 == 0 { &bed.store } else { &other };
        async move { send(store, &["bob", "carol", "dave"], &n.to_string()).await }
    });
    futures_util::future::join_all(sends).await;
    for name in ["bob", "carol", "dave"] {
        let all = all(bed, name, false).await;
        let ids: Vec<u64> = all.iter().map(|one| one.id.0).collect();
        assert_eq!(ids, (1..=30).rev().collect::<Vec<u64>>());
    }
    other.close(Instant::now() + PATIENCE).await;
}

async fn only_the_owner_s_are_seen(bed: &Bed) {
    send(&bed.store, &["bob"], "for bob").await;
    assert_eq!(titles(bed, "mallory", false).await, Vec::<String>::new());
    let mallory = caller("mallory");
    let read = bed.store.read_notification(&mallory, NotificationId(1));
    assert!(matches!(read.await, Err(Error::NotFound(_))));
    bed.store.read_notifications(&mallory).await.unwrap();
    assert_eq!(unread(bed, "bob").await, 1);
}

async fn what_breaks_a_rule_is_refused(bed: &Bed) {
    let good = || offer(&["bob"], "title");
    let many: Vec<UserId> = (0..101).map(|n| user(&format!("u{n}"))).collect();
    let text = |n: usize| "ü".repeat(n);
    let cases: Vec<(&str, NewNotification)> = vec![
        ("userIds", offer(&[], "title")),
        (
            "userIds",
            NewNotification {
                user_ids: many,
                ..good()
            },
        ),
        (
            "type",
            NewNotification {
                kind: String::new(),
                ..good()
            },
        ),
        (
            "type",
            NewNotification {
                kind: "a b".to_owned(),
                ..good()
            },
        ),
        ("title", offer(&["bob"], "")),
        ("title", offer(&["bob"], &text(256))),
        ("title", offer(&["bob"], "two\nlines")),
        (
            "body",
            NewNotification {
                body: text(2001),
                ..good()
            },
        ),
        (
            "body",
            NewNotification {
                body: "a\0b".to_owned(),
                ..good()
            },
        ),
        (
            "actionUrl",
            NewNotification {
                action_url: Some("javascript:alert(1)".to_owned()),
                ..good()
            },
        ),
        (
            "metadata",
            NewNotification {
                metadata: Some(RawJson::of(&json!([1]))),
                ..good()
            },
        ),
    ];
    for (field, new) in cases {
        let refused = bed.store.notify(&caller("admin"), new).await;
        let Err(Error::Invalid(text)) = refused else {
            panic!("{field}: {refused:?}");
        };
        assert!(text.starts_with(field), "{text}");
    }
    assert_eq!(unread(bed, "bob").await, 0);
    let largest = NewNotification {
        body: text(2000),
        ..offer(&["bob"], &text(255))
    };
    bed.store.notify(&caller("admin"), largest).await.unwrap();
    assert_eq!(unread(bed, "bob").await, 1);
}

async fn a_range_that_is_frozen_fails_alone(bed: &Bed) {
    let key = |name: &str| bed.store.router().key(&user(name)).unwrap();
    let map = bed.store.map();
    let home = map.locate(key("bob")).clone();
    let others = (0..).map(|n| format!("other{n}"));
    let mut others = others.filter(|name| map.locate(key(name)).shard != home.shard);
    let other = others.next().unwrap();
    let shard = bed.settings.shards.iter();
    let mut shard = shard.filter(|shard| shard.name == home.shard);
    let primary = &shard.next().unwrap().primary;
    let database = Database::open_any(primary, &bed.settings.pool).unwrap();
    let mut connection = database.writer(Instant::now() + PATIENCE).await.unwrap();
    let start = home.range.start.to_be_bytes();
    let args = [Value::from("frozen"), Value::from(&start)];
    let freeze = "UPDATE fences SET state = ? WHERE range_start = ?";
    connection.execute(freeze, &args).await.unwrap();
    drop(connection);
    database.close().await;
    let hasty = Caller::new(user("admin"), Duration::from_millis(700));
    let outcome = bed.store.notify(&hasty, offer(&["bob", &other], "title"));
    let outcome = outcome.await.unwrap();
    let (failed, error) = &outcome.failed[0];
    assert_eq!(*failed, [user("bob")]);
    assert!(error.is_retryable(), "{error}");
    assert_eq!(outcome.sent[0].0, user(&other));
    assert_eq!(
        (unread(bed, "bob").await, unread(bed, &other).await),
        (0, 1)
    );
}
