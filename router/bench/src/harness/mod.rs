//! What every scenario stands on: databases of its own on the given server, the real router as a process, who used how
//! much processor time, and a description of the machine.

pub mod databases;
pub mod machine;
pub mod router;
pub mod usage;
