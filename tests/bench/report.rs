//! What was measured, as JSON and as tables.

use std::{fmt::Write as _, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    api::{Requests, total},
    handover::Handover,
    plot,
    storm::Storm,
};

/// Everything that one run measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) syncs: Vec<Sync>,
    pub(crate) heap: Heap,
    pub(crate) rest: Rest,
    pub(crate) restart: Restart,
    pub(crate) others: Others,
    pub(crate) shared: Shared,
    pub(crate) handover: Handover,
    pub(crate) storm: Storm,
}

/// Where it was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value = line
                .unwrap_or_default()
                .trim_start_matches(['\t', ' ', ':']);
            value.to_owned()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kilobytes = memory.split(' ').next().and_then(|text| text.parse().ok());
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kilobytes.unwrap_or(0_u64).div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// A first sync of a fleet with a client for each resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sync {
    pub(crate) resources: usize,
    pub(crate) floor_seconds: f64,
    pub(crate) seconds: f64,
    pub(crate) api_requests: Requests,
    pub(crate) token_requests: usize,
    pub(crate) processor_seconds: f64,
    pub(crate) peak_bytes: u64,
    pub(crate) rest_bytes: u64,
}

impl Sync {
    fn ratio(&self) -> f64 {
        self.seconds / self.floor_seconds
    }

    fn each(&self, of: f64) -> f64 {
        of / self.resources as f64
    }
}

/// What each resource adds to the heap by a first sync.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Heap {
    pub(crate) allocated_bytes_each: u64,
    pub(crate) held_bytes_each: u64,
}

/// A minute in which nothing is due.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Rest {
    pub(crate) api_requests: u64,
    pub(crate) processor_percent: f64,
    pub(crate) wakeups_per_minute: f64,
}

/// A restart while all tokens are valid.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Restart {
    pub(crate) list_seconds: f64,
    pub(crate) ready_seconds: f64,
    pub(crate) token_requests: usize,
    pub(crate) api_requests: u64,
}

/// Secrets that no resource names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Others {
    pub(crate) secrets: usize,
    pub(crate) rest_bytes_before: u64,
    pub(crate) rest_bytes: u64,
    pub(crate) peak_bytes: u64,
}

/// A fleet that shares a few clients.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Shared {
    pub(crate) resources: usize,
    pub(crate) clients: usize,
    pub(crate) seconds: f64,
    pub(crate) token_requests: usize,
    pub(crate) processor_seconds: f64,
}

const BEGIN: &str = "<!-- make bench: begin -->\n";
const END: &str = "<!-- make bench: end -->\n";
const PAGE: &str = "performance.md";
const JSON: &str = "performance.json";
const PLOT: &str = "performance.svg";

impl Report {
    /// The slope of a straight line through the sizes, both in logarithms: 1 is linear.
    fn exponent(&self, of: impl Fn(&Sync) -> f64) -> f64 {
        let points = self.syncs.iter();
        let points = points.map(|sync| ((sync.resources as f64).ln(), of(sync).ln()));
        let points: Vec<_> = points.collect();
        let mean =
            |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / points.len() as f64;
        let x = mean(&mut points.iter().map(|(x, _)| *x));
        let y = mean(&mut points.iter().map(|(_, y)| *y));
        let along: f64 = points.iter().map(|(px, py)| (px - x) * (py - y)).sum();
        along / points.iter().map(|(px, _)| (px - x).powi(2)).sum::<f64>()
    }

    fn of(&self, resources: usize) -> &Sync {
        let found = self.syncs.iter().find(|sync| sync.resources == resources);
        found.unwrap()
    }

    /// The tables of the documentation.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        let Machine {
            processor,
            cores,
            memory_gib,
            kernel,
        } = &self.machine;
        let _ = writeln!(
            table,
            "{cores} cores ({processor}), {memory_gib} GiB, Linux {kernel}; etcd, the API server, the \
             controller manager and the simulated instance run on them, too.\n"
        );
        table += "| resources, a client each | floor | operator | ratio | API requests each | \
                  processor time each | peak memory | at rest |\n|---|---|---|---|---|---|---|---|\n";
        for sync in &self.syncs {
            let _ = writeln!(
                table,
                "| {} | {:.2} s | {:.2} s | {:.2} | {:.2} | {:.2} ms | {} | {} |",
                thousands(sync.resources),
                sync.floor_seconds,
                sync.seconds,
                sync.ratio(),
                sync.each(total(&sync.api_requests) as f64),
                sync.each(1000.0 * sync.processor_seconds),
                megabytes(sync.peak_bytes),
                megabytes(sync.rest_bytes),
            );
        }
        table += "\n| | measured | goal |\n|---|---|---|\n";
        for (what, measured, goal) in self.goals() {
            let _ = writeln!(table, "| {what} | {measured} | {goal} |");
        }
        table
    }

    fn goals(&self) -> Vec<(&'static str, String, &'static str)> {
        let Self {
            heap,
            rest,
            restart,
            others,
            shared,
            handover,
            storm,
            ..
        } = self;
        let (small, middle, large) = (self.of(100), self.of(3_000), self.of(10_000));
        let held = large.rest_bytes.saturating_sub(small.rest_bytes) / 9_900;
        let more = others.rest_bytes.saturating_sub(others.rest_bytes_before);
        vec![
            (
                "first sync of 3,000: time over the floor",
                format!("{:.2}", middle.ratio()),
                "≤ 1.3",
            ),
            (
                "API requests for each first sync, for each renewal",
                format!(
                    "{:.2}, {:.2}",
                    middle.each(total(&middle.api_requests) as f64),
                    storm.requests_each
                ),
                "≤ 3, ≤ 3",
            ),
            (
                "processor time for each first sync of 3,000, for each renewal",
                format!(
                    "{:.2} ms, {:.2} ms",
                    middle.each(1000.0 * middle.processor_seconds),
                    storm.processor_ms_each
                ),
                "≤ 1 ms",
            ),
            (
                "peak memory with 3,000, with 10,000",
                format!(
                    "{}, {}",
                    megabytes(middle.peak_bytes),
                    megabytes(large.peak_bytes)
                ),
                "≤ 40 MB, ≤ 80 MB",
            ),
            (
                "resident memory for each resource at rest (10,000 less 100)",
                format!("{held} bytes"),
                "",
            ),
            (
                "bytes allocated for each resource by its first sync, and held on the heap at rest",
                format!("{}, {}", heap.allocated_bytes_each, heap.held_bytes_each),
                "",
            ),
            (
                "50,000 Secrets that no resource names: more at rest",
                megabytes(more),
                "≤ 5 MB",
            ),
            (
                "growth from 100 to 10,000: exponent of time, of peak memory",
                format!(
                    "{:.2}, {:.2}",
                    self.exponent(|sync| sync.seconds),
                    self.exponent(|sync| sync.peak_bytes as f64)
                ),
                "≤ 1.05",
            ),
            (
                "a minute of rest with 10,000: API requests but lease and watches, processor, wake-ups",
                format!(
                    "{}, {:.2} % of a core, {:.0}",
                    rest.api_requests, rest.processor_percent, rest.wakeups_per_minute
                ),
                "0, < 0.5 %",
            ),
            (
                "restart with 10,000 valid tokens: token requests, API requests",
                format!("{}, {}", restart.token_requests, restart.api_requests),
                "0, 0",
            ),
            (
                "restart with 10,000: ready, and the list itself",
                format!(
                    "{:.2} s, {:.2} s",
                    restart.ready_seconds, restart.list_seconds
                ),
                "< 5 s beyond the list",
            ),
            (
                "10,000 resources on 10 clients: token requests",
                format!(
                    "{} (in {:.1} s, {:.2} ms of processor time each)",
                    shared.token_requests,
                    shared.seconds,
                    1000.0 * shared.processor_seconds / shared.resources as f64
                ),
                "≤ 20",
            ),
            (
                "a leader of 1,000 is stopped, 20 times: from SIGTERM to the Lease's next holder, to \
                 its first write (median, worst)",
                format!(
                    "{}; {}",
                    median_and_worst(&handover.lease_ms),
                    median_and_worst(&handover.write_ms)
                ),
                "≤ 1 s, ≤ 1 s",
            ),
            (
                "10,000 renewals due within a minute: done in a minute, expired, least left then",
                format!(
                    "{}, {}, {:.0} s",
                    storm.renewals, storm.expired, storm.least_left
                ),
                "0 expired",
            ),
            (
                "a resource created meanwhile, until its Secret: p50, p99",
                format!("{:.0} ms, {:.0} ms", storm.apply_p50_ms, storm.apply_p99_ms),
                "p99 ≤ 1 s",
            ),
        ]
    }

    /// Writes it into the documentation.
    pub(crate) fn write(&self, docs: &Path) {
        let json = serde_json::to_string_pretty(self).unwrap() + "\n";
        fs::write(docs.join(JSON), json).unwrap();
        fs::write(docs.join(PLOT), plot::svg(&self.syncs)).unwrap();
        let page = fs::read_to_string(docs.join(PAGE)).unwrap();
        fs::write(docs.join(PAGE), self.page(&page)).unwrap();
    }

    fn page(&self, page: &str) -> String {
        let (before, rest) = page.split_once(BEGIN).unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        format!("{before}{BEGIN}{}{END}{after}", self.table())
    }
}

/// The page and the plot are those of the report that stands beside them.
pub(crate) fn is_shown(docs: &Path) {
    let read = |name: &str| fs::read_to_string(docs.join(name)).unwrap();
    let report: Report = serde_json::from_str(&read(JSON)).unwrap();
    assert_eq!(read(PAGE), report.page(&read(PAGE)));
    assert_eq!(read(PLOT), plot::svg(&report.syncs));
}

/// Of milliseconds in their order.
fn median_and_worst(ms: &[f64]) -> String {
    let worst = ms.last().unwrap();
    format!("{:.0} ms, {worst:.0} ms", ms[ms.len() / 2])
}

/// Megabytes of a million bytes.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// With a comma between the thousands.
pub(crate) fn thousands(number: usize) -> String {
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", number / 1_000, number % 1_000),
    }
}
