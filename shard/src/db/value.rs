//! Values that are bound to a statement.

/// A query with `$args` bound to it.
macro_rules! bound {
    ($sql:expr, $args:expr) => {{
        let mut query = sqlx::query(sqlx::AssertSqlSafe($sql));
        for arg in $args {
            query = match *arg {
                $crate::db::Value::Null => query.bind(None::<i64>),
                $crate::db::Value::Int(value) => query.bind(value),
                $crate::db::Value::Bytes(value) => query.bind(value),
                $crate::db::Value::Text(value) => query.bind(value),
            };
        }
        query
    }};
}

pub(super) use bound;

/// A value to bind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// A counter, a time, a code.
    Int(i64),
    /// A key or an id.
    Bytes(&'a [u8]),
    /// Text.
    Text(&'a str),
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(value)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Value<'a> {
    fn from(value: &'a [u8; N]) -> Self {
        Self::Bytes(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// An array of [`Value`]s from whatever each entry converts from.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        [$($crate::db::Value::from($value)),*]
    };
}
pub(crate) use values;

macro_rules! wrapper_values {
    ($($int:ty),*; $($bytes:ty),*) => {
        $(impl From<$int> for Value<'_> {
            fn from(value: $int) -> Self {
                Self::Int(value.as_i64())
            }
        })*
        $(impl<'a> From<&'a $bytes> for Value<'a> {
            fn from(value: &'a $bytes) -> Self {
                Self::Bytes(value.as_ref())
            }
        })*
    };
}

wrapper_values!(crate::ids::Seq, crate::ids::Rev, crate::ids::Epoch, crate::ids::NotificationId, crate::ids::ReportId, crate::ids::Incarnation; crate::ids::ConversationId, crate::ids::MediaId, crate::ids::UserId);
