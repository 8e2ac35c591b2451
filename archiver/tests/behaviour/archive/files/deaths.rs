//! Servers that die at any request to the object store in the life of a file: no row names an object that is missing, a client that
//! repeats its request gets there, and a collection leaves no object without a row.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backscroll_archiver::jobs::{ArchiveJobs, Progress};
use backscroll_archiver::media::complete::Completed;
use backscroll_archiver::media::gate::Gate;
use backscroll_archiver::media::rebuild::{Rebuild, RebuildProgress};
use backscroll_archiver::media::settings::MediaSettings;
use backscroll_archiver::media::upload::Uploads;
use backscroll_archiver::object_store::layer::{Attempt, Layer, Layered, Request};
use backscroll_archiver::object_store::{self, ErrorKind, ObjectStore, Upload};
use backscroll_shard::ids::{ConversationId, MediaId};
use backscroll_shard::model::{Media, MediaKind, MediaState, Timestamp};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::rebuilding::worker;
use super::{file_keys, pending_file, send};
use crate::archive::bed::{Backend, Bed, caller, on_both, order};
use crate::bed::key;

on_both![no_death_loses_or_leaks_an_object];

/// A process's connection to the object store, on which the process dies once, before or after a request has its effect.
#[derive(Clone, Default)]
struct Mortal(Arc<Fate>);

#[derive(Default)]
struct Fate {
    /// Requests until the death; none follows below 1.
    left: AtomicI64,
    is_after: AtomicBool,
    death: Notify,
}

impl fmt::Debug for Mortal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mortal")
    }
}

impl Mortal {
    fn dies_at(&self, request: i64, is_after: bool) {
        self.0.is_after.store(is_after, Ordering::SeqCst);
        self.0.left.store(request, Ordering::SeqCst);
    }

    fn is_alive(&self) -> bool {
        self.0.left.load(Ordering::SeqCst) > 0
    }

    /// The work's outcome; `None` if its process has died: it goes no further, and cleans nothing up.
    async fn does<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.0.death.notified() => None,
            done = work => Some(done),
        }
    }

    async fn die(&self) {
        self.0.death.notify_one();
        std::future::pending().await
    }
}

#[async_trait]
impl Layer for Mortal {
    async fn call<T: Send>(
        &self,
        _: Request<'_>,
        attempt: Attempt<'_, T>,
    ) -> object_store::Result<T> {
        let is_last = self.0.left.fetch_sub(1, Ordering::SeqCst) == 1;
        let is_after = self.0.is_after.load(Ordering::SeqCst);
        if is_last && !is_after {
            self.die().await;
        }
        let answer = attempt().await;
        if is_last && is_after {
            self.die().await;
        }
        answer
    }
}

/// The parts of a server that files pass through, on a connection on which it dies.
struct Server<'a> {
    bed: &'a Bed,
    mortal: Mortal,
    objects: Arc<dyn ObjectStore>,
    uploads: Uploads,
    gate: Gate,
    archive: ArchiveJobs,
    settings: MediaSettings,
}

impl<'a> Server<'a> {
    fn new(bed: &'a Bed) -> Self {
        let mortal = Mortal::default();
        let objects = Layered::around(Arc::clone(&bed.objects), mortal.clone());
        let settings = MediaSettings {
            parts_above: 1,
            ..MediaSettings::default()
        };
        Self {
            bed,
            uploads: Uploads::new(Arc::clone(&objects), &settings),
            gate: Gate::new(Arc::clone(&objects), &settings),
            archive: ArchiveJobs::new(
                Arc::clone(bed.store.router()),
                Arc::clone(&objects),
                bed.archive_settings.clone(),
            ),
            mortal,
            objects,
            settings,
        }
    }

    /// A pending file whose bytes have arrived. A client that gets no answer begins another.
    async fn uploaded(&self, id: ConversationId, name: &str) -> Media {
        let begun = loop {
            let media = Media {
                id: MediaId::new(id, rand::random()),
                kind: MediaKind::Image,
                content_type: "image/png".into(),
                bytes: picture().len() as u64,
                ..pending_file(id, name, 86_400_000)
            };
            let (alice, file) = (caller("alice"), (media, self.settings.quota()));
            let begun = self.uploads.begin_file(&self.bed.store, &alice, file);
            if let Some(begun) = self.mortal.does(begun).await {
                break begun.unwrap();
            }
        };
        let upload = Upload {
            key: key(&begun.upload_key),
            id: begun.upload_id.clone().unwrap(),
        };
        let sent = self.bed.objects.upload_part(&upload, 1, picture()).await;
        sent.unwrap();
        begun
    }

    async fn completed(&self, begun: &Media) -> Media {
        let alice = caller("alice");
        loop {
            let now = self.bed.store.media(&alice, begun.id).await.unwrap();
            if now.state != MediaState::Pending {
                return now;
            }
            let complete = self.gate.complete(&self.bed.store, &alice, &now);
            match self.mortal.does(complete).await {
                Some(Ok(Completed::Done { media, .. })) => return *media,
                Some(other) => panic!("{other:?}"),
                None => self.assert_readable(begun.id).await,
            }
        }
    }

    /// As a worker of a server does it, and as another one does it when its lease has ended.
    async fn processed(&self, id: ConversationId, accepted: Media) -> Media {
        let form = r#"{"made":["hash",[{"variant":"small","contentType":"image/jpeg","width":1,"height":1,"bytes":4}]]}"#;
        let program = worker(&[form, "form"]);
        let (mut media, stop) = (accepted, CancellationToken::new());
        while media.state == MediaState::Processing {
            let lapsed = self.bed.store.postpone_processing(&media, Duration::ZERO);
            lapsed.await.unwrap();
            let rebuild = Rebuild {
                store: &self.bed.store,
                objects: &self.objects,
                settings: &self.settings,
                program: &program,
                conversation: Some(id),
                stop: &stop,
            };
            self.mortal
                .does(rebuild.run(&RebuildProgress::default()))
                .await;
            self.assert_readable(media.id).await;
            media = self
                .bed
                .store
                .media(&caller("alice"), media.id)
                .await
                .unwrap();
        }
        assert_eq!((media.state, media.variants.len()), (MediaState::Ready, 1));
        media
    }

    /// Every object that the file's row says is there.
    async fn assert_readable(&self, id: MediaId) {
        let media = self.bed.store.media(&caller("alice"), id).await.unwrap();
        if !media.state.is_accepted() {
            return;
        }
        let keys = media.variant_keys.as_ref().unwrap();
        let forms = media.variants.iter();
        let forms = forms.map(|form| (keys.of(form.variant), form.bytes));
        let own = (media.object_key.as_deref().unwrap(), media.bytes);
        for (object, bytes) in forms.chain([own]) {
            assert_eq!(
                self.bed.objects.head(&key(object)).await.unwrap().size,
                bytes
            );
        }
    }
}

/// A PNG's structure, with a comment that is taken out of it.
fn picture() -> Bytes {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\x80\0\0\x01\xe0".to_vec();
    png.extend([8, 0, 0, 0, 0, 1, 2, 3, 4]);
    png.extend(b"\0\0\0\x09tEXtComment\0!\0\0\0\0");
    png.extend(b"\0\0\0\x01IDATx\x01\x02\x03\x04\0\0\0\0IEND\xae\x42\x60\x82");
    png.into()
}

async fn no_death_loses_or_leaks_an_object(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 3).await;
    let server = Server::new(&bed);
    let (mut sent, mut request, mut is_after) = (Vec::new(), 1, false);
    loop {
        server.mortal.dies_at(request, is_after);
        let begun = server.uploaded(id, "picture").await;
        let accepted = server.completed(&begun).await;
        let media = server.processed(id, accepted).await;
        let outlived = server.mortal.is_alive();
        sent.push(send(&bed, id, &media).await);
        if outlived {
            break; // it makes fewer requests than that
        }
        (request, is_after) = (request + i64::from(is_after), !is_after);
    }
    assert!(request > 8, "{request}");
    bed.collect().await;
    let report = bed.archive.verify_files(Timestamp::now()).await.unwrap();
    let lives = sent.len() as u64;
    assert_eq!((report.files, report.variants), (lives, lives));
    assert_eq!((report.faulty, report.orphans, report.in_grace), (0, 0, 0));
    assert_eq!(file_keys(&bed).await.len() as u64, 2 * lives);

    // From the archive, too. A collection is killed until there is nothing left for one to do.
    bed.run().await;
    for seq in sent {
        bed.delete(id, seq).await;
    }
    for request in (1..).step_by(5) {
        server.mortal.dies_at(request, request % 2 == 0);
        let (order, progress) = (order(), Progress::default());
        let jobs = async {
            server.archive.erase(&order, &progress).await.unwrap();
            server.archive.collect(&order, false).await.unwrap();
            server.archive.collect(&order, false).await.unwrap();
        };
        if server.mortal.does(jobs).await.is_some() {
            break;
        }
        bed.archive.clear_leases(&order).await.unwrap();
    }
    assert_eq!(file_keys(&bed).await, [""; 0]);
    match bed.objects.unfinished_uploads(None).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {}
        left => assert_eq!(left.unwrap(), []),
    }
    let receipts = bed.archive.erasures(id).await.unwrap();
    let done = receipts
        .iter()
        .filter(|receipt| receipt.erased_at.is_some());
    assert_eq!((receipts.len() as u64, done.count() as u64), (lives, lives));
    bed.close().await;
}
