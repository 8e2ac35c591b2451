//! A test fails when something warns that it does not expect: a warning that comes with every good run is noise to operators, and
//! hides the ones that matter.
//!
//! A bed calls [`watch`] when it is made and [`check`] when it is closed; a test names what it causes with [`expect`]. Events are
//! told apart by the runtime that they happen on, of which each test has its own; those of threads without a runtime are nobody's.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use tokio::runtime::{Handle, Id};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Record};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// What happened in each test.
static TESTS: Mutex<BTreeMap<String, Test>> = Mutex::new(BTreeMap::new());

#[derive(Default)]
struct Test {
    expected: Vec<&'static str>,
    seen: Vec<String>,
}

fn tests() -> MutexGuard<'static, BTreeMap<String, Test>> {
    TESTS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(runtime: Id) -> String {
    runtime.to_string()
}

/// Collects warnings and errors from now on, for the life of the process.
pub fn watch() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        tracing::subscriber::set_global_default(Collector).expect("the tests' only subscriber");
    });
}

/// The test causes warnings whose text contains `part`, or may do so.
pub fn expect(part: &'static str) {
    let test = name(Handle::current().id());
    tests().entry(test).or_default().expected.push(part);
}

/// Fails the test if something has warned since it began that it did not expect.
///
/// # Panics
/// With the text of the warnings.
pub fn check() {
    let unexpected = {
        let mut tests = tests();
        let Test { expected, seen } = tests.entry(name(Handle::current().id())).or_default();
        let is_expected = |text: &String| expected.iter().any(|part| text.contains(part));
        seen.retain(|text| !is_expected(text));
        std::mem::take(seen)
    };
    assert!(
        unexpected.is_empty(),
        "this was not expected to be logged: {unexpected:#?}"
    );
}

/// Keeps the warnings of this project's crates.
struct Collector;

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("backscroll")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        let mut tests = tests();
        let test = tests.entry(name(runtime.id())).or_default();
        test.seen.push(text.0);
    }

    fn new_span(&self, _span: &Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_not_expected_fails_the_test() {
        watch();
        check();
        expect("a shard is away");
        let warn = || tracing::warn!(target: "backscroll", shard = 3, "a shard is away");
        #[expect(clippy::disallowed_methods, reason = "a test's own task")]
        tokio::spawn(async move { warn() }).await.unwrap();
        tracing::info!(target: "backscroll", "nothing to see");
        tracing::warn!(target: "elsewhere", "others warn, too");
        check();
        warn();
        tracing::error!(target: "backscroll", id = 7, "damaged");
        let failed = catch_unwind(AssertUnwindSafe(check)).unwrap_err();
        let text = failed.downcast_ref::<String>().unwrap();
        assert!(text.contains("ERROR damaged id=7"), "{text}");
        assert!(!text.contains("a shard is away"), "{text}");
        check();
    }

    #[tokio::test]
    async fn tests_do_not_see_each_other_s_warnings() {
        watch();
        let other = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.unwrap().block_on(async {
                tracing::error!(target: "backscroll", "another test's");
            });
        });
        other.join().unwrap();
        check();
    }
}
