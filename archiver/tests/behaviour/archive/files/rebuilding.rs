//! Pictures without smaller forms, processed again by the operator's command.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use backscroll_archiver::media::processing;
use backscroll_archiver::media::rebuild::{Rebuild, RebuildFigures, RebuildProgress};
use backscroll_archiver::media::settings::MediaSettings;
use backscroll_archiver::media::worker::Program;
use backscroll_shard::ids::ConversationId;
use backscroll_shard::model::{
    Media, MediaFacts, MediaProcessed, MediaState, MediaVerdict, Timestamp,
};
use backscroll_shard::tasks::Supervisor;
use tokio_util::sync::CancellationToken;

use super::{begun_picture, picture, process, put, send};
use crate::archive::bed::{Backend, Bed, caller, on_both};

on_both![
    pictures_without_forms_are_processed_again,
    a_rebuild_that_is_killed_leaves_its_picture_to_others,
];

/// A worker that gives these frames as the answer for each of its pictures, at most 255 bytes each.
pub(super) fn worker(frames: &[&str]) -> Program {
    let frame = |content: &&str| format!(r"\000\000\000\{:03o}{content}", content.len());
    let frame: String = frames.iter().map(frame).collect();
    let script = format!("printf '{}'; exec sleep 60", frame.repeat(5));
    Program {
        path: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
    }
}

fn damaged() -> Program {
    worker(&[r#"{"failed":"damaged"}"#])
}

/// The picture needs no smaller forms.
fn made() -> Program {
    worker(&[r#"{"made":["hash",[]]}"#])
}

struct Command<'a> {
    bed: &'a Bed,
    program: Program,
    conversation: Option<ConversationId>,
    stop: CancellationToken,
}

impl<'a> Command<'a> {
    fn new(bed: &'a Bed, program: Program) -> Self {
        Self {
            bed,
            program,
            conversation: None,
            stop: CancellationToken::new(),
        }
    }

    async fn run(&self, is_dry_run: bool) -> RebuildFigures {
        let settings = MediaSettings::default();
        let rebuild = Rebuild {
            store: &self.bed.store,
            objects: &self.bed.objects,
            settings: &settings,
            program: &self.program,
            conversation: self.conversation,
            stop: &self.stop,
        };
        let progress = RebuildProgress::default();
        let figures = match is_dry_run {
            true => rebuild.count(&progress).await,
            false => rebuild.run(&progress).await,
        };
        assert_eq!(figures.errors, BTreeMap::new());
        figures
    }
}

async fn failed(bed: &Bed, id: ConversationId, name: &str) -> Media {
    let file = picture(bed, id, name).await;
    let outcome = MediaProcessed::Failed("timed_out");
    let file = bed.store.finish_processing(&file, &outcome).await.unwrap();
    bed.store
        .tell_processed(&file.clone().unwrap())
        .await
        .unwrap();
    file.unwrap()
}

/// A picture that was accepted where no forms are made.
async fn unprocessed(bed: &Bed, id: ConversationId, name: &str) -> Media {
    let file = begun_picture(bed, id, name).await;
    let object_key = super::own("media", name);
    put(bed, &object_key, b"file").await;
    let verdict = MediaVerdict::Ready {
        object_key,
        bytes: 4,
        content_type: "image/png".into(),
        facts: MediaFacts::default(),
        variant_keys: None,
    };
    let finished = bed
        .store
        .finish_media(&caller("alice"), &file, &verdict)
        .await;
    finished.unwrap().0
}

async fn state(bed: &Bed, file: &Media) -> (MediaState, Option<String>) {
    let file = bed.store.media(&caller("alice"), file.id).await.unwrap();
    (file.state, file.facts.placeholder)
}

fn count(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let pairs = pairs.iter();
    pairs
        .map(|(reason, count)| ((*reason).to_owned(), *count))
        .collect()
}

async fn pictures_without_forms_are_processed_again(backend: Backend) {
    let bed = Bed::open(backend).await;
    let (id, other) = (bed.import("talk", 3).await, bed.import("other", 3).await);
    let one = failed(&bed, id, "one").await;
    send(&bed, id, &one).await;
    let two = unprocessed(&bed, id, "two").await;
    let waiting = picture(&bed, id, "waiting").await;
    let elsewhere = failed(&bed, other, "elsewhere").await;
    let ready = picture(&bed, id, "ready").await;
    process(&bed, &ready).await;
    super::file(&bed, id, "file", 86_400_000).await;

    let found = RebuildFigures {
        pictures: 5,
        unprocessed: 1,
        failed: count(&[("timed_out", 2)]),
        processing: 1,
        ..RebuildFigures::default()
    };
    assert_eq!(Command::new(&bed, made()).run(true).await, found);
    assert_eq!(state(&bed, &one).await, (MediaState::Failed, None));

    let stopped = Command::new(&bed, made());
    stopped.stop.cancel();
    assert_eq!(stopped.run(false).await, RebuildFigures::default());

    let only = Command {
        conversation: Some(other),
        ..Command::new(&bed, damaged())
    };
    let figures = RebuildFigures {
        pictures: 1,
        failed: count(&[("timed_out", 1)]),
        failed_again: count(&[("damaged", 1)]),
        ..RebuildFigures::default()
    };
    assert_eq!(only.run(false).await, figures);
    assert_eq!(state(&bed, &one).await, (MediaState::Failed, None));

    let figures = RebuildFigures {
        failed: count(&[("damaged", 1), ("timed_out", 1)]),
        ready: 3,
        passed_over: 1,
        ..found
    };
    assert_eq!(Command::new(&bed, made()).run(false).await, figures);
    for file in [&one, &two, &elsewhere] {
        let hash = Some("hash".to_owned());
        assert_eq!(state(&bed, file).await, (MediaState::Ready, hash));
    }
    let log = bed.walk(id).await;
    let shown = log[3].attachments.get();
    assert!(
        shown.contains(r#""state":"ready""#) && shown.contains("hash"),
        "{shown}"
    );
    let left = RebuildFigures {
        pictures: 5,
        processing: 1,
        passed_over: 1,
        ..RebuildFigures::default()
    };
    assert_eq!(Command::new(&bed, made()).run(false).await, left);

    // No server makes forms any more, and the lease has ended.
    bed.store
        .postpone_processing(&waiting, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(Command::new(&bed, made()).run(false).await.ready, 1);
    let report = bed.archive.verify_files(Timestamp::now()).await.unwrap();
    assert_eq!((report.files, report.variants, report.faulty), (6, 2, 0));
    bed.close().await;
}

async fn a_rebuild_that_is_killed_leaves_its_picture_to_others(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 3).await;
    let file = failed(&bed, id, "pic").await;
    let silent = Program {
        path: "/bin/sh".into(),
        arguments: vec!["-c".into(), "exec sleep 60".into()],
    };
    let is_taken = async {
        while state(&bed, &file).await.0 != MediaState::Processing {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let killed = Command::new(&bed, silent);
    tokio::select! {
        figures = killed.run(false) => panic!("{figures:?}"),
        () = is_taken => {}
    }
    let taken = bed.store.media(&caller("alice"), file.id).await.unwrap();
    assert_eq!(
        (taken.state, &taken.variant_keys),
        (MediaState::Processing, &file.variant_keys)
    );

    // Its lease ends.
    bed.store
        .postpone_processing(&taken, Duration::ZERO)
        .await
        .unwrap();
    let (tasks, stop) = (Supervisor::default().group(), CancellationToken::new());
    let settings = MediaSettings::default();
    let program = made();
    let _queue = processing::start(
        &bed.store,
        &bed.objects,
        (&settings, &program),
        &tasks,
        &stop,
    );
    let is_ready = async {
        while state(&bed, &file).await.0 != MediaState::Ready {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), is_ready)
        .await
        .unwrap();
    stop.cancel();
    assert!(tasks.finish(Instant::now() + Duration::from_secs(20)).await);
    bed.close().await;
}
