//! The final state of a schedule in a form in which equal states of two schedules are equal, so that it is checked once.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use backscroll_shard::db::Connection;
use backscroll_shard::model::Timestamp;

use crate::deployment::Process;

/// The tables on which later answers and jobs depend.
const TABLES: [&str; 10] = [
    "messages",
    "mentions",
    "pins",
    "replies",
    "threads",
    "conversations",
    "archive_runs",
    "archive_segments",
    "erasures",
    "holds",
];

/// A digest of the tables and the objects of a deployment. Times since `present` count by their order only.
pub(crate) async fn digest(process: &Process, present: Timestamp) -> u64 {
    let mut values: Vec<String> = Vec::new();
    for mut connection in process.shard_connections().await {
        for table in TABLES {
            values.push(table.into());
            for row in rows(&mut connection, table).await {
                values.extend(row.split('|').map(str::to_owned));
            }
        }
    }
    let time_of = |value: &String| value.parse().ok().filter(|time: &i64| *time >= present.0);
    let times: BTreeSet<i64> = values.iter().filter_map(time_of).collect();
    let mut hasher = DefaultHasher::new();
    for value in &values {
        match time_of(value) {
            Some(time) => times.range(..time).count().hash(&mut hasher),
            None => value.hash(&mut hasher),
        }
    }
    objects(process).hash(&mut hasher);
    hasher.finish()
}

/// The rows of a table, each as its quoted columns.
async fn rows(connection: &mut Connection, table: &str) -> Vec<String> {
    let columns = format!(
        "SELECT group_concat('quote(' || name || ')', ' || ''|'' || ') FROM pragma_table_info('{table}')"
    );
    let columns = connection.fetch_optional(&columns, &[]).await.unwrap();
    let columns = columns.expect("an aggregate has a row").text(0).unwrap();
    let rows = format!("SELECT {columns} FROM {table} ORDER BY 1");
    let rows = connection.fetch_all(&rows, &[]).await.unwrap();
    rows.iter().map(|row| row.text(0).unwrap()).collect()
}

/// All objects: their paths and their text, without the first line, which says when they were written.
pub(crate) fn objects(process: &Process) -> BTreeSet<(PathBuf, String)> {
    let mut objects = BTreeSet::new();
    let mut folders = vec![process.folder().join("objects")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.ends_with(".secret") {
                continue; // of signed addresses; made at random
            }
            let name = path.strip_prefix(process.folder()).unwrap();
            if path.to_string_lossy().contains(".terms") {
                objects.insert((name.to_owned(), String::new())); // they say where frames are
                continue;
            }
            let text = fs::File::open(&path).and_then(zstd::decode_all).unwrap();
            let text = String::from_utf8(text).unwrap();
            let lines = text.split_once('\n').map_or("", |(_, lines)| lines);
            objects.insert((name.to_owned(), lines.to_owned()));
        }
    }
    objects
}
