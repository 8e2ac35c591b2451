//! The probe: a good store passes and is left as it was; of a bad one the step that failed is named.

use backscroll_archiver::object_store::faults::Fault;
use backscroll_archiver::object_store::probe::{ProbeOutcome, probe};
use backscroll_archiver::object_store::{ErrorKind, KeyPrefix, ListPage, Operation};

use crate::bed::Bed;

crate::on_every_backend![
    a_good_store_passes_and_is_left_as_it_was,
    the_step_that_fails_is_named
];

async fn is_empty(bed: &Bed) -> bool {
    let page = bed
        .store
        .list_page(&KeyPrefix::default(), None)
        .await
        .unwrap();
    page == ListPage::default() && bed.store.unfinished_uploads(None).await.unwrap().is_empty()
}

async fn a_good_store_passes_and_is_left_as_it_was(bed: &Bed) {
    let report = probe(&*bed.store).await;
    assert!(
        report
            .steps
            .iter()
            .all(|step| matches!(step.outcome, ProbeOutcome::Passed)),
        "{report:#?}"
    );
    assert_eq!(report.steps.len(), 12);
    assert!(is_empty(bed).await);
}

async fn the_step_that_fails_is_named(bed: &Bed) {
    for (operation, name) in [
        (Operation::Put, "put an object"),
        (Operation::Head, "read its size"),
        (Operation::GetRange, "get it"),
        (Operation::List, "list it"),
        (Operation::Delete, "delete it"),
        (Operation::Versioning, "ask whether versions are kept"),
        (Operation::StartUpload, "start an upload in parts"),
        (Operation::UploadPart, "finish it"),
        (Operation::CompleteUpload, "finish it"),
    ] {
        bed.faults
            .plan(operation, 1, Fault::Before(ErrorKind::Denied));
        let report = probe(&*bed.store).await;
        let failure = report
            .failure()
            .unwrap_or_else(|| panic!("{operation} did not fail: {report:#?}"));
        let ProbeOutcome::Failed { error, remedy } = &failure.outcome else {
            panic!("{report:#?}")
        };
        assert_eq!((failure.name, error.kind()), (name, ErrorKind::Denied));
        assert!(remedy.contains("credentials"), "{remedy}");
        assert!(is_empty(bed).await, "after {operation}");
    }
    bed.faults.plan(Operation::GetRange, 1, Fault::FlippedBit);
    let report = probe(&*bed.store).await;
    assert_eq!(
        report.failure().map(|step| step.name),
        Some("get it"),
        "a store that lies is found out"
    );
    bed.faults.plan(
        Operation::ListUploads,
        1,
        Fault::Before(ErrorKind::Unsupported),
    );
    let report = probe(&*bed.store).await;
    assert!(report.failure().is_none());
    assert!(
        matches!(&report.steps[11].outcome, ProbeOutcome::Reservation(text) if text.contains("life-cycle rule"))
    );
}
