use std::sync::atomic::AtomicU32;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{advance, sleep};

use super::*;

/// How long something may take that has to happen, by the clock of the test.
const PATIENCE: Duration = Duration::from_secs(600);

fn within(patience: Duration) -> Instant {
    tokio::time::Instant::now().into_std() + patience
}

/// A task that ends `ends` times, and runs from then on; how often it was started.
fn failing(group: &TaskGroup, stop: &CancellationToken, ends: u32, end: fn()) -> Arc<AtomicU32> {
    let starts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&starts);
    group.supervise("failing", stop, move || {
        let start = counted.fetch_add(1, Ordering::Relaxed);
        let stop = CancellationToken::new();
        async move {
            if start < ends {
                end();
            } else {
                stop.cancelled().await; // for ever
            }
        }
    });
    starts
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_is_down_and_is_started_again() {
    for end in [|| {}, || panic!("ends")] {
        let supervisor = Supervisor::default();
        let (group, stop) = (supervisor.group(), CancellationToken::new());
        let starts = failing(&group, &stop, 2, end);
        tokio::task::yield_now().await;
        assert_eq!(supervisor.down(), ["failing".into()]);
        sleep(FIRST_PAUSE * 3 / 2).await;
        assert_eq!(starts.load(Ordering::Relaxed), 2);
        assert_eq!(supervisor.down(), ["failing".into()], "again");
        sleep(FIRST_PAUSE * 2).await;
        assert_eq!(starts.load(Ordering::Relaxed), 3);
        assert_eq!(supervisor.down(), []);
        assert_eq!(supervisor.names(), ["failing".into()]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_keeps_ending_is_given_up() {
    let supervisor = Supervisor::default();
    let (group, stop) = (supervisor.group(), CancellationToken::new());
    let starts = failing(&group, &stop, u32::MAX, || panic!("ends"));
    let name = tokio::time::timeout(PATIENCE, supervisor.given_up()).await;
    assert_eq!(&*name.unwrap(), "failing");
    assert_eq!(starts.load(Ordering::Relaxed), 1 + MOST_RESTARTS);
    assert_eq!(supervisor.down(), ["failing".into()]);
    stop.cancel();
    assert!(group.finish(within(PATIENCE)).await);
    assert_eq!(supervisor.names(), []);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_now_and_then_is_not_given_up() {
    let supervisor = Supervisor::default();
    let (group, stop) = (supervisor.group(), CancellationToken::new());
    let starts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&starts);
    group.supervise("failing", &stop, move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async {
            sleep(STEADY).await;
        }
    });
    sleep((STEADY + FIRST_PAUSE) * 3 * MOST_RESTARTS).await;
    assert!(starts.load(Ordering::Relaxed) > 2 * MOST_RESTARTS);
    assert!(supervisor.given_up().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_told_to_stop_ends_for_good() {
    let supervisor = Supervisor::default();
    let (group, stop) = (supervisor.group(), CancellationToken::new());
    let stopping = stop.clone();
    group.supervise("obedient", &stop, move || {
        stopping.clone().cancelled_owned()
    });
    let stuck = CancellationToken::new();
    group.supervise("deaf", &stuck, std::future::pending);
    let connections = group.one_shots("connection", 5);
    connections.spawn(std::future::pending::<()>()).unwrap();
    assert_eq!(supervisor.stuck(), Stuck::default());
    stop.cancel();
    stuck.cancel();
    assert!(!group.finish(within(FIRST_PAUSE)).await);
    assert_eq!(supervisor.stuck().to_string(), "deaf, connection (1)");
    assert_eq!(supervisor.down(), []);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_outlives_a_run_and_what_a_run_held_does_not() {
    let (group, stop) = (Supervisor::default().group(), CancellationToken::new());
    let (queue, jobs) = mpsc::channel::<oneshot::Sender<u32>>(10);
    let jobs = Kept::new(jobs);
    let runs = Arc::new(AtomicU32::new(0));
    group.supervise("worker", &stop, move || {
        let (jobs, run) = (jobs.clone(), runs.fetch_add(1, Ordering::Relaxed));
        async move {
            let mut jobs = jobs.hold().await;
            while let Some(job) = jobs.recv().await {
                assert!(run > 0, "the first run fails at its first job");
                let _ = job.send(run);
            }
        }
    });
    let (first, lost) = oneshot::channel();
    queue.send(first).await.unwrap();
    assert!(lost.await.is_err(), "its caller is told at once");
    let (second, done) = oneshot::channel();
    queue.send(second).await.unwrap();
    assert_eq!(done.await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_fault_makes_the_named_task_panic_as_often_as_it_says() {
    let left = std::sync::atomic::AtomicI32::new(2);
    let faults: Faults = Arc::new(move |name: &str| {
        let strikes = name == "struck" && left.fetch_sub(1, Ordering::Relaxed) > 0;
        strikes.then_some(Fault::Panic(Duration::from_secs(1)))
    });
    let supervisor = Supervisor::with_faults(Some(faults));
    let (group, stop) = (supervisor.group(), CancellationToken::new());
    for name in ["struck", "spared"] {
        group.supervise(name, &stop, std::future::pending);
    }
    let mut downs = 0;
    for _ in 0..300 {
        advance(Duration::from_millis(10)).await;
        downs += supervisor.down().len();
    }
    assert!((20..50).contains(&downs), "{downs}");
    assert_eq!(supervisor.down(), []);
}

#[tokio::test]
async fn one_shots_are_bounded_and_their_panics_are_passed_on() {
    let supervisor = Supervisor::default();
    let group = supervisor.group();
    let fetches = group.one_shots("fetch", 2);
    let first = fetches.spawn(std::future::pending::<()>()).unwrap();
    let second = fetches.spawn(async { panic!("lost") }).unwrap();
    let refused = fetches.spawn(async {}).unwrap_err();
    assert_eq!(refused.to_string(), "there are 2 tasks `fetch` already");
    assert!(
        second
            .await
            .is_err_and(|error: tokio::task::JoinError| error.is_panic())
    );
    assert_eq!(fetches.spawn(async { 7 }).unwrap().await.unwrap(), 7);
    first.abort();
    assert!(group.finish(Instant::now() + Duration::from_secs(60)).await);
    assert_eq!(fetches.running(), 0);
}

/// A connection's task is as large as what it does, and some words.
#[test]
fn watching_a_one_shot_costs_some_words() {
    let work = async {
        let held = [0_u8; 1000];
        tokio::task::yield_now().await;
        std::hint::black_box(held);
    };
    let size = size_of_val(&work);
    let watched = OneShots::new("work", 1).reserve().unwrap().watch(work);
    assert!(size_of_val(&watched) <= size + 4 * size_of::<usize>());
}
