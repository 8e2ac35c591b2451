//! What must hold between values that are each of the right type. Everything wrong is reported, not the first.

use std::collections::BTreeMap;
use std::path::Path;

use backscroll_archiver::media::settings::MediaSettings;
use backscroll_archiver::settings::Age;
use backscroll_shard::db::Dialect;
use backscroll_shard::ids::ShardName;
use backscroll_shard::settings::check::{self, Check};
use backscroll_shard::settings::{
    DatabaseUrl, KeyspaceSettings, LimitSettings, PoolSettings, RebalanceSettings, RelaySettings,
    ShardSettings, Span, StoreSettings, WriteSettings,
};

use super::{Config, Problem};

/// Longest span for anything that a request waits for.
const LONGEST_WAIT: Span = Span::secs(300);

/// Checks `config`, whose values have their types.
pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let sections = [
        config.server.check(),
        config.auth.check(),
        config.object_store.check(),
        config.archive.check(),
        config.media.check(),
        config.realtime.check(),
        config.store.guard.check(),
        config.store.search.check(),
        config.redis.check(),
        config.telemetry.check(),
    ];
    let will_be_made =
        |found: &check::Problem| config.uses_embedded_secret() && found.key == "auth.secret";
    let found = sections.into_iter().flatten();
    let found = found.filter(|found| !will_be_made(found));
    let found = found.chain(check_store(config));
    problems.extend(found.map(|found| Problem::new(found.key, found.what)));
}

/// The store's sections, and what must hold between sections.
fn check_store(config: &Config) -> Vec<check::Problem> {
    let store = &config.store;
    let mut check = Check::of_all();
    check_data_dir(&mut check, &config.data_dir);
    check_shards(&mut check, &store.shards);
    check_databases(&mut check, store);
    check_keyspace(&mut check, &store.keyspace, &store.shards);
    check_pool(&mut check, &store.pool);
    check_write(&mut check, &store.write);
    check_relay(&mut check, &store.relay);
    check_rebalance(&mut check, &store.rebalance);
    check_limits(&mut check, &store.limits);
    check_idempotency(&mut check, store.limits.idempotency, &config.archive.after);
    check_scan(&mut check, &config.media, config.server.request_timeout);
    check.within(
        "directory.refresh_interval",
        store.directory.refresh_interval,
        Span::millis(50),
        LONGEST_WAIT,
    );
    check.finish()
}

/// An upload is completed, and scanned, within one request.
fn check_scan(check: &mut Check, media: &MediaSettings, request: Span) {
    if media.clamd.is_some() && media.scan_time >= request {
        let what = format!("must be less than server.request_timeout, which is {request}");
        check.report("media.scan_time", what);
    }
}

fn check_data_dir(check: &mut Check, data_dir: &Path) {
    // SQLite would read what follows a `?` as options of the connection.
    match data_dir.to_str() {
        None | Some("") => check.report("data_dir", "is not a path in UTF-8"),
        Some(path) if path.contains('?') => check.report(
            "data_dir",
            "has a `?`, which database addresses cannot hold",
        ),
        Some(_) => {}
    }
}

fn check_shards(check: &mut Check, shards: &[ShardSettings]) {
    if shards.is_empty() {
        check.report(
            "shards",
            "is empty; name at least one shard, or leave it out for embedded SQLite shards",
        );
    }
    let mut first_use: BTreeMap<&ShardName, usize> = BTreeMap::new();
    for (position, shard) in shards.iter().enumerate() {
        if let Some(first) = first_use.insert(&shard.name, position) {
            check.report(
                format!("shards.{position}.name"),
                format!("`{}` is shards.{first}'s name already", shard.name),
            );
        }
        if shard.replicas.len() > 16 {
            check.report(
                format!("shards.{position}.replicas"),
                "has more than 16 addresses",
            );
        }
    }
}

/// Every address can be read, names a database of its own, and all speak one SQL.
fn check_databases(check: &mut Check, store: &StoreSettings) {
    let mut first_use: BTreeMap<String, String> = BTreeMap::new();
    let mut first_of: BTreeMap<&'static str, String> = BTreeMap::new();
    for (key, url) in addresses(store) {
        let (kind, database) = match read_address(url) {
            Ok(read) => read,
            Err(what) => {
                check.report(key, what);
                continue;
            }
        };
        if let Some(first) = first_use.get(&database) {
            check.report(
                key.clone(),
                format!("is the same database as {first}; every one needs its own"),
            );
        }
        first_use.entry(database).or_insert_with(|| key.clone());
        if key.contains(".replicas.") && kind == "sqlite" {
            check.report(key.clone(), "SQLite has no replicas");
        }
        first_of.entry(kind).or_insert(key);
    }
    if let (Some(sqlite), Some(mysql)) = (first_of.get("sqlite"), first_of.get("mysql")) {
        let what = format!(
            "is SQLite, but {mysql} is MySQL; the directory and the shards must all be the one or the other"
        );
        check.report(sqlite.clone(), what);
    }
}

fn check_keyspace(check: &mut Check, keyspace: &KeyspaceSettings, shards: &[ShardSettings]) {
    let mut previous = None;
    for (position, range) in keyspace.ranges.iter().enumerate() {
        let key = format!("keyspace.ranges.{position}");
        match previous {
            None if range.from != 0 => {
                check.report(
                    format!("{key}.from"),
                    "the first range begins at 0, so that every key has an owner",
                );
            }
            Some(before) if range.from <= before => {
                check.report(
                    format!("{key}.from"),
                    format!("{} is not above {before}, the range before it", range.from),
                );
            }
            _ => {}
        }
        previous = Some(range.from);
        if !shards.iter().any(|shard| shard.name == range.shard) {
            check.report(
                format!("{key}.shard"),
                format!("there is no shard `{}` in `shards`", range.shard),
            );
        }
    }
}

fn check_pool(check: &mut Check, pool: &PoolSettings) {
    check.within("pool.max_connections", pool.max_connections, 1, 10_000);
    check.within(
        "pool.acquire_timeout",
        pool.acquire_timeout,
        Span::millis(10),
        LONGEST_WAIT,
    );
    check.within(
        "pool.statement_timeout",
        pool.statement_timeout,
        Span::millis(10),
        LONGEST_WAIT,
    );
    // MySQL counts a lock wait in whole seconds.
    check.within(
        "pool.lock_timeout",
        pool.lock_timeout,
        Span::secs(1),
        LONGEST_WAIT,
    );
    check.within(
        "pool.idle_timeout",
        pool.idle_timeout,
        Span::secs(1),
        Span::secs(86_400),
    );
    check.within(
        "pool.breaker_cooldown",
        pool.breaker_cooldown,
        Span::millis(10),
        LONGEST_WAIT,
    );
    check.within("pool.breaker_failures", pool.breaker_failures, 1, 1000);
}

fn check_write(check: &mut Check, write: &WriteSettings) {
    check.within("write.lanes", write.lanes, 1, 256);
    // A statement's list of them stays below 1,000, from where on MariaDB makes a subquery of it
    // (in_predicate_conversion_threshold).
    check.within("write.max_batch", write.max_batch, 1, 750);
    check.within(
        "write.gather",
        write.gather,
        Span::millis(0),
        Span::millis(100),
    );
    check.within("write.max_retries", write.max_retries, 0, 100);
    check.within("write.queue", write.queue, 1, 1_000_000);
    check.within("write.member_cache", write.member_cache, 0, 10_000_000);
    if write.queue < write.max_batch {
        check.report(
            "write.queue",
            format!(
                "{} is below write.max_batch, {}",
                write.queue, write.max_batch
            ),
        );
    }
}

fn check_relay(check: &mut Check, relay: &RelaySettings) {
    check.within(
        "relay.interval",
        relay.interval,
        Span::millis(1),
        LONGEST_WAIT,
    );
    check.within(
        "relay.sweep_interval",
        relay.sweep_interval,
        Span::millis(100),
        Span::secs(3600),
    );
    check.within("relay.max_members", relay.max_members, 2, 100_000);
}

fn check_rebalance(check: &mut Check, rebalance: &RebalanceSettings) {
    let spans = [
        (
            "rebalance.chunk",
            rebalance.chunk,
            Span::millis(1),
            Span::secs(10),
        ),
        (
            "rebalance.freeze_budget",
            rebalance.freeze_budget,
            Span::millis(1),
            Span::secs(10),
        ),
        (
            "rebalance.longest_freeze",
            rebalance.longest_freeze,
            Span::millis(50),
            Span::secs(10),
        ),
        (
            "rebalance.freeze_lease",
            rebalance.freeze_lease,
            Span::millis(100),
            Span::secs(60),
        ),
        (
            "rebalance.lease",
            rebalance.lease,
            Span::secs(1),
            Span::secs(3600),
        ),
        (
            "rebalance.keep",
            rebalance.keep,
            Span::secs(0),
            Span::secs(30 * 86_400),
        ),
        (
            "rebalance.max_replica_lag",
            rebalance.max_replica_lag,
            Span::millis(100),
            Span::secs(86_400),
        ),
        (
            "rebalance.max_latency",
            rebalance.max_latency,
            Span::millis(1),
            Span::secs(60),
        ),
        (
            "rebalance.cool_down",
            rebalance.cool_down,
            Span::secs(0),
            Span::secs(365 * 86_400),
        ),
    ];
    for (key, span, least, most) in spans {
        check.within(key, span, least, most);
    }
    check.within("rebalance.load", rebalance.load, 1, 100);
    check.within(
        "rebalance.max_threads_running",
        rebalance.max_threads_running,
        1,
        100_000,
    );
    check.within("rebalance.min_gain", rebalance.min_gain, 1, 100);
    for (key, weight) in [
        ("rebalance.weight_rows", rebalance.weight_rows),
        ("rebalance.weight_bytes", rebalance.weight_bytes),
        ("rebalance.weight_writes", rebalance.weight_writes),
    ] {
        check.within(key, weight, 0, 100);
    }
    if rebalance.weight_rows + rebalance.weight_bytes + rebalance.weight_writes == 0 {
        check.report(
            "rebalance.weight_rows",
            "one of weight_rows, weight_bytes and weight_writes has to be above 0",
        );
    }
    if rebalance.freeze_lease <= rebalance.longest_freeze {
        check.report(
            "rebalance.freeze_lease",
            format!(
                "{} is not above rebalance.longest_freeze, {}: a freeze has to be committed before its lease ends",
                rebalance.freeze_lease, rebalance.longest_freeze
            ),
        );
    }
}

fn check_limits(check: &mut Check, limits: &LimitSettings) {
    // A message's columns hold 16 MiB each, and a batch of messages is one packet.
    check.within(
        "limits.message_characters",
        limits.message_characters,
        1,
        100_000,
    );
    check.within("limits.attachments", limits.attachments, 0, 1000);
    check.within(
        "limits.attachments_bytes",
        limits.attachments_bytes,
        2,
        1 << 20,
    );
    check.within("limits.metadata_bytes", limits.metadata_bytes, 2, 65_535);
    check.within("limits.reactions", limits.reactions, 0, 100_000);
    check.within(
        "limits.reactions_per_user",
        limits.reactions_per_user,
        1,
        1000,
    );
    check.within("limits.mentions", limits.mentions, 0, 100);
    check.within(
        "limits.mention_all_members",
        limits.mention_all_members,
        0,
        1_000_000,
    );
    check.within("limits.pins", limits.pins, 1, 1000);
    check.within("limits.edits", limits.edits, 0, 1000);
    check.within(
        "limits.message_bytes",
        limits.message_bytes,
        64 << 10,
        8 << 20,
    );
    check.within(
        "limits.answer_bytes",
        limits.answer_bytes,
        64 << 10,
        64 << 20,
    );
    check.within("limits.reads_at_once", limits.reads_at_once, 1, 1000);
    check.within("limits.group_members", limits.group_members, 2, 100_000);
    check.within(
        "limits.channel_members",
        limits.channel_members,
        2,
        10_000_000,
    );
    check.within("limits.sync_changes", limits.sync_changes, 1, 1_000_000);
    check.within("limits.notifications", limits.notifications, 1, 10_000);
}

/// A repeated message is recognised by its hot row, so it must not be archived before the promise ends.
fn check_idempotency(check: &mut Check, promised: Span, after: &Age) {
    let least = Span::secs(86_400);
    if promised < least {
        check.report("limits.idempotency", format!("{promised} is below {least}"));
    }
    if !after.is_at_least(promised) {
        let what = format!(
            "{after} may be shorter than limits.idempotency, {promised}: for so long a message must not be archived, or \
             its repeat would be stored again"
        );
        check.report("archive.after", what);
    }
}
/// Every database address with its key.
fn addresses(store: &StoreSettings) -> impl Iterator<Item = (String, &DatabaseUrl)> {
    let shards = store
        .shards
        .iter()
        .enumerate()
        .flat_map(|(position, shard)| {
            let replica = move |(n, url)| (format!("shards.{position}.replicas.{n}"), url);
            let replicas = shard.replicas.iter().enumerate().map(replica);
            std::iter::once((format!("shards.{position}.primary"), &shard.primary)).chain(replicas)
        });
    std::iter::once(("directory.url".to_owned(), &store.directory.url)).chain(shards)
}

/// The kind of database at `url`, and a name for it that is the same for two spellings of the same place.
fn read_address(url: &DatabaseUrl) -> Result<(&'static str, String), String> {
    const FORMS: &str = "write mysql://user:password@host:port/database or sqlite://path";
    match Dialect::of(url) {
        Ok(Dialect::Sqlite) => {
            let path = url.0.strip_prefix("sqlite://").unwrap_or_default();
            if path.is_empty() || path.contains('?') {
                return Err("write sqlite:// and then the path of a file, nothing else".into());
            }
            Ok(("sqlite", path.to_owned()))
        }
        Ok(Dialect::MySql) => {
            let parsed = reqwest::Url::parse(&url.0)
                .map_err(|error| format!("cannot be read ({error}); {FORMS}"))?;
            let host = parsed
                .host_str()
                .filter(|host| !host.is_empty())
                .ok_or(format!("names no host; {FORMS}"))?;
            check_options(&parsed)?;
            let database = parsed.path().trim_start_matches('/');
            if database.is_empty() || database.contains('/') {
                return Err(format!("names no database; {FORMS}"));
            }
            Ok((
                "mysql",
                format!("{host}:{}/{database}", parsed.port().unwrap_or(3306)),
            ))
        }
        Err(_) => Err(format!("is neither MySQL nor SQLite; {FORMS}")),
    }
}

/// The options that may stand behind the `?` of a MySQL address. The driver knows some more (character set, time zone,
/// cache of statements), which this program sets itself.
const OPTIONS: [&str; 5] = ["ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "socket"];

/// The driver ignores an option that it does not know, as a misspelt `ssl-mode`.
fn check_options(url: &reqwest::Url) -> Result<(), String> {
    let is_known = |name: &str| {
        let spelling = |option: &&str| name == *option || name == option.replace('-', "");
        OPTIONS.iter().any(spelling)
    };
    match url.query_pairs().find(|(name, _)| !is_known(name)) {
        None => Ok(()),
        Some((name, _)) => Err(format!(
            "has the option `{}`, which is none; the options are {}",
            name.escape_debug(),
            OPTIONS.join(", ")
        )),
    }
}
