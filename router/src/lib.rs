//! The `backscroll` service: the HTTP API over the store, its configuration and its command line.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | the command line, one file a command |
//! | [`config`] | the configuration: file, environment, checks |
//! | [`boot`], [`deployment`] | from a configuration to a running service |
//! | [`auth`] | who calls: bearer tokens, their keys |
//! | [`http`] | the REST interface: routes, what goes in, what comes out, problems |
//! | [`openapi`], [`asyncapi`] | the documents that describe it, generated from the same types |
//! | [`server`] | connections, start and graceful stop |
//! | [`signals`] | SIGTERM and SIGINT, and the longest that a stop may take |
//! | `start_record` | what the audit log says of a node that starts |
//! | [`telemetry`] | logs and metrics |
//! | [`metrics`] | the metrics of this crate, and the list of all |
//! | [`process`] | what the process takes of its machine |
//! | [`in_use`] | one server at a time on embedded data |
//! | [`private`] | files that others on the machine cannot read |
//! | [`doctor`] | what is wrong with what the configuration names, and what to do |
//! | [`failpoint`] | faults that tests ask for: dying at a step of a job, tasks that panic |
//! | [`demo`] | a made-up history to try everything on |

pub mod asyncapi;
pub mod auth;
pub mod boot;
pub mod cli;
pub mod config;
pub mod demo;
pub mod deployment;
pub mod doctor;
pub mod failpoint;
pub mod http;
pub mod in_use;
pub mod metrics;
pub mod openapi;
pub mod private;
pub mod process;
pub mod server;
pub mod signals;
mod start_record;
pub mod telemetry;
