//! For tests: connections whose accesses wait for their turn ([`crate::steps`]).

use super::connection::Raw;
use super::{Connection, Value};
use crate::error::Result;
use crate::steps::{Access, Stepped, block_on};

impl Connection {
    /// Before a statement: its turn, unless it is part of a transaction.
    pub(super) async fn turn(&self, statement: &str) {
        if let Some(stepped) = &self.stepped
            && !self.in_transaction
        {
            stepped.turn(Access::Statement(statement)).await;
        }
    }

    /// Before a statement that reads.
    pub(super) async fn read(&self, statement: &str, args: &[Value<'_>]) {
        self.turn(statement).await;
        if let Some(stepped) = &self.stepped {
            stepped.ran(statement, args, None);
        }
    }

    /// After a statement that may have written.
    pub(super) fn wrote(&self, statement: &str, args: &[Value<'_>], done: &Result<u64>) {
        if let Some(stepped) = &self.stepped {
            stepped.ran(statement, args, done.as_ref().ok().copied());
        }
    }

    /// Before a transaction begins.
    pub(super) async fn turn_of_transaction(&self, access: Access<'_>) {
        if let Some(stepped) = &self.stepped {
            stepped.turn(access).await;
        }
    }

    /// After a transaction.
    pub(super) fn ended(&self, committed: bool) {
        if let Some(stepped) = &self.stepped {
            stepped.ended(committed);
        }
    }
}

impl Raw {
    /// Back to its pool before anything else runs, what was under way undone.
    pub(super) fn give_back(mut self, stepped: &Stepped, in_transaction: bool) {
        let undone = !in_transaction || block_on(self.undo()).is_ok();
        if in_transaction {
            stepped.ended(false);
        }
        if !undone {
            self.discard(false);
        }
    }

    async fn undo(&mut self) -> sqlx::Result<()> {
        let undo = sqlx::raw_sql("ROLLBACK");
        match self {
            Self::MySql(connection) => undo.execute(&mut **connection).await.map(drop),
            Self::Sqlite(connection) => undo.execute(&mut **connection).await.map(drop),
        }
    }
}
