//! The `backscroll` command.

/// A request makes some hundred small allocations; the system's allocator took 19 % of the router's time under load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    backscroll::cli::main()
}
