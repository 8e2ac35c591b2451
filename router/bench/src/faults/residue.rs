//! Deleted texts that remain: in the uncompressed bytes of the bucket's objects, and in every row.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sqlx::{AssertSqlSafe, Row};

use crate::faults::deployment::{Deployment, SHARDS};
use crate::faults::observed::tokens;

/// The remaining texts of each object or column.
pub type Traces = BTreeMap<String, BTreeSet<u64>>;

/// The suffix of the archive's objects: segments, and their terms.
const PACKED: &str = ".zst";

/// Every column that can hold a text.
const COLUMNS: &str = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = ? \
     AND data_type IN ('char', 'varchar', 'text', 'mediumtext', 'longtext', 'json', 'blob', 'mediumblob', 'longblob', 'varbinary')";

/// The texts of `deleted` that are in objects below `folder`, the object store's folder.
///
/// # Errors
/// When an object cannot be read.
pub fn in_objects(folder: &Path, deleted: &BTreeSet<u64>) -> Result<Traces> {
    let mut traces = Traces::new();
    let mut all = BTreeSet::new();
    for path in files(folder)? {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => continue, // just collected
            Err(error) => return Err(error.into()),
        };
        let is_packed = path.to_string_lossy().ends_with(PACKED);
        let plain = if is_packed {
            let plain = zstd::decode_all(bytes.as_slice());
            plain.with_context(|| format!("{} is no zstd file", path.display()))?
        } else {
            bytes
        };
        let found: BTreeSet<u64> = tokens(&plain).collect();
        let left: BTreeSet<u64> = found.intersection(deleted).copied().collect();
        all.extend(found);
        if !left.is_empty() {
            traces.insert(path.display().to_string(), left);
        }
    }
    ensure!(!all.is_empty(), "there is no text in {}", folder.display());
    Ok(traces)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.extend(files(&entry.path())?);
        } else {
            all.push(entry.path());
        }
    }
    Ok(all)
}

/// The texts of `deleted` that are in any row of any shard.
///
/// # Errors
/// When a database cannot be read.
pub async fn in_databases(deployment: &Deployment, deleted: &BTreeSet<u64>) -> Result<Traces> {
    let mut traces = Traces::new();
    let mut all = 0;
    for shard in 0..SHARDS {
        let name = format!("shard{}", shard + 1);
        let server = &deployment.databases[Deployment::database_of(shard)];
        let mut connection = server.connect(&name).await?;
        let columns = sqlx::query(COLUMNS)
            .bind(&name)
            .fetch_all(&mut connection)
            .await?;
        for column in columns {
            let (table, column): (Vec<u8>, Vec<u8>) = (column.try_get(0)?, column.try_get(1)?);
            let (table, column) = (String::from_utf8(table)?, String::from_utf8(column)?);
            let select =
                format!("SELECT CAST({column} AS BINARY) FROM {table} WHERE {column} LIKE '%tk%'");
            let rows = sqlx::query(AssertSqlSafe(select))
                .fetch_all(&mut connection)
                .await?;
            for row in rows {
                let value: Vec<u8> = row.try_get(0)?;
                for token in tokens(&value) {
                    all += 1;
                    if deleted.contains(&token) {
                        let place = format!("{name}.{table}.{column}");
                        traces.entry(place).or_default().insert(token);
                    }
                }
            }
        }
    }
    ensure!(all > 0, "there is no text in any row");
    Ok(traces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::observed::Text;

    #[test]
    fn a_deleted_text_is_found_in_a_compressed_object() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("ab");
        std::fs::create_dir(&below).unwrap();
        let [kept, gone] = [1, 2].map(|token| Text {
            token,
            padding: 9,
            mentions: None,
            answers: None,
        });
        let lines = format!("{}\n{}\n", kept.render(), gone.render());
        let object = zstd::encode_all(lines.as_bytes(), 1).unwrap();
        std::fs::write(below.join("x.jsonl.zst"), object).unwrap();
        let deleted = [gone.token, 3].into();
        let traces = in_objects(folder.path(), &deleted).unwrap();
        let found: Vec<_> = traces.into_values().collect();
        assert_eq!(found, [[gone.token].into()]);
        assert!(in_objects(folder.path(), &[3].into()).unwrap().is_empty());
    }

    #[test]
    fn a_bucket_without_any_text_proves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert!(in_objects(folder.path(), &[1].into()).is_err());
    }
}
