//! Everything that is in a database, to compare what it held before and after.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection, Row as _};

/// The rows of every table of a database, sorted; empty for a SQLite file that is not there.
pub type Dump = BTreeMap<String, Vec<String>>;

macro_rules! dump_through {
    ($connection:expr, $tables:expr) => {{
        let mut connection = $connection;
        let tables = sqlx::query($tables)
            .fetch_all(&mut connection)
            .await
            .expect("the tables");
        let mut dump = Dump::new();
        for table in tables {
            let table: String = table.try_get_unchecked(0).expect("a name");
            let rows = sqlx::query(AssertSqlSafe(format!("SELECT * FROM {table}")))
                .fetch_all(&mut connection)
                .await
                .expect("the rows");
            let mut lines: Vec<String> = Vec::new();
            for row in &rows {
                let cell = |column| {
                    let value: Option<Vec<u8>> = row.try_get_unchecked(column).expect("bytes");
                    value.map_or("NULL".into(), |bytes| bytes.escape_ascii().to_string())
                };
                let cells: Vec<String> = (0..row.len()).map(cell).collect();
                lines.push(cells.join(" | "));
            }
            lines.sort();
            dump.insert(table, lines);
        }
        connection.close().await.expect("it closes");
        dump
    }};
}

/// Reads everything that is in the database at `url`.
///
/// # Panics
/// When it cannot be read.
pub async fn dump(url: &str) -> Dump {
    match url.strip_prefix("sqlite://") {
        Some(file) if !Path::new(file).exists() => Dump::new(),
        Some(file) => {
            let options = SqliteConnectOptions::new().filename(file).read_only(true);
            dump_through!(
                SqliteConnection::connect_with(&options)
                    .await
                    .expect("it opens"),
                "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
            )
        }
        None => dump_through!(
            MySqlConnection::connect(url).await.expect("it opens"),
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY table_name"
        ),
    }
}
