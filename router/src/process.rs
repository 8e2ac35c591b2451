//! What the process takes of its machine, as Linux tells it in `/proc`.

use std::fs;

use crate::metrics;

/// Ticks a second of the times in `/proc/self/stat`: `USER_HZ`, which is 100 on every platform.
const TICKS_A_SECOND: f64 = 100.0;

/// Sets the gauges of the process; to be called when metrics are asked for. One that cannot be read keeps its value.
pub fn measure() {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(ticks) = cpu_ticks(&stat) {
        metrics::PROCESS_CPU_SECONDS.set(ticks / TICKS_A_SECOND);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kibibytes) = resident_kibibytes(&status) {
        metrics::PROCESS_MEMORY_BYTES.set(kibibytes * 1024.0);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        metrics::PROCESS_FILES.set(files.count() as f64);
    }
}

/// `utime` and `stime`, the 14th and 15th field. The second is the program's name in parentheses, and may have spaces.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn resident_kibibytes(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_measured() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        assert_eq!(cpu_ticks(stat), Some(300.0));
        assert_eq!(
            resident_kibibytes("VmPeak:\t 9 kB\nVmRSS:\t  123 kB\n"),
            Some(123.0)
        );
        assert!(cpu_ticks(&fs::read_to_string("/proc/self/stat").unwrap()).is_some());
        assert!(
            resident_kibibytes(&fs::read_to_string("/proc/self/status").unwrap()) > Some(1000.0)
        );
        assert_eq!((cpu_ticks(""), resident_kibibytes("")), (None, None));
    }
}
