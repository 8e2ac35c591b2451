//! What every scenario stands on: databases of its own on the given server, the real router as a process, who used how
//! much processor time, and a description of the machine; a server that is HTTP and nothing else; for the archive, a bucket and threads beside the generator's; for
//! sockets, the baseline's processes and how many files may be open.

pub mod aside;
pub mod bare;
pub mod bucket;
pub mod databases;
pub mod limits;
pub mod machine;
pub mod memory;
pub mod node;
pub mod router;
pub mod usage;
