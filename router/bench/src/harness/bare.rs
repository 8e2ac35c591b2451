//! What HTTP costs by itself: a server that reads a send, stores nothing, checks no token, and answers from memory.
//!
//! Its processor time beside the router's tells how much of a send is the store's doing, and how fast sends over HTTP could
//! be on this machine at most.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::harness::usage::Watched;
use crate::out;

/// The subcommand that is [`answer`].
pub const ANSWER: &str = "answer";
/// How long the process may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// The server, as a process of its own.
pub struct Bare {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Bare {
    /// Starts it; it ends when this is dropped.
    ///
    /// # Errors
    /// When it does not listen soon.
    pub async fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ANSWER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start another process")?;
        let words = child.stdout.take().context("no standard output")?;
        let mut line = String::new();
        timeout(PATIENCE, BufReader::new(words).read_line(&mut line))
            .await
            .context("the bare server does not listen")??;
        let address = line.trim().parse().context("the bare server's address")?;
        Ok(Self { child, address })
    }

    /// Its process, to be shown where the router's is.
    ///
    /// # Errors
    /// When it has ended.
    pub fn process(&self) -> Result<Watched> {
        let id = self.child.id().context("the bare server has ended")?;
        Ok(Watched {
            name: "router",
            pid: id.cast_signed(),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct New {
    client_msg_id: String,
    content: String,
}

/// What the router answers, about.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    id: String,
    conversation_id: String,
    seq: u64,
    rev: u64,
    sender_id: &'static str,
    content: String,
    message_type: &'static str,
    client_msg_id: String,
    attachments: [(); 0],
    reactions: BTreeMap<(), ()>,
    metadata: BTreeMap<(), ()>,
    created_at: &'static str,
    status: &'static str,
}

/// Serves until standard input ends; says first where.
///
/// # Errors
/// When it cannot listen.
pub async fn answer() -> Result<()> {
    let stored = async |Path(conversation_id): Path<String>, Json(new): Json<New>| {
        let stored = Stored {
            id: format!("{conversation_id}-1"),
            conversation_id,
            seq: 1,
            rev: 1,
            sender_id: "somebody",
            content: new.content,
            message_type: "text",
            client_msg_id: new.client_msg_id,
            attachments: [],
            reactions: BTreeMap::new(),
            metadata: BTreeMap::new(),
            created_at: "2026-01-01T00:00:00.000Z",
            status: "sent",
        };
        (StatusCode::CREATED, Json(stored))
    };
    let app = Router::new().route("/chat/conversations/{id}/messages", post(stored));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    out::line(listener.local_addr()?);
    let mut orders = Receiver::from_owned_fd(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    let ended = async move { while orders.read(&mut [0]).await.is_ok_and(|n| n > 0) {} };
    tokio::select! {
        served = axum::serve(listener, app) => Ok(served?),
        () = ended => Ok(()),
    }
}
