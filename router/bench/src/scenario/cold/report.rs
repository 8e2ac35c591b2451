//! What `cold` came to, and how it is printed.

use serde::Serialize;

use crate::harness::machine::Machine;
use crate::harness::usage::Usage;
use crate::out;
use crate::report::{Reading, Table, Verdict, milliseconds, thousands};
use crate::scenario::Report;

/// How many requests a page may take on average, and how many many readers of one frame may.
const GOAL_REQUESTS: f64 = 1.0;
/// How many milliseconds more than the bare read of its bytes a page may take.
const GOAL_MORE_MS: f64 = 3.0;
/// How many times a hot page's time one from the cache may take.
const GOAL_WARM: f64 = 1.5;

/// Requests for pages.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Requests {
    pub(super) pages: u64,
    pub(super) gets: u64,
}

impl Requests {
    pub(super) fn each(self) -> f64 {
        self.gets as f64 / self.pages.max(1) as f64
    }
}

/// What was measured, in the runtime of the store.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figures {
    /// A page of rows.
    pub(super) hot: Reading,
    /// A page whose frame is in the cache.
    pub(super) warm: Reading,
    /// A page with nothing in the cache.
    pub(super) cold: Reading,
    /// The bytes of that page's frame, from the object store.
    pub(super) bare: Reading,
    /// A walk from the newest page to the oldest, with nothing in the cache at its start.
    pub(super) walk: Requests,
    /// Random pages with nothing in the cache and nothing read ahead: of one frame …
    pub(super) within: Requests,
    /// … of two that lie side by side …
    pub(super) across: Requests,
    /// … and of two in different objects.
    pub(super) apart: Requests,
    /// Many at once, of one frame.
    pub(super) crowd: Requests,
    pub(super) usage: Usage,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ColdReport {
    pub(super) scenario: &'static str,
    pub(super) machine: Machine,
    pub(super) messages: u64,
    pub(super) limit: u32,
    pub(super) figures: Figures,
    pub(super) verdicts: Vec<Verdict>,
}

pub(super) fn verdicts(figures: &Figures, readers: usize) -> Vec<Verdict> {
    let (cold, bare) = (figures.cold.p50.median, figures.bare.p50.median);
    let warm = figures.warm.p50.median / figures.hot.p50.median;
    let within = |requests: Requests| requests.each() <= GOAL_REQUESTS;
    vec![
        Verdict::new(
            format!(
                "at most {GOAL_REQUESTS:.1} requests a page, walking with nothing in the cache"
            ),
            format!("{:.3}", figures.walk.each()),
            within(figures.walk),
        ),
        Verdict::new(
            format!(
                "at most {GOAL_REQUESTS:.1} requests for a page of one object that is not in the cache"
            ),
            format!(
                "{:.3} for pages of one frame, {:.3} for the {} of {} pages that have two; {} pages were of two objects",
                figures.within.each(),
                figures.across.each(),
                figures.across.pages,
                figures.across.pages + figures.within.pages + figures.apart.pages,
                figures.apart.pages
            ),
            within(figures.within) && within(figures.across),
        ),
        Verdict::new(
            format!("a cold page: p50 within {GOAL_MORE_MS:.0} ms of the bare read of its bytes"),
            format!("{} ms, {} ms bare", milliseconds(cold), milliseconds(bare)),
            cold - bare <= GOAL_MORE_MS,
        ),
        Verdict::new(
            format!("a page from the cache: p50 at most {GOAL_WARM} times a hot page's"),
            format!("{warm:.2} times"),
            warm <= GOAL_WARM,
        ),
        Verdict::new(
            format!("{readers} readers of one frame at once cost one request"),
            format!("{}", figures.crowd.gets),
            figures.crowd.gets == 1,
        ),
    ]
}

impl Report for ColdReport {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    fn others_share(&self) -> f64 {
        self.figures.usage.others_share(self.machine.cores)
    }

    fn print(&self) {
        out::line(format_args!(
            "load:    an archived conversation of {} messages and a hot one like it; pages of {}\n",
            thousands(self.messages as f64),
            self.limit
        ));
        out::line(Reading::table([
            ("hot page", &self.figures.hot),
            ("page from the cache", &self.figures.warm),
            ("cold page", &self.figures.cold),
            ("bare read of its frames", &self.figures.bare),
        ]));
        let mut table = Table::new(["requests of the object store", "pages", "requests", "each"]);
        for (name, requests) in [
            ("walk", self.figures.walk),
            ("cold pages of one frame", self.figures.within),
            ("cold pages of two frames", self.figures.across),
            ("cold pages of two objects", self.figures.apart),
            ("readers of one frame at once", self.figures.crowd),
        ] {
            table.row(
                name,
                [
                    thousands(requests.pages as f64),
                    thousands(requests.gets as f64),
                    format!("{:.3}", requests.each()),
                ],
            );
        }
        out::line(&table);
    }
}
