//! Damage that older versions left behind: found by `verify`, put right by `repair`.

use backscroll_archiver::jobs::repair::RepairFigures;
use backscroll_archiver::jobs::{ArchiveError, Progress};
use backscroll_shard::ids::ConversationId;
use backscroll_testkit::warnings;

use super::bed::{Backend, Bed, on_both, order};
use super::logged;

on_both!(
    the_index_follows_the_objects,
    an_old_hot_row_takes_the_newest_copy,
    a_deleted_message_whose_content_came_back_is_deleted_again,
    content_of_a_deleted_message_is_put_down_for_erasure,
    what_objects_do_not_hold_is_left,
    a_restoration_of_nothing_is_an_error,
    what_nothing_names_is_collected,
);

/// Repairs, and adds up what was done; first a dry run, which has to see the same.
async fn repair(bed: &Bed) -> RepairFigures {
    let mut sums = Vec::new();
    for is_dry_run in [true, false] {
        let mut sum = RepairFigures::default();
        let progress = Progress::default();
        let outcomes = bed.archive.repair(&order(), is_dry_run, &progress).await;
        for outcome in outcomes.unwrap() {
            assert_eq!(outcome.error, None);
            sum.mended.extend(outcome.figures.mended);
            sum.left.extend(outcome.figures.left);
        }
        sums.push(sum);
    }
    assert_eq!(sums[0], sums[1], "the dry run saw something else");
    sums.remove(1)
}

/// Damages a conversation with a statement; it is found and put right, once.
async fn assert_mended(bed: &Bed, id: ConversationId, damage: &str, problem: &str) {
    bed.assert_clean().await;
    bed.execute(id, damage).await;
    let found = bed.verify().await.problems;
    let is_it = found.iter().all(|found| found.problem.contains(problem));
    assert!(is_it && !found.is_empty(), "{damage}: {found:#?}");
    let figures = repair(bed).await;
    assert_eq!(
        (figures.mended, figures.left),
        (found, Vec::new()),
        "{damage}"
    );
    bed.assert_clean().await;
}

async fn the_index_follows_the_objects(backend: Backend) {
    warnings::expect(logged::VERIFY_FINDS);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    let log = bed.walk(id).await;
    let damages = [
        (
            "UPDATE archive_runs SET last_rev = last_rev + 1",
            "do not have the revs",
        ),
        (
            "UPDATE archive_runs SET first_rev = 1 WHERE first_seq = 1",
            "do not have the revs",
        ),
    ];
    for (damage, problem) in damages {
        assert_mended(&bed, id, damage, problem).await;
        assert_eq!(bed.walk(id).await, log, "{damage}");
    }

    // What `ON DUPLICATE KEY UPDATE` of older versions did: messages 1 to 60 became 60 to 60.
    bed.execute(id, "UPDATE archive_runs SET first_seq = last_seq")
        .await;
    let found = bed.verify().await.problems;
    let told = |text: &str| found.iter().any(|it| it.problem.contains(text));
    assert!(told("are not in the index"), "{found:#?}");
    assert!(told("as the index says"), "{found:#?}");
    assert!(told("neither hot nor archived"), "{found:#?}");
    let progress = Progress::default();
    let outcomes = bed
        .archive
        .repair(&order(), false, &progress)
        .await
        .unwrap();
    for outcome in outcomes {
        assert_eq!((outcome.error, outcome.figures.left), (None, Vec::new()));
    }
    bed.assert_clean().await;
    assert_eq!(bed.walk(id).await, log);
    bed.close().await;
}

async fn an_old_hot_row_takes_the_newest_copy(backend: Backend) {
    warnings::expect(logged::VERIFY_FINDS);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    bed.edit(id, 10, "edited").await;
    bed.edit(id, 60, "edited too").await;
    bed.run().await;
    bed.restore(id).await;
    for seq in [10, 60] {
        let before = bed.walk(id).await;
        let damage = format!("UPDATE messages SET rev = 1, content = 'stale' WHERE seq = {seq}");
        assert_mended(&bed, id, &damage, "the hot row has rev 1").await;
        let after = bed.walk(id).await;
        let at = seq - 1;
        assert_eq!(after[at].content, before[at].content);
        assert!(
            after[at].rev > before.iter().map(|message| message.rev).max().unwrap(),
            "clients that follow the conversation get it"
        );
    }
    bed.close().await;
}

async fn a_deleted_message_whose_content_came_back_is_deleted_again(backend: Backend) {
    warnings::expect(logged::VERIFY_FINDS);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    bed.delete(id, 20).await;
    let damage = "UPDATE messages SET deleted_at = NULL, content = 'back' WHERE seq = 20";
    assert_mended(&bed, id, damage, "was deleted, and its content is shown").await;
    assert!(bed.walk(id).await[19].content.is_empty());
    bed.all_jobs().await;
    bed.assert_clean().await;
    assert!(!bed.stored_text().await.contains("talk message 20 "));
    let receipts = bed.archive.erasures(id).await.unwrap();
    assert!(receipts[0].erased_at.is_some(), "{receipts:?}");

    // Also when it has its receipt, and nothing is hot: the copy of its deletion is lost with its row in the index.
    bed.delete(id, 21).await;
    bed.execute(id, "DELETE FROM messages WHERE seq = 21").await;
    let found = repair(&bed).await;
    assert_eq!((found.mended.len(), found.left.len()), (1, 0), "{found:#?}");
    assert!(bed.walk(id).await[20].content.is_empty());
    bed.close().await;
}

async fn content_of_a_deleted_message_is_put_down_for_erasure(backend: Backend) {
    warnings::expect(logged::VERIFY_FINDS);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    bed.delete(id, 20).await;
    let damage = "DELETE FROM erasures";
    assert_mended(&bed, id, damage, "not put down for erasure").await;
    let damage = "UPDATE erasures SET rewritten_at = 1, erased_at = 2";
    assert_mended(&bed, id, damage, "not put down for erasure").await;
    bed.all_jobs().await;
    assert!(!bed.stored_text().await.contains("talk message 20 "));
    let receipts = bed.archive.erasures(id).await.unwrap();
    assert!(receipts[0].erased_at.is_some(), "{receipts:?}");
    bed.close().await;
}

async fn what_objects_do_not_hold_is_left(backend: Backend) {
    let bed = Bed::open(backend).await;
    bed.import("talk", 60).await;
    bed.run().await;
    let key = bed.keys().await.remove(0);
    bed.objects.delete(&key).await.unwrap();
    let figures = repair(&bed).await;
    assert_eq!((figures.mended.len(), figures.left.len()), (0, 1));
    assert!(figures.left[0].problem.contains("missing"));
    bed.close().await;
}

async fn a_restoration_of_nothing_is_an_error(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 10).await;
    let (order, progress) = (order(), Progress::default());
    for (id, why) in [
        (id, "no message of conversation"),
        (
            ConversationId::new(id.owner_key(), 7),
            "there is no conversation",
        ),
    ] {
        let refused = bed.archive.restore(&order, id, &progress).await;
        let Err(ArchiveError::NothingArchived(text)) = refused else {
            panic!("{refused:?}");
        };
        assert!(text.contains(why), "{text}");
    }
    bed.run().await;
    assert_eq!(bed.restore(id).await, 10);
    assert_eq!(bed.restore(id).await, 0, "all of it is hot already");
    bed.close().await;
}

/// Earlier versions left segments registered as parts of the archive whose names a move had taken away.
async fn what_nothing_names_is_collected(backend: Backend) {
    warnings::expect(logged::UNNAMED);
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 60).await;
    bed.run().await;
    assert!(bed.stored_text().await.contains("talk message 7 "));
    bed.execute(id, "DELETE FROM archive_runs").await;
    bed.collect().await;
    bed.collect().await;
    assert!(!bed.stored_text().await.contains("talk message"));
    bed.close().await;
}
