//! Counters, gauges and histograms, and the tables that name them.
//!
//! A crate lists its metrics once, with [`metric_table!`](crate::metric_table); code uses the constants of that table, so that
//! nothing is counted under another name, with other labels or as another kind than the documentation says.

use metrics::{Key, Label, Level, Metadata, SharedString, Unit, with_recorder};

/// All that is known of a metric without its values.
#[derive(Debug)]
pub struct Description {
    /// Its name, which begins with `backscroll_`.
    pub name: &'static str,
    /// How its values come about.
    pub kind: Kind,
    /// What a value of 1 is: a second, a byte, or one of what is counted.
    pub unit: Unit,
    /// The names of its labels, in the order in which code gives their values.
    pub labels: &'static [&'static str],
    /// Its meaning, for operators.
    pub help: &'static str,
    /// When operators have to look, if its value can say that.
    pub alert: Option<&'static str>,
}

/// How a metric's values come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from 0 at the start of the process.
    Counter,
    /// The latest of values that rise and fall.
    Gauge,
    /// The distribution of many values.
    Histogram,
}

impl Description {
    /// Gives the metric's unit and meaning to the process's recorder.
    pub fn describe(&self) {
        let (name, unit, help) = (self.name.into(), Some(self.unit), self.help.into());
        with_recorder(|recorder| match self.kind {
            Kind::Counter => recorder.describe_counter(name, unit, help),
            Kind::Gauge => recorder.describe_gauge(name, unit, help),
            Kind::Histogram => recorder.describe_histogram(name, unit, help),
        });
    }

    fn key(&self, values: impl IntoIterator<Item = SharedString>) -> Key {
        let labels = self.labels.iter().zip(values);
        let labels: Vec<Label> = labels
            .map(|(label, value)| Label::new(*label, value))
            .collect();
        Key::from_parts(self.name, labels)
    }
}

const METADATA: Metadata<'static> = Metadata::new("backscroll", Level::INFO, None);

macro_rules! kind {
    ($(#[$doc:meta])* $kind:ident, $register:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $kind<const LABELS: usize> {
            key: Key,
            description: Description,
        }

        impl<const LABELS: usize> $kind<LABELS> {
            /// For [`metric_table!`](crate::metric_table).
            ///
            /// # Panics
            /// When `description` is about another kind, or has another number of labels: the table does not compile then.
            #[must_use]
            pub const fn new(description: Description) -> Self {
                assert!(matches!(description.kind, Kind::$kind));
                assert!(description.labels.len() == LABELS);
                let key = Key::from_static_name(description.name);
                Self { key, description }
            }

            /// All that is known of it.
            #[must_use]
            pub const fn description(&self) -> &Description {
                &self.description
            }

            /// Its name.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                self.description.name
            }

            /// The series with these labels' values. To be kept where it is used often.
            pub fn with<V: Into<SharedString>>(&self, values: [V; LABELS]) -> ::metrics::$kind {
                let key = self.description.key(values.into_iter().map(Into::into));
                with_recorder(|recorder| recorder.$register(&key, &METADATA))
            }
        }

        impl $kind<0> {
            /// Its only series. To be kept where it is used often.
            pub fn series(&self) -> ::metrics::$kind {
                with_recorder(|recorder| recorder.$register(&self.key, &METADATA))
            }
        }
    };
}

kind! {
    /// A number that only grows.
    Counter, register_counter
}
kind! {
    /// A number that rises and falls.
    Gauge, register_gauge
}
kind! {
    /// A distribution of numbers.
    Histogram, register_histogram
}

impl Counter<0> {
    /// Counts `more`.
    pub fn increment(&self, more: u64) {
        self.series().increment(more);
    }
}

impl Gauge<0> {
    /// Makes `value` its value.
    pub fn set(&self, value: f64) {
        self.series().set(value);
    }
}

impl Histogram<0> {
    /// Takes `value` into the distribution.
    pub fn record(&self, value: f64) {
        self.series().record(value);
    }
}

/// A crate's metrics: a constant for each, and `ALL` of their [`Description`]s.
///
/// A row is `KIND CONSTANT = "name" [labels] Unit, "meaning"`, and `, alert "condition"` where operators have to act.
#[macro_export]
macro_rules! metric_table {
    ($($kind:ident $id:ident = $name:literal [$($label:ident),*] $unit:ident, $help:literal $(, alert $alert:literal)?;)*) => {
        $(
            #[doc = concat!("`", $name, "`: ", $help)]
            pub static $id: $crate::metrics::$kind<{ <[&str]>::len(&[$(stringify!($label)),*]) }> =
                $crate::metrics::$kind::new($crate::metrics::Description {
                    name: $name,
                    kind: $crate::metrics::Kind::$kind,
                    unit: $crate::metrics::Unit::$unit,
                    labels: &[$(stringify!($label)),*],
                    help: $help,
                    alert: $crate::metric_table!(@alert $($alert)?),
                });
        )*

        /// All metrics of this crate.
        pub static ALL: &[&$crate::metrics::Description] = &[$($id.description()),*];
    };
    (@alert) => { None };
    (@alert $alert:literal) => { Some($alert) };
}
