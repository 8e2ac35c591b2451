//! The configuration: one TOML file, every key of it overridable by an environment variable, checked as a whole before
//! anything starts.
//!
//! `server.listen` is `BACKSCROLL_SERVER__LISTEN`; an element of a list is named by its position, as in
//! `BACKSCROLL_SHARDS__0__PRIMARY`. A variable's value is read as TOML when it is TOML, and as text otherwise. Unknown
//! keys are refused in both places, and one run reports every problem there is. A variable that has no `__` in its name
//! and is no key of the top is somebody else's ([`Config::ignored`]): Kubernetes gives the pods of a namespace
//! `BACKSCROLL_PORT` and the like for a Service named `backscroll`. Secrets are never shown: not in messages, not by
//! `config dump`, not in logs.
//!
//! Without a file the configuration is the embedded one: SQLite files in [`Config::data_dir`], nothing to install.

mod check;
mod secret;
mod tree;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use backscroll_archiver::media::settings::MediaSettings;
use backscroll_archiver::object_store::{ObjectStoreSettings, StoreKind};
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_realtime::redis::RedisSettings;
use backscroll_realtime::settings::RealtimeSettings;
use backscroll_shard::db::Dialect;
use backscroll_shard::settings::StoreSettings;
use serde::Serialize;
use toml::Value;

use crate::auth::{AuthSettings, Secret, TokenAlgorithm};
use crate::http::console::ConsoleSettings;
use crate::http::settings::ServerSettings;
use crate::telemetry::TelemetrySettings;
use secret::embedded_secret;
use tree::Tree;

/// How many SQLite shards the embedded configuration has.
const EMBEDDED_SHARDS: u32 = 4;

/// The top-level keys, in the order of `config dump`.
const KEYS: [&str; 19] = [
    "data_dir",
    "server",
    "auth",
    "keyspace",
    "directory",
    "shards",
    "pool",
    "write",
    "relay",
    "limits",
    "guard",
    "search",
    "object_store",
    "archive",
    "media",
    "console",
    "realtime",
    "redis",
    "telemetry",
];

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Where the embedded databases and objects, and the secret made on the first start, are.
    pub data_dir: PathBuf,
    /// The HTTP server.
    pub server: ServerSettings,
    /// Who is let in.
    pub auth: AuthSettings,
    /// The store: `keyspace`, `directory`, `shards`, `pool`, `write`, `relay`, `limits`, `guard`, `search`, `rebalance`.
    #[serde(flatten)]
    pub store: StoreSettings,
    /// Where archived messages are.
    pub object_store: ObjectStoreSettings,
    /// What is archived, when and how.
    pub archive: ArchiveSettings,
    /// What files may be uploaded, and how.
    pub media: MediaSettings,
    /// Pages for people.
    pub console: ConsoleSettings,
    /// Connections that stay, and their bounds.
    pub realtime: RealtimeSettings,
    /// What several nodes share to deliver.
    pub redis: RedisSettings,
    /// Logs and metrics.
    pub telemetry: TelemetrySettings,
    /// The environment's variables that are named as if they were settings, and are none.
    #[serde(skip)]
    pub ignored: Vec<String>,
}

/// Something wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The dotted key, as in `pool.max_connections`, or where in the file.
    pub key: String,
    /// What is wrong, and what would be right.
    pub problem: String,
    /// The environment variables that gave the value; none when the file did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<String>,
}

impl Problem {
    fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            problem: problem.into(),
            variables: Vec::new(),
        }
    }

    fn given_by(mut self, variables: Vec<String>) -> Self {
        self.variables = variables;
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)?;
        if !self.variables.is_empty() {
            write!(f, " (from {})", self.variables.join(", "))?;
        }
        Ok(())
    }
}

/// A configuration that cannot be used, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file, if one was given.
    pub file: Option<PathBuf>,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(
            f,
            "the configuration has {count} problem{}",
            if count == 1 { "" } else { "s" }
        )?;
        if let Some(file) = &self.file {
            write!(f, " ({})", file.display())?;
        }
        self.problems
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Default for Config {
    /// The configuration without a file and without variables.
    fn default() -> Self {
        let mut problems = Vec::new();
        Self::compose(Tree::default(), &mut problems)
    }
}

impl Config {
    /// Reads `file`, puts the environment's variables over it, and checks the whole.
    ///
    /// # Errors
    /// With every problem there is.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let failed = |problems| ConfigError {
            file: file.map(Path::to_owned),
            problems,
        };
        let mut tree = match file {
            Some(file) => read(file).map_err(|problem| failed(vec![problem]))?,
            None => Tree::default(),
        };
        let mut problems = Vec::new();
        tree.overlay(environment, &mut problems);
        let overrides = tree.overrides();
        let config = Self::compose(tree, &mut problems);
        let misread = problems.len();
        check::check(&config, &mut problems);
        for problem in &mut problems[misread..] {
            problem.variables = overrides.source(&problem.key);
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(failed(problems))
        }
    }

    /// The types of the tree; what does not fit is reported and stays at its default.
    fn compose(mut tree: Tree, problems: &mut Vec<Problem>) -> Self {
        let data_dir = match tree.take::<Option<PathBuf>>("data_dir", problems) {
            Some(data_dir) => data_dir,
            None => PathBuf::from("backscroll-data"),
        };
        let embedded = embedded_store(&data_dir);
        let directory_url = Value::String(embedded.directory.url.0.clone());
        tree.set_default("directory", "url", directory_url);
        let shards_given = tree.has("shards");
        let objects_given = tree.has_in("object_store", "path");
        let folder = Value::String(objects_in(&data_dir).to_string_lossy().into_owned());
        tree.set_default("object_store", "path", folder);
        let mut store = StoreSettings {
            keyspace: tree.take("keyspace", problems),
            directory: tree.take("directory", problems),
            shards: tree.take("shards", problems),
            pool: tree.take("pool", problems),
            write: tree.take("write", problems),
            relay: tree.take("relay", problems),
            limits: tree.take("limits", problems),
            guard: tree.take("guard", problems),
            search: tree.take("search", problems),
            rebalance: tree.take("rebalance", problems),
        };
        if !shards_given {
            store.shards = embedded.shards;
        }
        let config = Self {
            data_dir,
            server: tree.take("server", problems),
            auth: tree.take("auth", problems),
            store,
            object_store: tree.take("object_store", problems),
            archive: tree.take("archive", problems),
            media: tree.take("media", problems),
            console: tree.take("console", problems),
            realtime: tree.take("realtime", problems),
            redis: tree.take("redis", problems),
            telemetry: tree.take("telemetry", problems),
            ignored: tree.ignored(),
        };
        let on_disk = config.object_store.kind == StoreKind::Disk;
        if on_disk && !objects_given && !config.is_embedded() {
            let what = "is not given; with MySQL, archived messages belong where every server reads them: \
                        a bucket (object_store.kind = \"s3\"), or a folder that all servers share";
            problems.push(Problem::new("object_store.path", what));
        }
        tree.finish(&KEYS, problems);
        config
    }

    /// The configuration with other databases and objects: embedded ones in `folder`, for users with any ids.
    #[must_use]
    pub fn embedded_in(self, folder: &Path) -> Self {
        let StoreSettings {
            keyspace,
            directory,
            shards,
            ..
        } = embedded_store(folder);
        Self {
            data_dir: folder.to_owned(),
            object_store: ObjectStoreSettings {
                kind: StoreKind::Disk,
                path: objects_in(folder),
                ..self.object_store
            },
            store: StoreSettings {
                keyspace,
                directory,
                shards,
                ..self.store
            },
            ..self
        }
    }

    /// Whether everything runs in this process: the directory and the shards are SQLite files.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        let urls = std::iter::once(&self.store.directory.url)
            .chain(self.store.shards.iter().map(|shard| &shard.primary));
        urls.map(Dialect::of)
            .all(|dialect| matches!(dialect, Ok(Dialect::Sqlite)))
    }

    /// The configuration with the secret of the embedded deployment in it, if it uses that one. With `create`, the secret
    /// is made if there is none yet.
    ///
    /// # Errors
    /// When the secret cannot be read or written, or there is none.
    pub fn with_secret(mut self, create: bool) -> anyhow::Result<Self> {
        if self.uses_embedded_secret() {
            let secret = embedded_secret(&self.data_dir, create)?;
            let hint = || {
                format!(
                    "there is no secret in {} yet; start `backscroll serve` once, or set auth.secret",
                    self.data_dir.display()
                )
            };
            self.auth.secret = Secret::new(secret.with_context(hint)?);
        }
        Ok(self)
    }

    /// Whether tokens are signed with the secret that is kept beside the embedded data.
    fn uses_embedded_secret(&self) -> bool {
        self.is_embedded()
            && self.auth.algorithm == TokenAlgorithm::HS256
            && self.auth.secret.expose().is_empty()
    }

    /// The effective configuration as TOML, secrets as `***`.
    ///
    /// # Errors
    /// When a value has no form in TOML, as a key above 2^63 - 1 has none.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }
}

fn embedded_store(folder: &Path) -> StoreSettings {
    StoreSettings::embedded(&folder.to_string_lossy(), EMBEDDED_SHARDS)
}

/// Where the embedded deployment in `folder` keeps its objects.
fn objects_in(folder: &Path) -> PathBuf {
    folder.join("objects")
}

fn read(file: &Path) -> Result<Tree, Problem> {
    match std::fs::read_to_string(file) {
        Ok(text) => Tree::parse(&text),
        Err(error) => Err(Problem::new(
            file.display().to_string(),
            format!("cannot be read: {error}"),
        )),
    }
}

#[cfg(test)]
mod tests;
