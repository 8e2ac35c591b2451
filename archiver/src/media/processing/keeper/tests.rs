//! Workers that misbehave: shell scripts in place of the program.

use super::*;
use backscroll_shard::settings::Span;

fn keeper(script: &str) -> WorkerKeeper {
    let program = Program {
        path: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
    };
    let settings = MediaSettings {
        worker_time: Span::millis(200),
        ..MediaSettings::default()
    };
    WorkerKeeper::new(program, &settings)
}

async fn failure(script: &str) -> Failure {
    let task = Task {
        content_type: "image/png".into(),
        pixels: 1,
        memory: 1,
    };
    let mut keeper = keeper(script);
    match keeper.make(&task, b"picture").await {
        Err(Trouble::Picture(failure)) => {
            assert!(keeper.worker.is_none(), "it is not asked again");
            failure
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_end_of_a_worker_has_its_name() {
    assert_eq!(failure("sleep 60").await, Failure::TimedOut);
    assert_eq!(failure("kill -9 $$").await, Failure::Crashed);
    assert_eq!(failure("exit 0").await, Failure::Crashed);
    assert_eq!(
        failure("printf 'no frame at all'; cat").await,
        Failure::Crashed
    );
    let aborts = "echo 'memory allocation of 12 bytes failed' >&2; kill -ABRT $$";
    assert_eq!(failure(aborts).await, Failure::OutOfMemory);
}

#[tokio::test]
async fn a_worker_that_was_killed_is_replaced_once_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    // `{"failed":"damaged"}` has 20 bytes.
    let answers = r#"printf '\000\000\000\024{"failed":"damaged"}'; exec sleep 60"#;
    let script = format!(
        "[ -e {0} ] || {{ touch {0}; kill -9 $$; }}; {answers}",
        mark.display()
    );
    let mut keeper = keeper(&script);
    keeper.time = Duration::from_secs(10);
    let task = Task {
        content_type: "image/png".into(),
        pixels: 1,
        memory: 1,
    };
    let made = keeper.make(&task, b"picture").await;
    assert!(
        matches!(made, Err(Trouble::Picture(Failure::Damaged))),
        "{made:?}"
    );
    assert_eq!(
        keeper.worker.as_ref().map(|worker| worker.pictures),
        Some(1)
    );
}

#[tokio::test]
async fn no_worker_can_be_started() {
    let settings = MediaSettings::default();
    let mut keeper = WorkerKeeper::new(Program::at("/nowhere/backscroll"), &settings);
    let task = Task {
        content_type: "image/png".into(),
        pixels: 1,
        memory: 1,
    };
    let made = keeper.make(&task, b"picture").await;
    assert!(matches!(made, Err(Trouble::Start(_))), "{made:?}");
}
