//! The schemas of the directory and of shards: their migrations in order, and which of them a database has.

use std::collections::BTreeSet;

use crate::db::identity::Role;
use crate::db::{Connection, Dialect};
use crate::error::Result;

/// One statement of `migrations/`.
pub(crate) struct Migration {
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

macro_rules! migrations {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(Migration { name: $name, sql: include_str!(concat!("../../migrations/", $folder, "/", $name, ".sql")) }),*]
    };
}

const DIRECTORY_MYSQL: &[Migration] = migrations!("directory/mysql": "0001_shards", "0002_ranges", "0003_properties", "0004_shards_state", "0005_identity", "0006_moves", "0007_move_events", "0008_imported_channels", "0009_moves_figures", "0010_moves_waits", "0011_sanctions", "0012_audit", "0013_reports");
const DIRECTORY_SQLITE: &[Migration] = migrations!(
    "directory/sqlite": "0001_shards", "0002_ranges", "0003_properties", "0004_shards_state", "0004_shards_state_incarnation",
    "0005_identity", "0006_moves", "0006_moves_state", "0007_move_events", "0008_imported_channels",
    "0009_moves_figures", "0009_moves_figures_freeze",
    "0010_moves_expected_rows", "0010_moves_expected_rows_bytes", "0010_moves_throttle", "0010_moves_waits",
    "0011_sanctions", "0011_sanctions_rev", "0011_sanctions_user",
    "0012_audit", "0012_audit_action", "0012_audit_actor", "0012_audit_at", "0012_audit_subject",
    "0013_reports", "0013_reports_conversation", "0013_reports_forget", "0013_reports_message", "0013_reports_reporter",
    "0013_reports_sender", "0013_reports_state",
);
const SHARD_MYSQL: &[Migration] = migrations!(
    "shard/mysql": "0001_fences", "0002_conversations", "0003_members", "0004_messages", "0005_list_marks", "0006_users",
    "0007_list_entries", "0008_imports", "0009_archive_runs", "0010_archive_segments", "0011_leases", "0012_archive_jobs",
    "0013_erasures", "0014_holds", "0015_last_seen", "0016_notification_heads", "0017_notifications",
    "0018_conversations_writers", "0019_conversations_defaults", "0020_identity", "0021_archive_runs_first_rev",
    "0022_archive_segments_generation", "0023_erasures_rewritten_generation", "0024_messages_archived_client_msg_id",
    "0025_conversations_request_digest", "0026_fences_job", "0027_move_marks", "0028_arrivals", "0029_import_batches",
    "0030_arrivals_beat", "0031_media", "0032_media_refs", "0033_copied_conversations", "0034_media_variants",
    "0034_media_variants_due", "0035_conversations_blocked_by", "0036_blocks", "0036_members_left",
    "0037_messages_pinned", "0038_conversations_members_pin", "0038_pins",
    "0039_messages_mentions", "0040_conversations_last_mention", "0040_list_entries_mentions", "0040_mentions",
    "0045_conversations_threaded", "0045_replies", "0045_threads", "0046_receipts",
    "0050_writer",
);
const SHARD_SQLITE: &[Migration] = migrations!(
    "shard/sqlite": "0001_fences", "0002_conversations", "0002_conversations_marked", "0002_conversations_oldest_hot", "0003_members",
    "0003_members_rev", "0004_messages", "0004_messages_client_msg_id", "0004_messages_rev", "0005_list_marks",
    "0006_users", "0007_list_entries", "0007_list_entries_activity", "0007_list_entries_rev", "0008_imports",
    "0009_archive_runs", "0009_archive_runs_rev", "0009_archive_runs_segment", "0010_archive_segments",
    "0010_archive_segments_state", "0011_leases", "0012_archive_jobs", "0012_archive_jobs_started", "0013_erasures",
    "0013_erasures_open", "0014_holds", "0015_last_seen", "0016_notification_heads", "0017_notifications",
    "0017_notifications_unread", "0018_conversations_writers", "0020_identity", "0021_archive_runs_first_rev",
    "0022_archive_segments_generation", "0023_erasures_rewritten_generation", "0024_messages_archived_client_msg_id",
    "0025_conversations_request_digest", "0026_fences_job", "0026_fences_job_attempt", "0027_move_marks", "0028_arrivals",
    "0029_import_batches", "0030_arrivals_beat", "0031_media", "0031_media_expires", "0031_media_id", "0031_media_removed",
    "0031_media_uploader", "0032_media_refs", "0032_media_refs_media", "0033_copied_conversations", "0034_media_large_key",
    "0034_media_process_at", "0034_media_process_at_due", "0034_media_small_key", "0034_media_variants",
    "0035_conversations_blocked_by", "0036_blocks", "0036_members_left",
    "0037_messages_pinned_at",
    "0037_messages_pinned_by", "0038_conversations_members_pin", "0038_pins", "0039_messages_mentions",
    "0040_conversations_last_mention", "0040_list_entries_mentions", "0040_mentions",
    "0045_conversations_threaded", "0045_replies", "0045_threads", "0046_receipts",
    "0050_writer",
);

/// Which schema a database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schema {
    Directory,
    Shard,
}

impl Schema {
    pub(crate) fn of(role: &Role) -> Self {
        match role {
            Role::Directory => Self::Directory,
            Role::Shard(_) => Self::Shard,
        }
    }

    pub(crate) fn migrations(self, dialect: Dialect) -> &'static [Migration] {
        match (self, dialect) {
            (Self::Directory, Dialect::MySql) => DIRECTORY_MYSQL,
            (Self::Directory, Dialect::Sqlite) => DIRECTORY_SQLITE,
            (Self::Shard, Dialect::MySql) => SHARD_MYSQL,
            (Self::Shard, Dialect::Sqlite) => SHARD_SQLITE,
        }
    }
}

/// Where it is put down which migrations were applied.
pub(crate) const TABLE: &str = "schema_migrations";
const APPLIED: &str = "SELECT name FROM schema_migrations";

/// What a database lacks after the migrations that were applied to it, in order.
pub(crate) fn pending(
    schema: Schema,
    dialect: Dialect,
    applied: &BTreeSet<String>,
) -> Vec<&'static str> {
    let all = schema.migrations(dialect).iter();
    all.map(|migration| migration.name)
        .filter(|name| !applied.contains(*name))
        .collect()
}

/// The migrations of a later version that were applied to a database, in order.
pub(crate) fn later(schema: Schema, dialect: Dialect, applied: &BTreeSet<String>) -> Vec<String> {
    let known = |name: &&String| {
        let mut all = schema.migrations(dialect).iter();
        all.any(|migration| migration.name == **name)
    };
    applied
        .iter()
        .filter(|name| !known(name))
        .cloned()
        .collect()
}

/// Whether older versions cannot use a database with this migration.
pub(crate) fn contracts(name: &str) -> bool {
    let (_, what) = name.split_once('_').unwrap_or_default();
    what.starts_with("contract_")
}

/// The migrations that were applied to a database that records them.
///
/// # Errors
/// When the database fails.
pub(crate) async fn applied(connection: &mut Connection) -> Result<BTreeSet<String>> {
    let rows = connection.fetch_all(APPLIED, &[]).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn migrations_of_a_later_version_are_told_apart() {
        let schema = Schema::of(&Role::Directory);
        let known = |it: &Migration| it.name.to_owned();
        let mut applied: BTreeSet<String> = DIRECTORY_MYSQL.iter().map(known).collect();
        assert!(later(schema, Dialect::MySql, &applied).is_empty());
        applied.extend(["9998_more".into(), "9999_contract_less".into()]);
        let later = later(schema, Dialect::MySql, &applied);
        assert_eq!(later, ["9998_more", "9999_contract_less"]);
        assert_eq!(later.iter().filter(|name| contracts(name)).count(), 1);
    }

    #[test]
    fn every_file_is_in_its_list_and_in_order() {
        let lists = [
            ("directory/mysql", DIRECTORY_MYSQL),
            ("directory/sqlite", DIRECTORY_SQLITE),
            ("shard/mysql", SHARD_MYSQL),
            ("shard/sqlite", SHARD_SQLITE),
        ];
        for (folder, list) in lists {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../migrations")
                .join(folder);
            let mut files: Vec<String> = std::fs::read_dir(path)
                .unwrap()
                .map(|file| {
                    file.unwrap()
                        .path()
                        .file_stem()
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned()
                })
                .collect();
            files.sort();
            let names: Vec<&str> = list.iter().map(|migration| migration.name).collect();
            assert_eq!(names, files, "{folder}");
            for migration in list {
                let sql: String = migration
                    .sql
                    .lines()
                    .filter_map(|line| line.split("--").next())
                    .collect();
                assert!(
                    !sql.contains(';'),
                    "{folder}/{}: one statement a file",
                    migration.name
                );
                assert!(
                    [
                        "IF NOT EXISTS",
                        " ADD COLUMN ",
                        " ADD KEY ",
                        " SET DEFAULT "
                    ]
                    .iter()
                    .any(|words| sql.contains(words)),
                    "{folder}/{} can be run again",
                    migration.name
                );
            }
        }
    }
}
