//! Uploads that are scanned for viruses.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backscroll_archiver::media::settings::MediaSettings;
use backscroll_testkit::warnings;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::bed::{Bed, complete, path, read};
use super::{declare, limits};
use crate::logged;

/// A clamd that finds a virus in whatever has this in it.
const VIRUS: &[u8] = b"X5O!P%";

/// Listens; while it is away it closes every connection.
struct Clamd {
    address: String,
    is_away: Arc<AtomicBool>,
    _served: JoinSet<()>,
}

impl Clamd {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        let is_away = Arc::new(AtomicBool::new(false));
        let (mut served, away) = (JoinSet::new(), Arc::clone(&is_away));
        served.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if !away.load(Ordering::SeqCst) {
                    scan(stream).await.ok(); // the connection may break off
                }
            }
        });
        Self {
            address,
            is_away,
            _served: served,
        }
    }

    fn settings(&self) -> MediaSettings {
        MediaSettings {
            clamd: Some(self.address.clone().try_into().unwrap()),
            ..limits()
        }
    }
}

async fn scan(mut stream: TcpStream) -> io::Result<()> {
    let mut command = [0; 10];
    stream.read_exact(&mut command).await?;
    assert_eq!(&command, b"zINSTREAM\0");
    let mut content = Vec::new();
    loop {
        let mut piece = vec![0; stream.read_u32().await? as usize];
        if piece.is_empty() {
            break;
        }
        stream.read_exact(&mut piece).await?;
        content.extend(piece);
    }
    let is_found = content.windows(VIRUS.len()).any(|bytes| bytes == VIRUS);
    let said: &[u8] = match is_found {
        true => b"stream: Eicar-Signature FOUND\0",
        false => b"stream: OK\0",
    };
    stream.write_all(said).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_virus_is_rejected_and_nothing_of_it_stays() {
    let clamd = Clamd::start().await;
    let media = MediaSettings {
        scan_bytes: 3 << 20,
        parts_above: 16 << 20,
        ..clamd.settings()
    };
    let bed = Bed::start(true, media).await;
    let alice = bed.service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    // It is in the second piece that is read.
    let mut infected = vec![b'a'; (1 << 20) - 3];
    infected.extend(VIRUS);
    for (content, state, reason) in [
        (infected, "rejected", json!("infected")),
        (vec![b'a'; (3 << 20) + 1], "rejected", json!("not_scanned")),
        (b"harmless".to_vec(), "ready", json!(null)),
    ] {
        let declared = declare(&id, "a.txt", "text/plain", content.len());
        let file = bed.upload(&alice, declared, &content).await;
        let found = (&file["state"], &file["reason"]);
        assert_eq!(found, (&json!(state), &reason), "{file}");
        let kept = usize::from(state == "ready");
        assert_eq!(bed.keys("media/").await.len(), kept);
        assert_eq!(bed.keys("upload/").await.len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_scanner_no_upload_is_completed() {
    warnings::expect(logged::NOT_SERVED);
    let clamd = Clamd::start().await;
    let bed = Bed::start(false, clamd.settings()).await;
    let alice = bed.service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let declared = declare(&id, "a.txt", "text/plain", 8);
    let begun = alice.post("/chat/media", declared).await.expect(201);
    assert_eq!(bed.send(&begun["upload"], b"harmless").await, 200);
    clamd.is_away.store(true, Ordering::SeqCst);
    complete(&alice, &begun)
        .await
        .problem(503, "scanner_unavailable");
    let pending = alice.get(&format!("{}/info", path(&begun))).await;
    assert_eq!(pending.expect(200)["state"], "pending");
    assert_eq!(bed.keys("media/").await.len(), 0, "no copy stays");
    clamd.is_away.store(false, Ordering::SeqCst);
    assert_eq!(complete(&alice, &begun).await.expect(200)["state"], "ready");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_scan_is_not_required_uploads_go_on_without() {
    warnings::expect("an upload is accepted without a scan");
    let clamd = Clamd::start().await;
    clamd.is_away.store(true, Ordering::SeqCst);
    let media = MediaSettings {
        scan_required: false,
        ..clamd.settings()
    };
    let bed = Bed::start(false, media).await;
    let alice = bed.service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let declared = declare(&id, "a.txt", "text/plain", 8);
    let file = bed.upload(&alice, declared, b"harmless").await;
    assert_eq!(file["state"], "ready", "{file}");
    assert!(read(&bed, &alice, &file).await.bytes().await.unwrap() == b"harmless"[..]);
}
