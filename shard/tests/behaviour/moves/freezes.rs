//! What writers wait for while a range is frozen, in round trips to the databases: a figure that nothing may raise unnoticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use backscroll_shard::ids::ConversationId;
use backscroll_shard::moves::{Hook, MoveState, Step};
use backscroll_shard::settings::{RebalanceSettings, Span, StoreSettings};

use super::{another_shard, fill, finish, home, mover, order, quick};
use crate::bed::{Bed, caller, text};

/// No list follows, and nothing runs beside the freeze.
fn quiet(settings: &mut StoreSettings) {
    settings.relay.max_members = 2;
    settings.relay.sweep_interval = Span::secs(3600);
    settings.directory.refresh_interval = Span::secs(3600);
}

/// Sends to `conversations`, by the time that the range is about to be frozen, and counts until the target serves it.
async fn counted(bed: &Bed, ids: &[ConversationId], sends: usize) -> u64 {
    let from = home(bed).await;
    let to = another_shard(bed, &from.shard);
    let (store, ids) = (Arc::new(Bed::another(&bed.settings).await), ids.to_vec());
    let (before, during) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let runtime = tokio::runtime::Handle::current();
    let router = Arc::clone(bed.store.router());
    let count = move || -> u64 { router.shards().map(|it| it.statements().all).sum() };
    let hook = {
        let (store, before, during) = (store.clone(), before.clone(), during.clone());
        Hook::new(move |step| {
            match step {
                Step::FreezeNoted => {
                    tokio::task::block_in_place(|| {
                        runtime.block_on(async {
                            for n in 0..sends {
                                let id = ids[n % ids.len()];
                                let sent = store.send(&caller("alice"), id, text("rest")).await;
                                sent.unwrap();
                            }
                        });
                    });
                    before.store(count(), Ordering::SeqCst);
                }
                Step::TargetOpened => during.store(count(), Ordering::SeqCst),
                _ => {}
            }
            Ok(())
        })
    };
    let patient = RebalanceSettings {
        freeze_lease: Span::secs(20),
        longest_freeze: Span::secs(15),
        ..quick()
    };
    let mover = mover(bed, patient).with_hook(hook);
    let job = mover.begin(from.range, &to, &order()).await.unwrap();
    let done = finish(&mover, job.id).await.unwrap();
    assert_eq!((done.state, done.attempt), (MoveState::Done, 1));
    store.close(Instant::now() + crate::bed::PATIENCE).await;
    during.load(Ordering::SeqCst) - before.load(Ordering::SeqCst)
}

/// The shards' share of what the head of `moves::freezing` counts, both kinds of entities and everything at once included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_takes_so_many_round_trips_whatever_was_written() {
    let bed = Bed::server_with(quiet).await;
    let ids = fill(&bed).await;
    for (sends, most) in [(0, 7), (1, 19), (60, 19)] {
        let found = counted(&bed, &ids, sends).await;
        assert!(found <= most, "{found} round trips with {sends} sends");
    }
    bed.close().await;
}
