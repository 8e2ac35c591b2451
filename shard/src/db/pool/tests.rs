//! The clock stands still except while everybody waits, so waits are exact and cost nothing.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use futures_util::future::join_all;
use proptest::prelude::*;
use tokio::time::{advance, sleep};

use super::*;

const ACQUIRE: Duration = Duration::from_secs(2);
const AT_ONCE: Duration = Duration::from_millis(5);

/// A server that allows so many connections.
#[derive(Default)]
struct Server {
    allowed: AtomicU32,
    open: AtomicU32,
    tries: AtomicU32,
    /// New connections get no answer.
    hangs: AtomicBool,
}

struct Link {
    server: Arc<Server>,
    silent: bool,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.server.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connector for Arc<Server> {
    type Connection = Link;

    async fn open(&self) -> Result<Link, Unopened> {
        let tries = self.tries.fetch_add(1, Ordering::Relaxed);
        assert!(tries < 10_000, "a storm of connections");
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(1)).await;
        if self.open.load(Ordering::Relaxed) >= self.allowed.load(Ordering::Relaxed) {
            return Err(Unopened {
                error: Error::DatabaseUnavailable("1040: too many".into()),
                at_limit: true,
            });
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        let (server, silent) = (self.clone(), false);
        Ok(Link { server, silent })
    }

    async fn ping(link: &mut Link) -> bool {
        if link.silent {
            std::future::pending::<()>().await;
        }
        true
    }

    async fn close(_link: Link) {}
}

fn pool(connections: u32, allowed: u32) -> (Pool<Arc<Server>>, Arc<Server>) {
    let server = Arc::new(Server::default());
    server.allowed.store(allowed, Ordering::Relaxed);
    let limits = Limits {
        connections,
        acquire_timeout: ACQUIRE,
        idle_timeout: Some(Duration::from_secs(30)),
    };
    (Pool::new(server.clone(), limits), server)
}

impl Pool<Arc<Server>> {
    async fn get(&self) -> Result<Pooled<Arc<Server>>> {
        let deadline = Instant::now() + Duration::from_secs(60);
        self.acquire(deadline, Wanted::Any).await
    }

    async fn fill(&self, n: u32) {
        let links = join_all((0..n).map(|_| self.get())).await;
        assert!(links.iter().all(Result::is_ok));
    }

    /// A request that works for a while; how long it took.
    async fn work(&self, duration: Duration) -> Result<Duration> {
        let begun = Instant::now();
        let link = self.get().await?;
        sleep(duration).await;
        drop(link);
        Ok(begun.elapsed())
    }
}

#[tokio::test(start_paused = true)]
async fn connections_are_opened_as_needed_and_used_again() {
    let (pool, server) = pool(3, 100);
    let first = pool.get().await.unwrap();
    let second = pool.get().await.unwrap();
    assert_eq!(pool.size(), (2, 0));
    drop((first, second));
    assert_eq!(pool.size(), (2, 2));
    let worked = join_all((0..30).map(|_| pool.work(Duration::from_millis(100)))).await;
    assert!(worked.iter().all(Result::is_ok));
    assert_eq!(pool.size(), (3, 3));
    assert_eq!(server.tries.load(Ordering::Relaxed), 3);
    advance(Duration::from_secs(31)).await;
    pool.tidy().await;
    assert_eq!(pool.size(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_cannot_grow_makes_requests_wait() {
    let (pool, server) = pool(20, 2);
    let requests = (0..100).map(|_| pool.work(Duration::from_millis(20)));
    let worked = join_all(requests).await;
    assert!(worked.iter().all(Result::is_ok), "{worked:?}");
    let tries = server.tries.load(Ordering::Relaxed);
    assert!(tries < 40, "{tries} tries in about a second");
    assert!(pool.outage().unwrap().contains("1040"));
    // Until there is room again.
    server.allowed.store(20, Ordering::Relaxed);
    pool.tidy().await;
    assert_eq!((pool.outage(), pool.size()), (None, (3, 3)));
    let all = join_all((0..20).map(|_| pool.get())).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(pool.size(), (20, 0));
}

/// The request that tries to open a connection is not worse off than those that only wait.
#[tokio::test(start_paused = true)]
async fn who_tries_keeps_its_place() {
    let (pool, _server) = pool(20, 2);
    let request = async |at| {
        sleep(Duration::from_millis(at)).await;
        pool.work(Duration::from_millis(100)).await
    };
    // Ten at once, and then as many as two connections can serve.
    let at = std::iter::repeat_n(0, 10).chain((0..80).map(|n| n * 50));
    let worked = join_all(at.map(request)).await;
    let longest = worked.into_iter().map(Result::unwrap).max().unwrap();
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

/// Also what was given back just before it began to look for that.
#[tokio::test(start_paused = true)]
async fn who_tries_takes_what_is_idle() {
    let (pool, server) = pool(2, 100);
    let link = pool.get().await.unwrap();
    server.hangs.store(true, Ordering::Relaxed);
    let give_back = async {
        sleep(Duration::from_millis(100)).await;
        drop(link);
    };
    let (took, ()) = tokio::join!(pool.work(Duration::ZERO), give_back);
    let took = took.unwrap();
    assert!(took <= PATIENCE + AT_ONCE, "{took:?}");
}

/// A right to open a connection is nothing to those that have one: they go on with the connection that they are opening.
#[tokio::test(start_paused = true)]
async fn a_slow_server_is_not_asked_again_and_again() {
    let (pool, server) = pool(3, 100);
    server.hangs.store(true, Ordering::Relaxed);
    let gives_up = async {
        let given_up = pool.acquire(Instant::now() + 2 * PATIENCE, Wanted::Any);
        assert!(given_up.await.is_err());
    };
    let waits = async { assert!(pool.get().await.is_err()) };
    let comes_later = async {
        sleep(3 * PATIENCE).await;
        assert!(pool.get().await.is_err());
    };
    tokio::join!(
        gives_up,
        waits,
        async { assert!(pool.get().await.is_err()) },
        comes_later
    );
    let tries = server.tries.load(Ordering::Relaxed);
    assert!(tries <= 8, "{tries} tries within {ACQUIRE:?}");
}

#[tokio::test(start_paused = true)]
async fn a_short_absence_is_waited_for() {
    let (pool, server) = pool(4, 0);
    let back = async {
        sleep(Duration::from_millis(1500)).await;
        server.allowed.store(100, Ordering::Relaxed);
    };
    let requests = join_all((0..50).map(|_| pool.work(AT_ONCE)));
    let ((), worked) = tokio::join!(back, requests);
    let longest = worked.into_iter().map(Result::unwrap).max().unwrap();
    assert!(longest < Duration::from_millis(1900), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn while_a_server_is_away_all_but_one_are_refused_at_once() {
    for hangs in [false, true] {
        let (pool, server) = pool(4, 0);
        server.hangs.store(hangs, Ordering::Relaxed);
        let begun = Instant::now();
        let waited = join_all((0..10).map(|_| pool.get())).await;
        assert!(waited.iter().all(Result::is_err));
        let waited = begun.elapsed();
        assert!(waited <= ACQUIRE + AT_ONCE, "{waited:?}");
        let begun = Instant::now();
        let tries = pool.get();
        let others = async {
            sleep(AT_ONCE).await;
            let outcomes = join_all((0..100).map(|_| pool.get())).await;
            assert!(outcomes.iter().all(Result::is_err));
            begun.elapsed()
        };
        let (tried, at_once) = tokio::join!(tries, others);
        assert!(tried.is_err() && at_once <= 2 * AT_ONCE, "{at_once:?}");
        // The first to come when it is back, or what looks after the pool, finds out.
        server.hangs.store(false, Ordering::Relaxed);
        server.allowed.store(100, Ordering::Relaxed);
        let took = pool.work(Duration::ZERO).await.unwrap();
        assert!(took < Duration::from_millis(250), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silent_connections_cost_one_wait_together() {
    let (pool, _server) = pool(8, 100);
    pool.fill(8).await;
    let mut links = join_all((0..8).map(|_| pool.get())).await;
    for link in &mut links {
        link.as_mut().unwrap().silent = true;
    }
    drop(links);
    advance(Duration::from_secs(5)).await;
    let took = pool.work(Duration::ZERO).await.unwrap();
    assert!(took <= PING + AT_ONCE, "{took:?}");
    assert_eq!(pool.size(), (1, 1), "the others are gone with it");
    let took = pool.work(Duration::ZERO).await.unwrap();
    assert_eq!(took, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn after_an_error_the_idle_ones_are_asked() {
    let (pool, server) = pool(8, 100);
    pool.fill(8).await;
    let mut links = join_all((0..8).map(|_| pool.get())).await;
    for link in &mut links[..7] {
        link.as_mut().unwrap().silent = true;
    }
    let failing = links.pop().unwrap().unwrap();
    drop(links);
    failing.discard(true);
    assert_eq!(pool.size(), (7, 7));
    let took = pool.work(Duration::ZERO).await.unwrap();
    assert!(took <= PING + AT_ONCE, "{took:?}");
    assert_eq!(server.open.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_takes_the_place_of_an_old_one() {
    let (pool, server) = pool(2, 100);
    pool.fill(2).await;
    let deadline = Instant::now() + ACQUIRE;
    let new = pool.acquire(deadline, Wanted::New).await.unwrap();
    assert_eq!(server.tries.load(Ordering::Relaxed), 3);
    assert_eq!(pool.size(), (2, 1));
    drop(new);
    assert_eq!(server.open.load(Ordering::Relaxed), 2);
}

/// Also while it is in demand, and while one of its requests tries to open another connection.
#[tokio::test(start_paused = true)]
async fn a_pool_gives_way_to_another() {
    let (crowded, server) = pool(20, 4);
    let other: Pool<Arc<Server>> = Pool::new(server.clone(), crowded.queue.limits);
    let request = async |at| {
        sleep(Duration::from_millis(at)).await;
        crowded.work(Duration::from_millis(100)).await
    };
    let at = std::iter::repeat_n(0, 10).chain((0..80).map(|n| n * 34));
    let needs_one = async {
        sleep(Duration::from_secs(1)).await;
        let deadline = Instant::now() + ACQUIRE;
        let soon = Instant::now() + AT_ONCE;
        assert!(other.acquire(soon, Wanted::Any).await.is_err());
        assert!(other.is_at_limit());
        crowded.give_way(deadline).await;
        let link = other.acquire(deadline, Wanted::Any).await.unwrap();
        sleep(Duration::from_secs(10)).await;
        drop(link);
    };
    let ((), worked) = tokio::join!(needs_one, join_all(at.map(request)));
    assert!(worked.iter().all(Result::is_ok), "{worked:?}");
    assert_eq!((crowded.size().0, other.size().0), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_what_is_lent() {
    let (pool, server) = pool(3, 100);
    pool.fill(3).await;
    let lent = pool.get().await.unwrap();
    let begun = Instant::now();
    let give_back = async {
        sleep(Duration::from_millis(700)).await;
        drop(lent);
    };
    tokio::join!(pool.close(), give_back);
    assert_eq!(begun.elapsed().as_millis(), 700);
    assert_eq!(server.open.load(Ordering::Relaxed), 0);
    assert!(pool.get().await.is_err());
}

/// What a request of [`nothing_is_ever_lost`] does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    GiveBack,
    Discard,
    /// Nobody waits for it any more after so many milliseconds.
    GiveUp(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        3 => Just(Deed::GiveBack),
        1 => Just(Deed::Discard),
        1 => (0..300u64).prop_map(Deed::GiveUp),
    ]
}

proptest! {
    /// Whatever requests do and the server allows meanwhile: there are never more connections than allowed, no slot is
    /// lost, and once the server allows all of them, the pool is whole.
    #[test]
    fn nothing_is_ever_lost(
        deeds in proptest::collection::vec((deed(), 0..400u64, 0..50u64), 1..60),
        allowed in proptest::collection::vec((0..6u32, 1..500u64), 0..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (pool, server) = pool(4, 4);
            let most = AtomicU32::new(0);
            let requests = deeds.into_iter().map(async |(deed, begin, work)| {
                sleep(Duration::from_millis(begin)).await;
                let works = async {
                    if let Ok(link) = pool.get().await {
                        most.fetch_max(server.open.load(Ordering::Relaxed), Ordering::Relaxed);
                        sleep(Duration::from_millis(work)).await;
                        if let Deed::Discard = deed {
                            link.discard(true);
                        }
                    }
                };
                let patience = match deed {
                    Deed::GiveUp(after) => Duration::from_millis(after),
                    _ => Duration::from_secs(3600),
                };
                let _ = timeout(patience, works).await;
            });
            let changes = async {
                for (n, at) in allowed {
                    sleep(Duration::from_millis(at)).await;
                    server.allowed.store(n, Ordering::Relaxed);
                }
            };
            tokio::join!(join_all(requests), changes);
            assert!(most.into_inner() <= 4);
            server.allowed.store(4, Ordering::Relaxed);
            pool.tidy().await;
            let begun = Instant::now();
            let all = join_all((0..4).map(|_| pool.get())).await;
            assert!(all.iter().all(Result::is_ok));
            assert!(begun.elapsed() < Duration::from_millis(250));
            assert_eq!(pool.size(), (4, 0));
            drop(all);
            pool.close().await;
            assert_eq!(server.open.load(Ordering::Relaxed), 0);
        });
    }
}
