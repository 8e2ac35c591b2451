//! Every error number by which MySQL and MariaDB say "not now", said by the proxy in their place.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backscroll_shard::settings::Span;
use backscroll_testkit::{Mode, MySqlError, Refused};

use super::scene::{Scene, Senders, assert_not_now};

/// What MySQL and MariaDB say when they cannot do it now. Sources: MySQL 8.4 error message reference, MariaDB error codes.
const NOT_NOW: [(u16, &str, &str); 38] = [
    (1290, "HY000", "read-only: ER_OPTION_PREVENTS_STATEMENT"),
    (
        1792,
        "25006",
        "read-only: ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION",
    ),
    (1836, "HY000", "read-only: ER_READ_ONLY_MODE"),
    (1021, "HY000", "disk: ER_DISK_FULL"),
    (1026, "HY000", "disk: ER_ERROR_ON_WRITE"),
    (1030, "HY000", "disk: ER_GET_ERRNO"),
    (1114, "HY000", "disk: ER_RECORD_FILE_FULL"),
    (1037, "HY001", "memory: ER_OUTOFMEMORY"),
    (1041, "HY000", "memory: ER_OUT_OF_RESOURCES"),
    (1205, "HY000", "locks: ER_LOCK_WAIT_TIMEOUT"),
    (1213, "40001", "locks: ER_LOCK_DEADLOCK"),
    (1020, "HY000", "locks: ER_CHECKREAD"),
    (1206, "HY000", "locks: ER_LOCK_TABLE_FULL"),
    (1637, "HY000", "limits: ER_TOO_MANY_CONCURRENT_TRXS"),
    (1040, "08004", "limits: ER_CON_COUNT_ERROR"),
    (1203, "42000", "limits: ER_TOO_MANY_USER_CONNECTIONS"),
    (1226, "42000", "limits: ER_USER_LIMIT_REACHED"),
    (1461, "42000", "limits: ER_MAX_PREPARED_STMT_COUNT_REACHED"),
    (1135, "HY000", "limits: ER_CANT_CREATE_THREAD"),
    (1969, "70100", "limits: MariaDB's ER_STATEMENT_TIMEOUT"),
    (3024, "HY000", "limits: MySQL's ER_QUERY_TIMEOUT"),
    (1053, "08S01", "shutdown: ER_SERVER_SHUTDOWN"),
    (1077, "HY000", "shutdown: ER_NORMAL_SHUTDOWN"),
    (1079, "08S01", "shutdown: ER_SHUTDOWN_COMPLETE"),
    (1317, "70100", "shutdown: ER_QUERY_INTERRUPTED"),
    (1927, "70100", "shutdown: MariaDB's ER_CONNECTION_KILLED"),
    (
        1047,
        "08S01",
        "cluster: ER_UNKNOWN_COM_ERROR, a node that is not ready",
    ),
    (1180, "HY000", "cluster: ER_ERROR_DURING_COMMIT"),
    (
        3101,
        "40000",
        "cluster: ER_TRANSACTION_ROLLBACK_DURING_COMMIT",
    ),
    (
        1243,
        "HY000",
        "cluster: ER_UNKNOWN_STMT_HANDLER, behind a proxy that changed servers",
    ),
    (1045, "28000", "access: ER_ACCESS_DENIED_ERROR"),
    (1044, "42000", "access: ER_DBACCESS_DENIED_ERROR"),
    (1698, "28000", "access: ER_ACCESS_DENIED_NO_PASSWORD_ERROR"),
    (1142, "42000", "access: ER_TABLEACCESS_DENIED_ERROR"),
    (1129, "HY000", "access: ER_HOST_IS_BLOCKED"),
    (1049, "42000", "access: ER_BAD_DB_ERROR"),
    (9001, "HY000", "a proxy's own: no server within its limit"),
    (65_000, "XX000", "a number that nobody has given out"),
];

/// What is written to the log by this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn follow() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let lines = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || lines.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Every number, to every statement: nobody is told of a fault, everybody may try again, and soon all is well.
#[tokio::test]
async fn whatever_a_database_says_it_means_not_now() {
    let (log, _guard) = Log::follow();
    let scene = Scene::set(|pool| pool.acquire_timeout = Span::millis(300)).await;
    let senders = Senders::start(&scene, 4, Duration::from_millis(20));
    for (number, state, meaning) in NOT_NOW {
        let error = MySqlError { number, state };
        scene
            .is_short(meaning, async || {
                let what = Refused::Statements;
                scene.proxy.set(Mode::Refuse { error, what }).await;
                for (what, outcome) in scene.everything().await {
                    assert_not_now(&scene.shard, &format!("{meaning}: {what}"), &outcome);
                }
            })
            .await;
    }
    let sent = senders.check(&scene.bed, scene.conversation).await;
    assert!(sent > 20, "{sent}");
    scene.close().await;
    assert_no_fault(&log.text());
}

/// Every number, to writes or to commits only: pages are answered all the time.
#[tokio::test]
async fn a_database_that_refuses_writes_goes_on_answering_reads() {
    let (log, _guard) = Log::follow();
    let scene = Scene::set(|pool| pool.acquire_timeout = Span::millis(300)).await;
    let senders = Senders::start(&scene, 4, Duration::from_millis(20));
    for (number, state, meaning) in NOT_NOW {
        for what in [Refused::Writes, Refused::Commits] {
            let error = MySqlError { number, state };
            scene
                .is_short(meaning, async || {
                    scene.proxy.set(Mode::Refuse { error, what }).await;
                    for (what, outcome) in scene.everything().await {
                        let what = format!("{meaning}: {what}");
                        match what.ends_with("a page") {
                            true => outcome.unwrap_or_else(|error| panic!("{what}: {error:?}")),
                            false => assert_not_now(&scene.shard, &what, &outcome),
                        }
                    }
                })
                .await;
        }
    }
    let sent = senders.check(&scene.bed, scene.conversation).await;
    assert!(sent > 20, "{sent}");
    scene.close().await;
    assert_no_fault(&log.text());
}

/// Every number, before the handshake: what is open goes on; and when that is cut, nobody is told of a fault.
#[tokio::test]
async fn whatever_keeps_new_connections_away_means_not_now() {
    let (log, _guard) = Log::follow();
    let scene = Scene::set(|pool| pool.acquire_timeout = Span::millis(300)).await;
    scene.well_again().await; // everything is connected
    for (number, state, meaning) in NOT_NOW {
        let error = MySqlError { number, state };
        let what = Refused::Connections;
        scene.proxy.set(Mode::Refuse { error, what }).await;
        for (what, outcome) in scene.everything().await {
            outcome.unwrap_or_else(|error| panic!("{meaning}: {what}: {error:?}"));
        }
        scene
            .is_short(meaning, async || {
                scene.proxy.set(Mode::Cut).await;
                scene.proxy.set(Mode::Refuse { error, what }).await;
                for (what, outcome) in scene.everything().await {
                    assert_not_now(&scene.shard, &format!("{meaning}: {what}"), &outcome);
                }
            })
            .await;
    }
    scene.close().await;
    assert_no_fault(&log.text());
}

fn assert_no_fault(log: &str) {
    assert!(log.contains("refused by the proxy of the test"), "{log}");
    for word in ["damaged", "fault of this program", "ERROR"] {
        assert!(!log.contains(word), "{word}: {log}");
    }
}
