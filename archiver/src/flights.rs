//! Callers that want the same at the same time share one fetch.
//!
//! A fetch is a task of its own: it is finished also when all its callers have given up, so that callers with less patience than
//! it needs do not start it anew each time. Nothing is kept: a caller that comes after the end starts another one.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backscroll_shard::tasks::Place;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, ready};

/// The fetches that are under way, by what they fetch. Clones are the same.
pub(crate) struct Flights<K, V>(Arc<Mutex<HashMap<K, Flight<V>>>>);

impl<K, V> Clone for Flights<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

/// One value out of a fetch, which may be of several.
pub(crate) struct Flight<V> {
    fetch: Shared<BoxFuture<'static, Option<Arc<[V]>>>>,
    place: usize,
}

impl<V> Clone for Flight<V> {
    fn clone(&self) -> Self {
        Self {
            fetch: self.fetch.clone(),
            place: self.place,
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Flight<V> {
    /// A flight that is at its end.
    pub(crate) fn landed(value: V) -> Self {
        let values: Arc<[V]> = [value].into();
        Self {
            fetch: ready(Some(values)).boxed().shared(),
            place: 0,
        }
    }

    /// Waits for the value; none when the task ended without it.
    pub(crate) async fn value(self) -> Option<V> {
        self.fetch.await?.get(self.place).cloned()
    }
}

impl<K: Clone + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> Flights<K, V> {
    /// Exclusive access: nothing is started or ends meanwhile.
    pub(crate) fn lock(&self) -> Board<'_, K, V> {
        Board {
            flights: self,
            under_way: self.under_way(),
        }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<K, Flight<V>>> {
        // Nothing panics half-way through a change of the map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Exclusive access to the fetches that are under way.
pub(crate) struct Board<'a, K, V> {
    flights: &'a Flights<K, V>,
    under_way: MutexGuard<'a, HashMap<K, Flight<V>>>,
}

impl<K: Clone + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> Board<'_, K, V> {
    /// How many keys are being fetched.
    pub(crate) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// The flight of `key`, if it is being fetched.
    pub(crate) fn find(&self, key: &K) -> Option<Flight<V>> {
        self.under_way.get(key).cloned()
    }

    /// Starts one fetch of `keys` in a task on `place`; its values are in their order. Returns the flight of each.
    pub(crate) fn start(
        &mut self,
        place: Place,
        keys: Vec<K>,
        fetch: impl Future<Output = Vec<V>> + Send + 'static,
    ) -> Vec<(K, Flight<V>)> {
        let landing = Landing {
            flights: self.flights.clone(),
            keys: keys.clone(),
        };
        let task = place.spawn(async move {
            let _landing = landing;
            fetch.await.into()
        });
        let fetch = task.map(Result::ok).boxed().shared();
        let flight = |(place, key)| {
            let fetch = fetch.clone();
            (key, Flight { fetch, place })
        };
        let started: Vec<(K, Flight<V>)> = keys.into_iter().enumerate().map(flight).collect();
        self.under_way.extend(started.iter().cloned());
        started
    }
}

/// Takes the flights off the map when their task ends, however it does.
struct Landing<K: Clone + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> {
    flights: Flights<K, V>,
    keys: Vec<K>,
}

impl<K: Clone + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> Drop
    for Landing<K, V>
{
    fn drop(&mut self) {
        let mut under_way = self.flights.under_way();
        for key in &self.keys {
            under_way.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use backscroll_shard::tasks::OneShots;
    use tokio::sync::oneshot;

    use super::*;

    fn keys(board: &Board<'_, &'static str, u8>) -> Vec<&'static str> {
        let mut keys: Vec<_> = board.under_way.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    #[tokio::test]
    async fn a_fetch_is_shared_and_forgotten_at_its_end() {
        let (flights, tasks) = (Flights::default(), OneShots::new("fetch", 2));
        let (go, gone) = oneshot::channel::<()>();
        let started = {
            let mut board = flights.lock();
            let place = tasks.reserve().unwrap();
            board.start(place, vec!["a", "b"], async {
                gone.await.unwrap();
                vec![1, 2]
            })
        };
        let joined = flights.lock().find(&"b").unwrap();
        assert!(flights.lock().find(&"c").is_none());
        assert_eq!(keys(&flights.lock()), ["a", "b"]);
        go.send(()).unwrap();
        assert_eq!(joined.value().await, Some(2));
        for (flight, value) in started.into_iter().zip([1, 2]) {
            assert_eq!(flight.1.value().await, Some(value));
        }
        assert_eq!(flights.lock().len(), 0);
        assert_eq!(Flight::landed(7).value().await, Some(7));
    }

    #[tokio::test]
    async fn a_fetch_that_panics_or_lacks_a_value_gives_none_and_is_forgotten() {
        let (flights, tasks) = (Flights::<_, u8>::default(), OneShots::new("fetch", 2));
        let mut started = {
            let mut board = flights.lock();
            let panics = async { panic!("as a test asks") };
            let short = async { vec![1] };
            let mut started = board.start(tasks.reserve().unwrap(), vec!["a"], panics);
            started.extend(board.start(tasks.reserve().unwrap(), vec!["b", "c"], short));
            started
        };
        assert_eq!(started.pop().unwrap().1.value().await, None);
        assert_eq!(started.pop().unwrap().1.value().await, Some(1));
        assert_eq!(started.pop().unwrap().1.value().await, None);
        assert_eq!(flights.lock().len(), 0);
    }

    #[tokio::test]
    async fn a_fetch_goes_on_when_its_callers_have_left() {
        let (flights, tasks) = (Flights::default(), OneShots::new("fetch", 1));
        let (go, gone) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel::<()>();
        drop(
            flights
                .lock()
                .start(tasks.reserve().unwrap(), vec!["a"], async {
                    gone.await.unwrap();
                    done.send(()).unwrap();
                    vec![1]
                }),
        );
        go.send(()).unwrap();
        is_done.await.unwrap();
    }
}
