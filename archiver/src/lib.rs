//! The archive tier: what is older than the hot rows, on an object store, in files that plain tools read.
//!
//! | module | what it holds |
//! |---|---|
//! | [`object_store`] | named byte strings that are created once and never changed: on disk or in S3 |
//! | [`segment`] | the files of archived messages: written, read, checked |

pub mod object_store;
pub mod segment;
