//! Databases of a test's own.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use crate::sql_server_url;

/// How long dropping a value waits for the databases to go.
const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// Empty databases with unique names on the SQL server of the tests, so that tests run at the same time without seeing
/// each other.
///
/// They are plain `CREATE DATABASE`s and get the server's default character set, as an operator's would: what the
/// schema needs, the schema must say.
///
/// End a test with [`drop_all`](Self::drop_all). A test that panics before leaves that to `Drop`, which gives up on a
/// database that an open transaction still locks.
#[derive(Debug)]
pub struct TestDatabases {
    server_url: String,
    names: Vec<String>,
}

impl TestDatabases {
    /// Creates `count` databases.
    ///
    /// # Panics
    /// When `BACKSCROLL_TEST_SQL_URL` is not set, or the server refuses.
    pub async fn create(count: usize) -> Self {
        let server_url = sql_server_url().trim_end_matches('/').to_owned();
        let mut server = connect(&server_url)
            .await
            .expect("the SQL server of the tests answers");
        let unique: u64 = rand::random();
        let mut databases = Self {
            server_url,
            names: Vec::with_capacity(count),
        };
        for index in 0..count {
            let name = format!("bs_{unique:016x}_{index}");
            let statement = AssertSqlSafe(format!("CREATE DATABASE {name}"));
            sqlx::query(statement)
                .execute(&mut server)
                .await
                .expect("the account of the tests may create databases");
            databases.names.push(name);
        }
        databases
    }

    /// The URL of each database, in the order of creation.
    pub fn urls(&self) -> Vec<String> {
        let url = |name| format!("{}/{name}", self.server_url);
        self.names.iter().map(url).collect()
    }

    /// Drops the databases. Close your connections first: an open transaction would make this wait.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn drop_all(mut self) {
        let names = std::mem::take(&mut self.names);
        drop_databases(&self.server_url, &names)
            .await
            .expect("the databases of the test can be dropped");
    }
}

impl Drop for TestDatabases {
    fn drop(&mut self) {
        if self.names.is_empty() {
            return;
        }
        let server_url = self.server_url.clone();
        let names = std::mem::take(&mut self.names);
        let (finished, is_finished) = mpsc::channel::<()>();
        // A runtime of its own, on a thread of its own: the test's may be this thread's, or already be gone.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                // Best effort: the server and everything in it are thrown away in the end.
                let _ = runtime.block_on(drop_databases(&server_url, &names));
            }
            drop(finished);
        });
        // Either the thread is through or time is up; neither is an error here.
        let _ = is_finished.recv_timeout(DROP_DEADLINE);
    }
}

async fn connect(server_url: &str) -> sqlx::Result<MySqlConnection> {
    MySqlConnection::connect(server_url).await
}

async fn drop_databases(server_url: &str, names: &[String]) -> sqlx::Result<()> {
    let mut server = connect(server_url).await?;
    sqlx::query("SET SESSION lock_wait_timeout = 3")
        .execute(&mut server)
        .await?;
    let mut outcome = Ok(());
    for name in names {
        let statement = AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name}"));
        // One that is locked must not keep the others.
        if let Err(error) = sqlx::query(statement).execute(&mut server).await {
            outcome = Err(error);
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn exists(url: &str) -> bool {
        match MySqlConnection::connect(url).await {
            Ok(database) => {
                database.close().await.unwrap();
                true
            }
            Err(sqlx::Error::Database(error)) if error.message().contains("Unknown database") => {
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn creates_separate_databases_and_drops_them() {
        let databases = TestDatabases::create(2).await;
        let urls = databases.urls();
        for url in &urls {
            let mut database = MySqlConnection::connect(url).await.unwrap();
            sqlx::query("CREATE TABLE t (id INT PRIMARY KEY)")
                .execute(&mut database)
                .await
                .unwrap();
            database.close().await.unwrap();
        }

        databases.drop_all().await;

        assert_eq!(urls.len(), 2);
        for url in &urls {
            assert!(!exists(url).await, "{url} is still there");
        }
    }

    #[tokio::test]
    async fn drops_them_when_the_test_did_not() {
        let databases = TestDatabases::create(1).await;
        let urls = databases.urls();
        assert!(exists(&urls[0]).await);

        drop(databases);

        assert!(!exists(&urls[0]).await);
    }
}
