//! The dialect seam: one set of statements for SQLite, MySQL and MariaDB.
//!
//! Statements are written once, with `?` for every value and these words where the dialects differ:
//!
//! | word | MySQL, MariaDB | SQLite |
//! |---|---|---|
//! | `{for_update}` | `FOR UPDATE` | nothing: a write transaction is alone |
//! | `{for_share}` | `LOCK IN SHARE MODE` | nothing |
//! | `{on_duplicate pk}` | `ON DUPLICATE KEY UPDATE` | `ON CONFLICT (pk) DO UPDATE SET` |
//! | `{new column}` | `VALUES(column)` | `excluded.column` |
//! | `{greatest}` | `GREATEST` | `MAX` |
//! | `{rows}` | nothing: `(a, b) IN ((?, ?), (?, ?))` | `VALUES` |
//! | `{part}` | nothing: `(SELECT … LIMIT ?) UNION ALL (SELECT …)` | `SELECT * FROM` before each of the two |
//! | `{signed}` | `SIGNED` | `INTEGER` |
//! | `{now}` | the database's clock, in milliseconds since 1970 | the same; it is this machine's |
//! | `{this_server}` | its host's name and port: which of a cluster's servers this one is | nothing, as text |
//! | `{by index}` | `FORCE INDEX (index)`: a long list must not turn into a scan | nothing: it never does |
//!
//! Every value is bound, never written into the text. Keys and ids are bytes in big-endian order and counters are
//! signed 64-bit integers, so that both dialects sort alike.
//!
//! A connection is asked for with a deadline, which then holds for every statement on it. Dropped in the middle of a
//! transaction it rolls back, dropped in the middle of a statement it is closed: nothing half-done is ever seen.
//!
//! A database that is opened under an identity is asked for it by every new connection; see `guard`.

mod batch;
mod connection;
mod database;
mod dialect;
#[cfg(feature = "explain")]
pub mod explain;
mod guard;
pub mod identity;
mod lists;
mod mysql;
mod pool;
mod pools;
mod row;
mod sqlite;
#[cfg(feature = "steps")]
mod stepped;
mod value;

pub(crate) use self::batch::{Answer, Statement};
pub use self::connection::Connection;
pub(crate) use self::connection::{Failure, Observer};
pub use self::database::Database;
pub use self::dialect::Dialect;
pub(crate) use self::lists::{WRITE_ROWS, in_rows, pad, padded};
pub use self::lists::{list_size, placeholders, rows_of};
pub use self::row::{Columns, Row};
pub use self::value::Value;
pub(crate) use self::value::values;
