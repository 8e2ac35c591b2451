//! Connections that end, go silent, or are fewer than wanted.

use std::time::{Duration, Instant};

use backscroll_shard::commit_event::CommitEvent;
use backscroll_shard::error::Result;
use backscroll_shard::ids::Seq;
use backscroll_shard::model::Position;
use backscroll_shard::settings::Span;
use backscroll_testkit::{Mode, MySqlError, Refused, sql_server_url};
use futures_util::future::join_all;
use sqlx::{Connection as _, Executor as _};

use super::WELL_AGAIN;
use super::scene::Scene;
use crate::bed::{Bed, PATIENCE, caller, text, text_as};
use crate::live::listening;

/// Sessions that a server ended, or that it opened while it was read-only, are replaced before anybody notices.
#[tokio::test]
async fn sessions_that_cannot_go_on_are_replaced() {
    let scene = Scene::set(|_| {}).await;
    let url = &scene.bed.settings.shards[0].primary.0;
    let mut operator = sqlx::MySqlConnection::connect(&sql_server_url())
        .await
        .unwrap();
    for _ in 0..3 {
        assert!(scene.well_again().await < WELL_AGAIN);
        let (_, database) = url.rsplit_once('/').unwrap();
        // MySQL's processlist gives an error while a statement runs that has bytes which are no text.
        let flavor = std::env::var("BACKSCROLL_TEST_SQL_FLAVOR");
        let sessions = match flavor.as_deref() {
            Ok("mysql") => {
                "SELECT CAST(processlist_id AS SIGNED) FROM performance_schema.threads WHERE processlist_db = ?"
            }
            _ => "SELECT CAST(id AS SIGNED) FROM information_schema.processlist WHERE db = ?",
        };
        let sessions = sqlx::query_scalar::<_, i64>(sessions).bind(database);
        for session in sessions.fetch_all(&mut operator).await.unwrap() {
            let kill = sqlx::AssertSqlSafe(format!("KILL {session}"));
            let _ = operator.execute(sqlx::raw_sql(kill)).await; // it may have ended by itself
        }
        for (what, outcome) in scene.everything().await {
            outcome.unwrap_or_else(|error| panic!("after a KILL: {what}: {error:?}"));
        }
        for number in [1290, 1792, 1836, 1243] {
            let error = MySqlError {
                number,
                state: "HY000",
            };
            let what = Refused::WritesOfOpenSessions;
            scene.proxy.set(Mode::Refuse { error, what }).await;
            for (what, outcome) in scene.everything().await {
                outcome.unwrap_or_else(|error| panic!("{number}: {what}: {error:?}"));
            }
        }
        scene.proxy.set(Mode::Pass).await;
    }
    scene.close().await;
}

/// A connection ends after its COMMIT was done and before that was answered: the caller and the listeners are told what they
/// would have been, and the message is there once (INV-ACK, INV-IDEM).
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_told_as_if_it_had_come() {
    let scene = Scene::set(|_| {}).await;
    let (store, told) = listening(&scene.bed).await;
    let send = async |key: &'static str| {
        let message = text_as(key, key);
        store
            .send(&caller("alice"), scene.conversation, message)
            .await
    };
    assert!(send("before").await.unwrap().created);
    for key in ["first", "second"] {
        told.0.lock().unwrap().clear();
        scene.proxy.set(Mode::LoseCommits).await;
        let connections = scene.proxy.connections();
        let sent = send(key).await.unwrap();
        assert!(
            scene.proxy.connections() > connections,
            "the answer was lost"
        );
        assert!(sent.created, "{key}: {sent:?}");
        let told = std::mem::take(&mut *told.0.lock().unwrap());
        let of_message = |event: &&CommitEvent| matches!(event, CommitEvent::MessageCreated(message) if *message == sent.message);
        assert_eq!(told.iter().filter(of_message).count(), 1, "{told:?}");
        let again = send(key).await.unwrap();
        assert_eq!(
            (again.created, again.message.seq),
            (false, sent.message.seq)
        );
    }
    scene.proxy.set(Mode::Pass).await;
    store.close(Instant::now() + PATIENCE).await;
    scene.close().await;
}

/// A firewall drops the open connections without a word. Each statement that was under way costs its time, and the
/// others one sign of life that is waited for, however many connections there are.
#[tokio::test]
async fn silent_connections_cost_one_wait() {
    let scene = Scene::set(|pool| pool.statement_timeout = Span::secs(1)).await;
    let page = || scene.page();
    let pages = join_all((0..64).map(|_| page())).await;
    assert!(pages.iter().all(Result::is_ok));
    let (open, idle) = scene.connections();
    assert!(open > 4 && idle > 4, "{open} connections, {idle} idle");
    scene.proxy.set(Mode::Forget).await;
    let took = scene.well_again().await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    let begun = Instant::now();
    let pages = join_all((0..64).map(|_| page())).await;
    assert!(pages.iter().all(Result::is_ok));
    assert!(begun.elapsed() < WELL_AGAIN, "no second wait");
    scene.close().await;
}

/// The server's clients together have as many statements prepared as it allows: they are sent as text, and mean the same.
#[tokio::test]
async fn without_room_for_prepared_statements_they_are_sent_as_text() {
    let scene = Scene::set(|_| {}).await;
    let error = MySqlError {
        number: 1461,
        state: "42000",
    };
    let what = Refused::Preparing;
    scene.proxy.set(Mode::Cut).await;
    scene.proxy.set(Mode::Refuse { error, what }).await;
    let (store, id, alice) = (&scene.bed.store, scene.conversation, caller("alice"));
    assert!(scene.well_again().await < WELL_AGAIN);
    let odd = "o'clock \\ \" ? ` \u{1F600} %_ -- /* */ ;\n\r\t\u{7f}";
    let sent = store
        .send(&alice, id, text_as("an odd ' key", odd))
        .await
        .unwrap();
    assert_eq!(sent.message.content, odd);
    let again = store
        .send(&alice, id, text_as("an odd ' key", odd))
        .await
        .unwrap();
    assert_eq!(
        (again.message.seq, again.created),
        (sent.message.seq, false)
    );
    let page = store
        .history(&alice, id, Position::Latest, 1)
        .await
        .unwrap();
    assert_eq!(page.messages[0].content, odd);
    store.mark_read(&alice, id, Some(Seq(1))).await.unwrap();
    scene.bed.settle().await;
    let list = store.list_conversations(&alice, None, 10).await.unwrap();
    let last = list.conversations[0].last_message.as_ref().unwrap();
    assert_eq!(last.content, odd);
    assert!(store.unread_count(&alice).await.is_ok());
    scene.proxy.set(Mode::Pass).await;
    let page = store
        .history(&alice, id, Position::Latest, 1)
        .await
        .unwrap();
    assert_eq!(page.messages[0].content, odd, "stored as what it was");
    scene.close().await;
}

/// The account may have fewer connections than the pool would take: requests share what there is.
#[tokio::test]
async fn an_account_with_few_connections_serves_everybody() {
    let scene = Scene::set(|_| {}).await;
    let mut operator = sqlx::MySqlConnection::connect(&sql_server_url())
        .await
        .unwrap();
    let account = format!("few{:x}", rand::random::<u32>());
    let mut settings = scene.bed.settings.clone();
    settings.pool.max_connections = 20;
    let url = &mut settings.shards[0].primary.0;
    let (_, database) = url.rsplit_once('/').unwrap();
    for statement in [
        format!("CREATE USER {account}@'%' WITH MAX_USER_CONNECTIONS 5"),
        format!("GRANT ALL ON {database}.* TO {account}@'%'"),
    ] {
        let statement = sqlx::AssertSqlSafe(statement);
        operator.execute(sqlx::raw_sql(statement)).await.unwrap();
    }
    *url = url.replacen("root@", &format!("{account}@"), 1);
    let few = Bed::another(&settings).await;
    let (id, alice) = (scene.conversation, caller("alice"));
    let pages = (0..400).map(|_| few.history(&alice, id, Position::Latest, 5));
    let sends = (0..20).map(|_| few.send(&alice, id, text("among them")));
    let (pages, sends) = futures_util::join!(join_all(pages), join_all(sends));
    let failed = pages.iter().filter_map(|page| page.as_ref().err()).next();
    assert!(failed.is_none(), "{failed:?}");
    assert!(sends.iter().all(Result::is_ok), "{sends:?}");
    few.close(Instant::now() + PATIENCE).await;
    let drop = sqlx::AssertSqlSafe(format!("DROP USER {account}@'%'"));
    operator.execute(sqlx::raw_sql(drop)).await.unwrap();
    scene.close().await;
}
