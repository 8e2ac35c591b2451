//! Entities, as moves see them: whose rows are whose.

use super::rows::Cell;
use super::tables::{Owner, Table};
use crate::error::{Error, Result};
use crate::ids::{ConversationId, UserId, UserKey};
use crate::owned::Entity;

impl Entity {
    /// The entity to which a row belongs.
    pub(crate) fn of(table: &Table, key: &[Cell]) -> Result<Self> {
        let corrupt = || Error::corrupt(format_args!("a key of {}", table.name));
        match (table.owner, key) {
            (Owner::Conversation, [Cell::Bytes(id), ..]) => ConversationId::from_bytes(id)
                .map(Self::Conversation)
                .ok_or_else(corrupt),
            (Owner::User, [Cell::Bytes(key), Cell::Bytes(id), ..]) => {
                let key = UserKey::from_bytes(key).ok_or_else(corrupt)?;
                let id = String::from_utf8(id.clone()).map_err(|_| corrupt())?;
                Ok(Self::User(key, UserId::new(id).map_err(|_| corrupt())?))
            }
            _ => Err(corrupt()),
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        match self {
            Self::Conversation(_) => Owner::Conversation,
            Self::User(..) => Owner::User,
        }
    }

    /// The beginning of its rows' primary keys.
    pub(crate) fn prefix(&self) -> Vec<Cell> {
        match self {
            Self::Conversation(id) => vec![Cell::Bytes(id.as_bytes().to_vec())],
            Self::User(key, id) => vec![
                Cell::Bytes(key.to_bytes().to_vec()),
                Cell::Bytes(id.as_str().as_bytes().to_vec()),
            ],
        }
    }
}

impl std::fmt::Display for Entity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Conversation(id) => write!(f, "conversation {id}"),
            Self::User(_, id) => write!(f, "user {}", id.as_str()),
        }
    }
}
