//! A large upload that is interrupted and resumed, and the memory of the router meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::time::sleep;

use super::client::{Client, Signed, declaration, text};
use crate::harness::memory::resident;
use crate::harness::router::Router;
use crate::harness::usage::Watched;
use crate::out;
use crate::population::User;

/// How long the router is left alone before its memory is read.
const REST: Duration = Duration::from_secs(2);
/// How long the router has to notice that a connection is broken.
const BREAK: Duration = Duration::from_millis(200);

/// What became of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resumed {
    /// Bytes of the file, and of its parts.
    pub(super) bytes: u64,
    pub(super) part_bytes: u64,
    pub(super) parts: usize,
    /// Parts that were sent whole, and those in which the connection broke.
    pub(super) sent: usize,
    pub(super) interrupted: usize,
    /// Seconds until all bytes had arrived, and from then until the file was accepted.
    pub(super) upload_seconds: f64,
    pub(super) complete_seconds: f64,
    /// Resident memory of the router in bytes: before, and the most that was seen.
    pub(super) resident_before: u64,
    pub(super) resident_most: u64,
}

impl Resumed {
    pub(super) fn growth(&self) -> u64 {
        self.resident_most.saturating_sub(self.resident_before)
    }
}

/// Uploads a file of `bytes` to the user's conversation; the connection breaks `interruptions` times on the way.
pub(super) async fn upload(
    router: &Router,
    (user, conversation): (&User, &str),
    (bytes, interruptions): (u64, usize),
) -> Result<Resumed> {
    let process = [router.process().context("the router has ended")?];
    let mut client = Client::open(router.address, user).await?;
    let declared = declaration(conversation, "application/octet-stream", bytes);
    let begun = client
        .expect("POST", "/chat/media", Some(&declared))
        .await?;
    let id = text(&begun["mediaId"])?;
    let part_bytes = begun["upload"]["partBytes"].as_u64();
    let part_bytes = part_bytes.context("the file is not uploaded in parts: raise --upload-mib")?;
    let parts = usize::try_from(bytes.div_ceil(part_bytes))?;
    ensure!(
        parts > interruptions,
        "{parts} parts cannot be interrupted {interruptions} times"
    );
    let content = vec![0x5a; usize::try_from(part_bytes)?];
    sleep(REST).await;
    let resident_before = resident(&process)?;
    let mut resumed = Resumed {
        bytes,
        part_bytes,
        parts,
        sent: 0,
        interrupted: 0,
        upload_seconds: 0.0,
        complete_seconds: 0.0,
        resident_before,
        resident_most: resident_before,
    };
    let start = Instant::now();
    let path = format!("/chat/media/{id}/upload");
    loop {
        let mut state = client.expect("GET", &path, None).await?;
        let present = state["present"].as_array().map_or(0, Vec::len);
        ensure!(
            present == resumed.sent,
            "{present} parts are there of {} sent",
            resumed.sent
        );
        let missing: Vec<Signed> = serde_json::from_value(state["upload"]["parts"].take())?;
        if missing.is_empty() {
            break;
        }
        for signed in missing {
            let content = &content[..signed.bytes()?];
            // Evenly over the parts.
            let due = (resumed.interrupted + 1) * parts / (interruptions + 1);
            if resumed.interrupted < interruptions && resumed.sent >= due {
                client.put_half(&signed, content).await?;
                sleep(BREAK).await;
                resumed.interrupted += 1;
                out::progress(format_args!(
                    "interrupted after {} of {parts} parts",
                    resumed.sent
                ));
                break; // and asks how far it is
            }
            let status = client.put(&signed, content).await?;
            ensure!(status == 200, "a part was answered with {status}");
            resumed.sent += 1;
            watch(&process, &mut resumed.resident_most)?;
        }
    }
    resumed.upload_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let (path, process) = (format!("/chat/media/{id}/complete"), &process);
    let watching = async {
        loop {
            watch(process, &mut resumed.resident_most)?;
            sleep(Duration::from_millis(20)).await;
        }
    };
    let completed = tokio::select! {
        completed = client.expect("POST", &path, None) => completed?,
        failed = watching => return failed,
    };
    resumed.complete_seconds = start.elapsed().as_secs_f64();
    let is_whole = completed["state"] == "ready" && completed["bytes"] == bytes;
    ensure!(is_whole, "the file was not accepted: {completed}");
    Ok(resumed)
}

fn watch(process: &[Watched], most: &mut u64) -> Result<()> {
    *most = resident(process)?.max(*most);
    Ok(())
}
