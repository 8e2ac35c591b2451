//! What the run ran on, and what would make its figures worthless.

use anyhow::{Context, Result};
use serde::Serialize;
use sqlx::{MySqlConnection, Row};

use crate::harness::router::overrides;
use crate::out;

/// The machine and the database server, as found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many cores this process may use.
    pub cores: usize,
    /// Memory in GiB.
    pub memory_gib: f64,
    /// The kernel's release.
    pub kernel: String,
    /// The database server's version.
    pub server: String,
    /// The server's settings that decide what a commit costs, by name.
    pub server_settings: Vec<(String, String)>,
    /// The router's settings that the environment changed, as `NAME=value`.
    pub overrides: Vec<String>,
    /// The server writes a committed transaction to disk before it says so.
    pub durable: bool,
}

/// What a commit costs, and what reading costs. MariaDB and MySQL do not have the same ones.
const SETTINGS: [&str; 7] = [
    "innodb_flush_log_at_trx_commit",
    "innodb_flush_method",
    "innodb_buffer_pool_size",
    "innodb_log_file_size",
    "innodb_redo_log_capacity",
    "log_bin",
    "sync_binlog",
];

impl Machine {
    /// Looks around, and asks the server behind `connection`.
    ///
    /// # Errors
    /// When the server or `/proc` does not answer.
    pub async fn describe(connection: &mut MySqlConnection) -> Result<Self> {
        let processors = <procfs::CpuInfo as procfs::Current>::current()?;
        let memory = <procfs::Meminfo as procfs::Current>::current()?.mem_total;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .context("cannot read the kernel's release")?;
        let server: String = sqlx::query_scalar("SELECT VERSION()")
            .fetch_one(&mut *connection)
            .await?;
        let mut server_settings = Vec::new();
        for row in sqlx::query("SHOW GLOBAL VARIABLES")
            .fetch_all(connection)
            .await?
        {
            let (name, value): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            if SETTINGS.contains(&name.as_str()) {
                server_settings.push((name, value));
            }
        }
        let durable = server_settings
            .iter()
            .any(|(name, value)| name == SETTINGS[0] && value == "1");
        Ok(Self {
            processor: processors.model_name(0).unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: memory as f64 / f64::from(1 << 30),
            kernel: kernel.trim().to_owned(),
            server,
            server_settings,
            overrides: overrides()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            durable,
        })
    }

    /// For people.
    pub fn print(&self) {
        out::line(format_args!(
            "machine: {}, {} cores, {:.0} GiB, Linux {}",
            self.processor, self.cores, self.memory_gib, self.kernel
        ));
        let settings: Vec<String> = self
            .server_settings
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        out::line(format_args!(
            "server:  {} ({})",
            self.server,
            settings.join(", ")
        ));
        if !self.overrides.is_empty() {
            out::line(format_args!(
                "router:  not the defaults: {}",
                self.overrides.join(", ")
            ));
        }
        if !self.durable {
            out::line(
                "WARNING: the server does not flush its log at every commit: no figure for writing means anything",
            );
        }
        if cfg!(debug_assertions) {
            out::line("WARNING: this is a debug build: build with --release");
        }
    }
}
