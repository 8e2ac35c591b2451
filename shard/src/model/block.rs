//! Whom a user blocks.

use serde::Serialize;
use utoipa::ToSchema;

use crate::ids::UserId;

/// A page of the users whom a user blocks, by id.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockList {
    /// Whom I block.
    pub users: Vec<UserId>,
    /// Pass it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
