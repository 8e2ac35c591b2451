//! Several statements in one round trip.
//!
//! What waits for many small answers of a server waits for the way there and back, not for the server's work. Statements of which none
//! depends on the answer of another are sent together, as text with their values in it ([`super::mysql::as_text`]): nothing has to be
//! prepared first, and no other statement loses its place among the prepared ones. SQLite is in this process and runs them one by one.

use std::borrow::Cow;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Either};

use super::mysql;
use super::{Connection, Dialect, Row, Value};
use crate::error::{Error, Result};

/// Most bytes that are sent together, unless one statement alone is larger.
const BYTES: usize = 1 << 20;

/// A statement with its values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statement<'a> {
    pub(crate) text: Cow<'a, str>,
    pub(crate) args: Vec<Value<'a>>,
}

impl<'a> Statement<'a> {
    pub(crate) fn new(text: impl Into<Cow<'a, str>>, args: impl Into<Vec<Value<'a>>>) -> Self {
        Self {
            text: text.into(),
            args: args.into(),
        }
    }

    fn is_read(&self) -> bool {
        self.text.starts_with("SELECT")
    }
}

/// What a statement gave.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The rows of a SELECT.
    pub(crate) rows: Vec<Row>,
    /// How many rows another statement touched.
    pub(crate) changed: u64,
}

impl Connection {
    /// Runs `statements` in their order, up to the first that fails, and gives the answer of each. Outside a transaction each is one by
    /// itself.
    ///
    /// # Errors
    /// As [`Connection::fetch_all`]; those before the one that failed are done.
    pub(crate) async fn run_all(&mut self, statements: &[Statement<'_>]) -> Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(statements.len());
        match self.dialect() {
            Dialect::Sqlite => {
                for one in statements {
                    answers.push(self.run_one(one).await?);
                }
            }
            Dialect::MySql => {
                #[cfg(feature = "explain")]
                for one in statements {
                    self.explain(&one.text, &one.args).await?;
                }
                let mut text = String::new();
                let mut sent = 0;
                for one in statements {
                    let next = mysql::as_text(&Dialect::MySql.render(&one.text), &one.args);
                    if !text.is_empty() && text.len() + next.len() > BYTES {
                        let text = std::mem::take(&mut text);
                        self.send_together(text, &mut answers, sent).await?;
                    }
                    if !text.is_empty() {
                        text.push_str("; ");
                    }
                    text.push_str(&next);
                    sent += 1;
                }
                if !text.is_empty() {
                    self.send_together(text, &mut answers, sent).await?;
                }
            }
        }
        Ok(answers)
    }

    async fn run_one(&mut self, statement: &Statement<'_>) -> Result<Answer> {
        let (text, args) = (statement.text.as_ref(), statement.args.as_slice());
        let mut answer = Answer::default();
        match statement.is_read() {
            true => answer.rows = self.fetch_all(text, args).await?,
            false => answer.changed = self.execute(text, args).await?,
        }
        Ok(answer)
    }

    /// Sends `text`, after whose statements there are `expected` answers.
    async fn send_together(
        &mut self,
        text: String,
        answers: &mut Vec<Answer>,
        expected: usize,
    ) -> Result<()> {
        let found = self.answers_to(text).await?;
        answers.extend(found);
        match answers.len() == expected {
            true => Ok(()),
            false => Err(Error::Unexpected(
                "statements have other answers than one each",
            )),
        }
    }
}

/// The answers to several statements that are sent as one text.
pub(super) async fn answers(
    connection: &mut sqlx::MySqlConnection,
    text: String,
) -> sqlx::Result<Vec<Answer>> {
    let mut stream = sqlx::raw_sql(AssertSqlSafe(text)).fetch_many(connection);
    let (mut answers, mut rows) = (Vec::new(), Vec::new());
    while let Some(next) = stream.try_next().await? {
        match next {
            Either::Right(row) => rows.push(Row::MySql(row)),
            Either::Left(done) => answers.push(Answer {
                rows: std::mem::take(&mut rows),
                changed: done.rows_affected(),
            }),
        }
    }
    Ok(answers)
}
