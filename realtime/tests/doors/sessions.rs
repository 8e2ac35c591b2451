//! Authentication, the events of a session, and its bounds.

use std::time::{Duration, Instant};

use backscroll_realtime::push::{Push, PushKind, Topic};
use backscroll_realtime::settings::{RealtimeSettings, Visibility};
use backscroll_shard::guard::{GuardSettings, Mode, Rate};
use backscroll_shard::ids::MediaId;
use backscroll_shard::model::{
    Media, MediaFacts, MediaKind, MediaProcessed, MediaState, MediaVerdict, NewMessage, RawJson,
    Timestamp, VariantKeys,
};
use backscroll_shard::settings::Span;
use backscroll_shard::store::MediaQuota;
use backscroll_testkit::warnings;
use serde_json::json;

use crate::bed::{Bed, PATIENCE, caller, user};
use crate::client::{Client, Door, Refusal};

super::through_both_doors!(
    a_token_authenticates_and_hello_comes_first,
    a_bad_token_is_refused_with_the_reason,
    a_user_has_a_bounded_number_of_connections,
    a_node_has_a_bounded_number_of_connections,
    a_token_is_refreshed,
    an_expired_token_ends_the_connection,
    a_withdrawn_key_ends_the_connection,
    presence_is_delivered_to_watchers,
    a_change_is_delivered_even_if_a_later_watcher_received_another_presence,
    strangers_are_shown_nobodys_presence,
    a_watch_follows_the_conversations_that_are_shared,
    notifications_are_delivered_counted_and_read,
    a_processed_picture_is_told_to_its_uploader,
    a_flood_is_refused_and_then_closed,
    a_users_limit_is_shared_by_all_connections_and_closes_none,
    commands_are_carried_out_in_order,
    an_unknown_command_fails,
    a_list_is_followed_while_its_shard_is_down,
    a_node_that_drains_sends_all_clients_away,
    a_session_that_ended_leaves_nothing_behind,
);

async fn a_token_authenticates_and_hello_comes_first(door: Door) {
    let bed = Bed::new().await;
    let mut alice = bed.dial(door, json!({"token": "alice"})).await.unwrap();
    let hello = alice.event("hello").await;
    assert_eq!(
        alice.events_so_far(),
        Vec::<&str>::new(),
        "hello is the first"
    );
    assert_eq!(hello["userId"], "alice");
    assert_eq!(hello["heartbeatIntervalMs"], 25_000);
    assert_eq!(hello["recovered"], false);
    assert_eq!(
        hello["limits"],
        json!({"frameBytes": 65_536, "joinedConversations": 100, "presenceUsers": 200, "commandsPerSecond": 20})
    );
    assert!(hello["sessionId"].is_string() && hello["expiresAt"].is_string());
    assert_eq!(alice.ask("ping", json!({})).await, Ok(json!({})));
    bed.close().await;
}

async fn a_bad_token_is_refused_with_the_reason(door: Door) {
    let bed = Bed::new().await;
    let cases = [
        ("expired", "token_expired", None),
        ("invalid", "token_invalid", None),
        ("unknown", "auth_unavailable", Some(2000)),
    ];
    for (token, code, retry_after_ms) in cases {
        let refusal = bed.dial(door, json!({"token": token})).await.err();
        let expected = Refusal {
            code: code.to_owned(),
            retry_after_ms,
        };
        assert_eq!(refusal, Some(expected));
    }
    bed.holds(0).await;
    bed.close().await;
}

async fn a_user_has_a_bounded_number_of_connections(door: Door) {
    let bed = Bed::with(|settings| {
        settings.sessions_per_user = 2;
        settings.heartbeat = Span::secs(1);
    })
    .await;
    let mut first = bed.connect(door, "alice").await;
    let mut second = bed.connect(door, "alice").await;
    let alive = async { tokio::join!(first.end(), second.end()) };
    let refusal = tokio::select! {
        ends = alive => panic!("{ends:?}"),
        refusal = bed.dial(door, json!({"token": "alice"})) => refusal.err().unwrap(),
    };
    assert_eq!(refusal.code, "too_many_connections");
    let _bob = bed.connect(door, "bob").await;
    drop(first);
    bed.holds(2).await;
    let _third = bed.connect(door, "alice").await;
    bed.close().await;
}

async fn a_node_has_a_bounded_number_of_connections(door: Door) {
    let bed = Bed::with(|settings| {
        settings.max_sessions = 2;
        settings.sessions_per_ip = 100;
    })
    .await;
    let first = bed.connect(door, "alice").await;
    let _second = bed.connect(door, "bob").await;
    let refusal = bed.dial(door, json!({"token": "carol"})).await.err();
    assert_eq!(refusal.unwrap().code, "503");
    drop(first);
    bed.holds(1).await;
    let _third = bed.connect(door, "carol").await;
    bed.close().await;
}

async fn a_token_is_refreshed(door: Door) {
    let bed = Bed::new().await;
    let mut alice = bed.connect(door, "alice~60").await;
    let refreshed = alice
        .ask("refresh_token", json!({"token": "alice~7200"}))
        .await;
    assert!(refreshed.unwrap()["expiresAt"].is_string());
    // Another user's ends the connection, after the answer.
    let code = alice
        .fails("refresh_token", json!({"token": "bob~7200"}))
        .await;
    assert_eq!(code, "token_invalid");
    assert_eq!(alice.end().await, "token_invalid");
    assert!(alice.is_final());
    bed.close().await;
}

async fn an_expired_token_ends_the_connection(door: Door) {
    let bed = Bed::with(|settings| settings.heartbeat = Span::secs(1)).await;
    let mut alice = bed.connect(door, "alice~-60").await;
    assert_eq!(alice.end().await, "token_expired");
    assert!(alice.is_final());
    bed.holds(0).await;
    bed.close().await;
}

async fn a_withdrawn_key_ends_the_connection(door: Door) {
    let bed = Bed::with(|settings| settings.heartbeat = Span::secs(1)).await;
    let mut withdrawn = bed.connect(door, "withdrawn").await;
    assert_eq!(withdrawn.end().await, "token_invalid");
    assert!(withdrawn.is_final());
    bed.close().await;
}

async fn presence_is_delivered_to_watchers(door: Door) {
    let bed = Bed::new().await;
    bed.group("alice", &["bob"]).await;
    let mut alice = bed.connect(door, "alice").await;
    let watched = alice
        .ask("presence_subscribe", json!({"userIds": ["bob", "carol"]}))
        .await
        .unwrap();
    let users = watched["users"].as_array().unwrap();
    assert_eq!(users.len(), 2);
    assert_eq!(
        (&users[0]["userId"], &users[0]["status"]),
        (&json!("bob"), &json!("offline"))
    );
    let mut bob = bed.connect(door, "bob").await;
    let online = alice.event("user_online").await;
    assert_eq!(online["userId"], "bob");
    assert_eq!(online["status"], "online");
    let answer = bob.ask("presence_update", json!({"status": "busy"})).await;
    assert_eq!(answer, Ok(json!({})));
    assert_eq!(alice.event("user_online").await["status"], "busy");
    bob.ask("presence_update", json!({"status": "offline"}))
        .await
        .unwrap();
    let offline = alice.event("user_offline").await;
    assert_eq!(offline["userId"], "bob");
    let code = alice
        .fails(
            "presence_subscribe",
            json!({"userIds": (0..201).map(|n| format!("u{n}")).collect::<Vec<_>>()}),
        )
        .await;
    assert_eq!(code, "limit_reached");
    bed.close().await;
}

/// A new watcher may learn a presence from its reply before the others receive the push.
async fn a_change_is_delivered_even_if_a_later_watcher_received_another_presence(door: Door) {
    let bed = Bed::new().await;
    bed.group("bob", &["alice", "carol"]).await;
    let watched = || json!({"userIds": ["bob"]});
    let mut alice = bed.connect(door, "alice").await;
    let offline = alice.ask("presence_subscribe", watched()).await.unwrap();
    assert_eq!(offline["users"][0]["status"], "offline");
    bed.shows_unpublished("bob").await;
    let mut carol = bed.connect(door, "carol").await;
    let online = carol.ask("presence_subscribe", watched()).await.unwrap();
    assert_eq!(online["users"][0]["status"], "online");
    let _bob = bed.connect(door, "bob").await;
    for client in [&mut alice, &mut carol] {
        assert_eq!(client.event("user_online").await["userId"], "bob");
    }
    bed.close().await;
}

async fn strangers_are_shown_nobodys_presence(door: Door) {
    let bed = Bed::new().await;
    bed.group("victim", &["friend"]).await;
    let mut victim = bed.connect(door, "victim").await;
    bed.shows("victim").await;
    let seen = [("gone", Timestamp(1_700_000_000_000))];
    let seen = seen.map(|(name, at)| (user(name), at));
    let deadline = Instant::now() + PATIENCE;
    bed.store.save_last_seen(&seen, deadline).await.unwrap();
    let mut mallory = bed.connect(door, "mallory").await;
    let mut friend = bed.connect(door, "friend").await;
    let watched = json!({"userIds": ["victim", "nobody-at-all", "gone"]});
    let shown = mallory.ask("presence_subscribe", watched.clone()).await;
    let offline = |name: &str| json!({"userId": name, "status": "offline"});
    let nothing = json!({"users": [offline("gone"), offline("nobody-at-all"), offline("victim")]});
    assert_eq!(shown, Ok(nothing));
    let shown = friend.ask("presence_subscribe", watched).await.unwrap();
    assert_eq!(shown["users"][2]["status"], "online");
    let busy = json!({"status": "busy"});
    victim.ask("presence_update", busy).await.unwrap();
    assert_eq!(friend.event("user_online").await["status"], "busy");
    mallory.receives_no("user_online").await;
    bed.close().await;

    let anyone = |settings: &mut RealtimeSettings| settings.presence = Visibility::Anyone;
    let bed = Bed::with(anyone).await;
    let _victim = bed.connect(door, "victim").await;
    bed.shows("victim").await;
    let mut mallory = bed.connect(door, "mallory").await;
    let watched = json!({"userIds": ["victim"]});
    let shown = mallory.ask("presence_subscribe", watched).await.unwrap();
    assert_eq!(shown["users"][0]["status"], "online");
    bed.close().await;
}

async fn a_watch_follows_the_conversations_that_are_shared(door: Door) {
    let bed = Bed::with(|settings| settings.presence_check = Span::secs(1)).await;
    let mut bob = bed.connect(door, "bob").await;
    bed.shows("bob").await;
    let mut alice = bed.connect(door, "alice").await;
    let watched = json!({"userIds": ["bob"]});
    let shown = alice.ask("presence_subscribe", watched).await.unwrap();
    assert_eq!(shown["users"][0]["status"], "offline");
    let id = bed.group("carol", &["alice", "bob"]).await;
    assert_eq!(alice.event("user_online").await["userId"], "bob");
    let (carol, member) = (caller("carol"), user("bob"));
    let removed = bed.store.remove_member(&carol, id, &member).await;
    removed.unwrap();
    let gone = alice.event("user_offline").await;
    assert_eq!(gone, json!({"userId": "bob", "status": "offline"}));
    let busy = json!({"status": "busy"});
    bob.ask("presence_update", busy).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    alice.receives_no("user_online").await;
    bed.close().await;
}

async fn notifications_are_delivered_counted_and_read(door: Door) {
    let bed = Bed::new().await;
    let mut bob = bed.connect(door, "bob").await;
    let mut phone = bed.connect(door, "bob").await;
    let mut alice = bed.connect(door, "alice").await;
    let unread = async |client: &mut Client| {
        let count = client.ask("unread_notifications", json!({})).await;
        count.unwrap()["total"].clone()
    };
    for n in 1..=3 {
        let sent = bed.notify("bob", &format!("offer {n}")).await;
        for client in [&mut bob, &mut phone] {
            let received = client.event("notification").await;
            assert_eq!(received, json!({"notification": sent}));
            assert_eq!(received["notification"]["id"], n.to_string());
        }
    }
    assert_eq!(
        (unread(&mut bob).await, unread(&mut alice).await),
        (json!(3), json!(0))
    );
    let mark = json!({"notificationId": "2"});
    let read = bob.ask("mark_notification_read", mark.clone()).await;
    assert!(read.unwrap()["readAt"].is_string());
    let received = phone.event("notifications_read").await;
    assert_eq!(received, json!({"from": "2", "through": "2"}));
    let code = alice.fails("mark_notification_read", mark).await;
    assert_eq!(code, "not_found", "another user's");
    let all = bob.ask("mark_notifications_read", json!({})).await;
    assert_eq!(all, Ok(json!({})));
    let received = phone.event("notifications_read").await;
    assert_eq!(received, json!({"from": "1", "through": "3"}));
    assert_eq!(unread(&mut phone).await, 0);
    for id in [json!(1), json!("0"), json!("x"), json!(null)] {
        let mark = json!({"notificationId": id});
        let code = bob.fails("mark_notification_read", mark).await;
        assert_eq!(code, "invalid_request");
    }
    alice.receives_no("notification").await;
    bed.close().await;
}

async fn a_processed_picture_is_told_to_its_uploader(door: Door) {
    let bed = Bed::new().await;
    let mut alice = bed.connect(door, "alice").await;
    let mut bob = bed.connect(door, "bob").await;
    let id = bed.group("alice", &["bob"]).await;
    let me = caller("alice");
    let now = Timestamp::now();
    let file = Media {
        id: MediaId::new(id, 7),
        conversation: id,
        uploader: me.user.clone(),
        state: MediaState::Pending,
        kind: MediaKind::Image,
        file_name: "cat.png".into(),
        content_type: "image/png".into(),
        bytes: 4,
        sha256: None,
        upload_key: "upload/ab/cd".into(),
        upload_id: None,
        object_key: None,
        facts: MediaFacts::default(),
        variant_keys: None,
        variants: Vec::new(),
        process_at: None,
        reason: None,
        created_at: now,
        expires_at: Some(Timestamp(now.0 + 86_400_000)),
    };
    let quota = MediaQuota {
        files: 10,
        bytes: 1000,
    };
    bed.store.begin_media(&me, &file, quota).await.unwrap();
    let verdict = MediaVerdict::Ready {
        object_key: "media/ab/cd".into(),
        bytes: 4,
        content_type: "image/png".into(),
        facts: MediaFacts::default(),
        variant_keys: Some(VariantKeys {
            small: "media/ab/ce".into(),
            large: "media/ab/cf".into(),
        }),
    };
    let (file, _) = bed.store.finish_media(&me, &file, &verdict).await.unwrap();
    let list = format!(r#"[{{"mediaId":"{}"}}]"#, file.id);
    let new = NewMessage {
        attachments: Some(RawJson::parse(list).unwrap()),
        ..NewMessage::default()
    };
    bob.ask("join_conversation", json!({"conversationId": id}))
        .await
        .unwrap();
    bed.store.send(&me, id, new).await.unwrap();
    let sent = bob.event("new_message").await;
    assert_eq!(sent["message"]["attachments"][0]["state"], "processing");
    let failed = MediaProcessed::Failed("damaged");
    let file = bed.store.finish_processing(&file, &failed).await.unwrap();
    bed.store.tell_processed(&file.unwrap()).await.unwrap();
    let told = alice.event("media_failed").await;
    assert_eq!(
        (&told["state"], &told["reason"]),
        (&json!("failed"), &json!("damaged"))
    );
    let updated = bob.event("message_updated").await;
    assert_eq!(updated["message"]["attachments"][0]["state"], "failed");
    bed.close().await;
}

async fn a_flood_is_refused_and_then_closed(door: Door) {
    let bed = Bed::with(|settings| {
        settings.commands_per_second = 1;
        settings.command_burst = 5;
    })
    .await;
    let mut alice = bed.connect(door, "alice").await;
    for _ in 0..5 {
        alice.ask("ping", json!({})).await.unwrap();
    }
    let failure = alice.ask("ping", json!({})).await.unwrap_err();
    assert_eq!(failure["rule"], "commands");
    assert_eq!(failure["code"], "rate_limited");
    let wait = failure["retryAfterMs"].as_u64().unwrap();
    assert!((1..=1000).contains(&wait), "{wait}");
    tokio::time::sleep(Duration::from_millis(wait + 50)).await;
    alice.ask("ping", json!({})).await.unwrap();
    for _ in 0..150 {
        alice.begin("ping", json!({})).await;
    }
    assert_eq!(alice.end().await, "rate_limited");
    assert!(!alice.is_final());
    bed.close().await;
}

async fn a_users_limit_is_shared_by_all_connections_and_closes_none(door: Door) {
    let guard = GuardSettings {
        mode: Mode::Enforce,
        messages: Rate::new(3, Span::secs(86_400), 3),
        ..GuardSettings::default()
    };
    let bed = Bed::with_guard(guard).await;
    let id = bed.group("alice", &["bob"]).await;
    let mut alice = bed.connect(door, "alice").await;
    let other_door = match door {
        Door::Native => Door::SocketIo,
        Door::SocketIo => Door::Native,
    };
    let mut elsewhere = bed.connect(other_door, "alice").await;
    bed.say("alice", id, "as over REST").await;
    let message = |key: &str| json!({"conversationId": id, "content": key, "clientMsgId": key});
    alice.ask("send_message", message("a")).await.unwrap();
    let sent = elsewhere.ask("send_message", message("b")).await.unwrap();
    for n in 0..120 {
        let refused = alice.ask("send_message", message(&format!("c{n}"))).await;
        let failure = refused.unwrap_err();
        assert_eq!(failure["code"], "rate_limited");
        assert_eq!(failure["rule"], "messages");
        assert!(failure["retryAfterMs"].as_u64().unwrap() > 86_000_000 / 3);
    }
    let repeated = alice.ask("send_message", message("b")).await.unwrap();
    assert_eq!(repeated["id"], sent["id"]);
    assert_eq!(alice.ask("ping", json!({})).await, Ok(json!({})));
    let mut bob = bed.connect(door, "bob").await;
    bob.ask("send_message", message("a")).await.unwrap();
    bed.close().await;
}

async fn commands_are_carried_out_in_order(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    let mut alice = bed.connect(door, "alice").await;
    let mut asked = Vec::new();
    for n in 0..50 {
        let data = json!({"conversationId": id, "content": format!("{n}")});
        asked.push(alice.begin("send_message", data).await);
    }
    for (seq, ack) in (1..).zip(asked) {
        let message = alice.reply(ack).await.unwrap();
        assert_eq!(message["seq"], seq);
        assert_eq!(message["content"], format!("{}", seq - 1));
    }
    bed.close().await;
}

async fn an_unknown_command_fails(door: Door) {
    let bed = Bed::new().await;
    let mut alice = bed.connect(door, "alice").await;
    assert_eq!(
        alice.fails("make_coffee", json!({})).await,
        "invalid_request"
    );
    for data in [json!(null), json!([]), json!("x"), json!({}), json!(7)] {
        let code = alice.fails("join_conversation", data).await;
        assert_eq!(code, "invalid_request");
    }
    // Without a callback the failure comes as an event.
    alice
        .emit("join_conversation", json!({"conversationId": "nonsense"}))
        .await;
    let error = alice.event("error").await;
    assert_eq!(error["code"], "invalid_request");
    alice.ask("ping", json!({})).await.unwrap();
    bed.close().await;
}

/// A session that opens while the list cannot be read listens from where the node has delivered its changes.
async fn a_list_is_followed_while_its_shard_is_down(door: Door) {
    warnings::expect("cannot tell what users' shards hold");
    warnings::expect("the shard's database cannot do it now");
    let bed = Bed::new().await;
    bed.group("alice", &["bob"]).await;
    let rev = bed.listed("alice").await;
    let mut first = bed.dial(door, json!({"token": "alice"})).await.unwrap();
    assert_eq!(first.event("hello").await["cursor"], rev.0.to_string());
    bed.store.close(Instant::now() + PATIENCE).await;
    let mut second = bed.dial(door, json!({"token": "alice"})).await.unwrap();
    assert_eq!(second.event("hello").await["cursor"], rev.0.to_string());
    let data = json!({"cursor": rev.next().0.to_string()});
    let push = Push::change(PushKind::ConversationUpdated, rev.next(), &data);
    bed.bus.publish(&Topic::User(user("alice")), &push);
    for client in [&mut first, &mut second] {
        assert_eq!(client.event("conversation_updated").await, data);
    }
    bed.close().await;
}

async fn a_node_that_drains_sends_all_clients_away(door: Door) {
    let bed = Bed::new().await;
    let mut alice = bed.connect(door, "alice").await;
    let mut bob = bed.connect(door, "bob").await;
    bed.gateway.drain().await;
    for client in [&mut alice, &mut bob] {
        let reconnect = client.event("reconnect").await;
        assert!(reconnect["afterMs"].as_u64().unwrap() < 1000);
        assert_eq!(client.end().await, "shutting_down");
        assert!(!client.is_final());
    }
    let refusal = bed.dial(door, json!({"token": "carol"})).await.err();
    assert_eq!(refusal.unwrap().code, "503");
    bed.holds(0).await;
    bed.close().await;
}

async fn a_session_that_ended_leaves_nothing_behind(door: Door) {
    let bed = Bed::new().await;
    let id = bed.group("alice", &["bob"]).await;
    for _ in 0..5 {
        let mut alice = bed.connect(door, "alice").await;
        let join = json!({"conversationId": id});
        alice.ask("join_conversation", join).await.unwrap();
    }
    bed.holds(0).await;
    bed.close().await;
}
