//! The archive tier: what is older than the hot rows, on an object store, in files that plain tools read.
//!
//! | module | what it holds |
//! |---|---|
//! | [`object_store`] | named byte strings that are created once and never changed: on disk or in S3 |
//! | [`segment`] | the files of archived messages: written, read, checked |
//! | [`terms`] | which frames of a segment have which words, for searches |
//! | `flights` | one fetch for callers that want the same at the same time |
//! | [`tier`] | cold reads: a page's archived part, cached and shared |
//! | [`jobs`] | the operators' jobs: archiving, erasing, verifying, restoring, collecting, rebuilding |
//! | [`audit_heads`] | heads of the audit log, out of the directory's reach |
//! | [`media`] | files of conversations: uploads, and what is checked of them |
//! | [`metrics`] | the metrics of this crate |
//! | [`settings`] | the configuration's section `archive` |

pub mod audit_heads;
mod flights;
pub mod jobs;
pub mod media;
pub mod metrics;
pub mod object_store;
pub mod segment;
pub mod settings;
pub mod terms;
pub mod tier;
