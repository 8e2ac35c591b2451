//! Rows of an answer, and their columns by type. A column that holds something else than its table says is
//! [`Error::Corrupt`].

use sqlx::Row as _;
use sqlx::mysql::MySqlRow;
use sqlx::sqlite::SqliteRow;

use crate::error::{Error, Result};

/// A row of an answer.
#[derive(Debug)]
pub enum Row {
    /// From MySQL or MariaDB.
    MySql(MySqlRow),
    /// From SQLite.
    Sqlite(SqliteRow),
}

macro_rules! getter {
    ($(#[$doc:meta])* $name:ident, $optional:ident, $type:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// When the column is not there, is NULL, or does not hold this type.
        pub fn $name(&self, column: usize) -> Result<$type> {
            match self {
                Self::MySql(row) => row.try_get_unchecked(column),
                Self::Sqlite(row) => row.try_get_unchecked(column),
            }
            .map_err(|error| unreadable(column, &error))
        }

        /// The same, `None` for NULL.
        ///
        /// # Errors
        /// When the column is not there, or does not hold this type.
        pub fn $optional(&self, column: usize) -> Result<Option<$type>> {
            match self {
                Self::MySql(row) => row.try_get_unchecked(column),
                Self::Sqlite(row) => row.try_get_unchecked(column),
            }
            .map_err(|error| unreadable(column, &error))
        }
    };
}

impl Row {
    getter! {
        /// An integer column.
        int, opt_int, i64
    }
    getter! {
        /// A binary column.
        bytes, opt_bytes, Vec<u8>
    }
    getter! {
        /// A text column.
        text, opt_text, String
    }

    /// Its columns one after the other, from the first.
    #[must_use]
    pub fn columns(&self) -> Columns<'_> {
        self.columns_from(0)
    }

    /// The same, from the column `first` (0 is the first) on.
    #[must_use]
    pub fn columns_from(&self, first: usize) -> Columns<'_> {
        Columns {
            row: self,
            next: first,
        }
    }

    /// A column with eight bytes: a key.
    ///
    /// # Errors
    /// When it is not that.
    pub fn key(&self, column: usize) -> Result<crate::ids::UserKey> {
        crate::ids::UserKey::from_bytes(&self.bytes(column)?)
            .ok_or_else(|| corrupt("a key does not have 8 bytes"))
    }

    /// A column with a conversation id.
    ///
    /// # Errors
    /// When it is not that.
    pub fn conversation(&self, column: usize) -> Result<crate::ids::ConversationId> {
        let bytes = self.bytes(column)?;
        crate::ids::ConversationId::from_bytes(&bytes)
            .ok_or_else(|| corrupt("a conversation id does not have 16 bytes"))
    }

    /// A column with a user id.
    ///
    /// # Errors
    /// When it is not that.
    pub fn user(&self, column: usize) -> Result<crate::ids::UserId> {
        user_from(self.bytes(column)?)
    }

    /// A column with a user id or NULL.
    ///
    /// # Errors
    /// When it is neither.
    pub fn opt_user(&self, column: usize) -> Result<Option<crate::ids::UserId>> {
        self.opt_bytes(column)?.map(user_from).transpose()
    }
}

/// The columns of a row in the order in which its statement selects them: each getter reads the next one, with the errors of
/// [`Row`]'s getter of that name. So the part of a row that belongs to one struct is read by that struct alone, wherever it
/// begins.
#[derive(Debug)]
pub struct Columns<'a> {
    row: &'a Row,
    next: usize,
}

macro_rules! next_getters {
    ($($name:ident: $type:ty),* $(,)?) => {
        $(
            #[doc = concat!("[`Row::", stringify!($name), "`] of the next column.")]
            ///
            /// # Errors
            /// As [`Row`]'s.
            pub fn $name(&mut self) -> Result<$type> {
                let column = self.next;
                self.next += 1;
                self.row.$name(column)
            }
        )*
    };
}

impl Columns<'_> {
    next_getters! {
        int: i64,
        opt_int: Option<i64>,
        bytes: Vec<u8>,
        opt_bytes: Option<Vec<u8>>,
        text: String,
        opt_text: Option<String>,
        key: crate::ids::UserKey,
        conversation: crate::ids::ConversationId,
        user: crate::ids::UserId,
        opt_user: Option<crate::ids::UserId>,
    }

    /// The next column, a number that is never below zero, such as a count or a digest's 64 bits.
    ///
    /// # Errors
    /// As [`Row::int`].
    pub fn unsigned(&mut self) -> Result<u64> {
        Ok(self.int()?.cast_unsigned())
    }
}

fn user_from(bytes: Vec<u8>) -> Result<crate::ids::UserId> {
    let text = String::from_utf8(bytes).map_err(|_| corrupt("a user id is not UTF-8"))?;
    crate::ids::UserId::new(text).map_err(|error| corrupt(error.0))
}

/// A column that the statement selects, but whose value is not of the type that its table gives it.
fn unreadable(column: usize, error: &sqlx::Error) -> Error {
    match error {
        sqlx::Error::ColumnIndexOutOfBounds { .. } | sqlx::Error::ColumnNotFound(_) => {
            Error::Unexpected("a column that was not selected")
        }
        _ => Error::corrupt(format_args!("column {column} of a row: {error}")),
    }
}

fn corrupt(what: &str) -> Error {
    Error::corrupt(what)
}
