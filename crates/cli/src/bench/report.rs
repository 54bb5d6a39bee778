//! What `bench` prints: llama-bench's columns, then memory, hits, bytes, the drive and the bound; and the floors that keep
//! the bound honest.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use outpour_engine::bound::BoundBy;
use outpour_engine::{Engine, Inspection, Options};
use outpour_kernels::cpu::default_threads;
use outpour_kernels::speed;
use outpour_store::bytes::Bytes;
use serde_json::{Value, json};

use super::{Repetition, Test};
use crate::args::TableForm;

/// What was measured, on what.
pub struct Subject {
    model: String,
    bytes: u64,
    parameters: u64,
    /// Bytes of weights that a token needs: the trunk's, and its experts'.
    token_bytes: [u64; 2],
    cold: bool,
    /// Tokens of a prompt that one sweep over the experts serves.
    sweep: usize,
    ram: u64,
    backend: String,
    threads: usize,
    /// `None` where it was not measured.
    memory_bytes_per_second: Option<f64>,
}

impl Subject {
    /// The model's part.
    ///
    /// # Errors
    /// As [`Inspection::parameters`].
    pub fn new(path: &Path, inspection: &Inspection, cold: bool) -> Result<Subject> {
        let (parameters, bytes) = inspection.parameters()?;
        let name = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        Ok(Subject {
            model: format!("{} {}", inspection.facts().family, name.unwrap_or_else(|| path.display().to_string())),
            bytes,
            parameters,
            token_bytes: inspection.token_bytes(),
            cold,
            sweep: usize::MAX,
            ram: 0,
            backend: String::new(),
            threads: 0,
            memory_bytes_per_second: None,
        })
    }

    /// How fast memory is read: before the model is loaded, and only where `--ram` has room to measure it.
    ///
    /// # Errors
    /// When there is no memory to read.
    pub fn measure_memory(&mut self, options: &Options) -> Result<()> {
        if options.ram >= 2 * speed::weights_bytes() {
            let threads = options.threads.unwrap_or_else(default_threads);
            self.memory_bytes_per_second = Some(speed::memory_read_bytes_per_second(threads)?);
        }
        Ok(())
    }

    /// The engine's part.
    pub fn describe_engine(&mut self, engine: &Engine) {
        self.ram = engine.plan().ram as u64;
        self.sweep = engine.sweep_tokens();
        self.backend = engine.describe();
        self.threads = engine.threads();
    }
}

/// The results.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

/// Means over the repetitions of a test.
struct Row {
    test: Test,
    repetitions: usize,
    tokens_per_second: f64,
    stddev: f64,
    seconds: f64,
    hit_rate: f64,
    bytes_read_per_token: f64,
    /// What of it was no expert's.
    trunk_read_per_token: f64,
    /// Of a token's experts, read or not.
    bytes_needed_per_token: f64,
    /// While reads were in flight.
    drive_bytes_per_second: f64,
    drive_limit: Option<f64>,
    /// The bound and what was reached of it; `None` where there were reads, and it is not known how fast they could be.
    bound_tokens_per_second: Option<f64>,
    percent_of_bound: Option<f64>,
    /// What it would be if the bound could be beaten.
    percent_by_sum: f64,
    /// Whether the drive gave more than was measured beside.
    limit_raised: bool,
    bound_by: BoundBy,
    trunk_seconds: f64,
    expert_seconds: f64,
    read_seconds: f64,
    blocked_seconds: f64,
    misses: f64,
    /// Experts read before they were asked for, and those of them that were.
    early: [f64; 2],
    lru_misses: f64,
    belady_misses: f64,
}

impl Row {
    fn new(test: Test, repetitions: &[Repetition]) -> Row {
        let n = repetitions.len() as f64;
        let tokens = test.tokens() as f64;
        let mean = |of: &dyn Fn(&Repetition) -> f64| repetitions.iter().map(of).sum::<f64>() / n;
        let rate = |r: &Repetition| tokens / r.time.as_secs_f64();
        let tokens_per_second = mean(&rate);
        let variance = mean(&|r| (rate(r) - tokens_per_second).powi(2)) * n / (n - 1.0).max(1.0);
        let seconds = mean(&|r| r.time.as_secs_f64());
        let bound_seconds = mean(&|r| r.bound.seconds);
        let beyond_seconds = mean(&|r| r.bound.beyond_seconds);
        let drive_limit = repetitions.iter().map(|r| r.drive_limit).sum::<Option<f64>>().map(|sum| sum / n);
        let is_known = drive_limit.is_some() || repetitions.iter().all(|r| r.stream.read_bytes == 0);
        let used = mean(&|r| (r.stream.hits + r.stream.misses) as f64);
        // The middle repetition's: a mean of words there is not.
        let mut by_time: Vec<&Repetition> = repetitions.iter().collect();
        by_time.sort_by_key(|r| r.time);
        Row {
            test,
            repetitions: repetitions.len(),
            tokens_per_second,
            stddev: variance.sqrt(),
            seconds,
            hit_rate: mean(&|r| r.stream.hits as f64) / used.max(1.0),
            bytes_read_per_token: mean(&|r| r.drive_bytes as f64) / tokens,
            trunk_read_per_token: mean(&|r| r.stream.trunk_bytes as f64) / tokens,
            bytes_needed_per_token: mean(&|r| r.stream.needed_bytes as f64) / tokens,
            drive_bytes_per_second: mean(&|r| r.stream.read_bytes as f64)
                / mean(&|r| r.stream.reading.as_secs_f64()).max(1e-9),
            drive_limit,
            // Beside a mean of rates, as much more as there was to gain.
            bound_tokens_per_second: is_known.then_some(tokens_per_second * seconds / bound_seconds),
            percent_of_bound: is_known.then_some(100.0 * (bound_seconds / seconds)),
            percent_by_sum: 100.0 * ((bound_seconds + beyond_seconds) / seconds),
            limit_raised: repetitions.iter().any(|r| r.limit_raised),
            bound_by: by_time[by_time.len() / 2].bound.by,
            trunk_seconds: mean(&|r| r.bound.trunk_seconds),
            expert_seconds: mean(&|r| r.bound.expert_seconds),
            read_seconds: mean(&|r| r.stream.reading.as_secs_f64()),
            blocked_seconds: mean(&|r| r.bound.blocked_seconds),
            misses: mean(&|r| r.stream.misses as f64),
            early: [mean(&|r| r.stream.early as f64), mean(&|r| r.stream.early_used as f64)],
            lru_misses: mean(&|r| r.lru_misses as f64),
            belady_misses: mean(&|r| r.belady_misses as f64),
        }
    }

    /// Bytes that other choices of what to keep would have read for each token.
    fn with_misses(&self, misses: f64) -> f64 {
        let experts = self.bytes_read_per_token - self.trunk_read_per_token;
        self.trunk_read_per_token + if self.misses == 0.0 { 0.0 } else { experts * misses / self.misses }
    }

    /// Seconds of the test if every byte of weights came once at the memory's speed.
    fn memory_seconds(&self, subject: &Subject) -> Option<f64> {
        let tokens = self.test.tokens() as f64;
        let trunk = subject.token_bytes[0] as f64;
        let bytes = match self.test {
            Test::Prompt(_) => trunk + self.bytes_needed_per_token * tokens,
            Test::Generate(_) => (trunk + self.bytes_needed_per_token) * tokens,
        };
        Some(bytes / subject.memory_bytes_per_second?)
    }

    fn json(&self, subject: &Subject) -> Value {
        json!({
            "model": subject.model,
            "model_bytes": subject.bytes,
            "model_parameters": subject.parameters,
            "backend": subject.backend,
            "threads": subject.threads,
            "start": if subject.cold { "cold" } else { "warm" },
            "test": self.test.name(),
            "tokens": self.test.tokens(),
            "repetitions": self.repetitions,
            "tokens_per_second": self.tokens_per_second,
            "stddev": self.stddev,
            "ram_bytes": subject.ram,
            "hit_rate": self.hit_rate,
            "experts_missing_per_token": self.misses / self.test.tokens() as f64,
            "experts_read_early_per_token": self.early[0] / self.test.tokens() as f64,
            "experts_used_of_those_per_token": self.early[1] / self.test.tokens() as f64,
            "bytes_needed_per_token": self.bytes_needed_per_token,
            "bytes_read_per_token": self.bytes_read_per_token,
            "bytes_read_per_token_lru": self.with_misses(self.lru_misses),
            "bytes_read_per_token_belady": self.with_misses(self.belady_misses),
            "drive_bytes_per_second": self.drive_bytes_per_second,
            "drive_limit_bytes_per_second": self.drive_limit,
            "memory_bytes_per_second": subject.memory_bytes_per_second,
            "bound_tokens_per_second": self.bound_tokens_per_second,
            "percent_of_bound": self.percent_of_bound,
            "percent_of_bound_by_sum": self.percent_of_bound.map(|_| self.percent_by_sum),
            "drive_limit_raised": self.limit_raised,
            "bound_by": self.bound_by.name(),
            "seconds": self.seconds,
            "trunk_seconds": self.trunk_seconds,
            "expert_seconds": self.expert_seconds,
            "read_seconds": self.read_seconds,
            "blocked_seconds": self.blocked_seconds,
            "memory_seconds": self.memory_seconds(subject),
        })
    }
}

impl Report {
    /// Adds a test's repetitions.
    pub fn add(&mut self, test: Test, repetitions: &[Repetition]) {
        if !repetitions.is_empty() {
            self.rows.push(Row::new(test, repetitions));
        }
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The report as text.
    ///
    /// # Errors
    /// When JSON cannot be made.
    pub fn text(&self, subject: &Subject, form: TableForm) -> Result<String> {
        Ok(match form {
            TableForm::Json => {
                let rows: Vec<Value> = self.rows.iter().map(|row| row.json(subject)).collect();
                serde_json::to_string_pretty(&rows)? + "\n"
            }
            TableForm::Md => self.markdown(subject),
        })
    }

    fn markdown(&self, subject: &Subject) -> String {
        let mut text = String::from(
            "| model | size | params | backend | threads | RAM | test | t/s | hit % | MB read/token | drive GB/s | limit GB/s \
             | bound t/s | % of bound | bound by |\n\
             |---|---:|---:|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---|\n",
        );
        let backend = subject.backend.split(',').next().unwrap_or_default();
        for row in &self.rows {
            let _ = writeln!(
                text,
                "| {} | {} | {:.2} B | {backend} | {} | {} | {} | {:.2} ± {:.2} | {:.0} | {:.1} | {:.2} | {} | {} | {} | {} |",
                subject.model,
                Bytes(subject.bytes),
                subject.parameters as f64 / 1e9,
                subject.threads,
                Bytes(subject.ram),
                row.test.name(),
                row.tokens_per_second,
                row.stddev,
                100.0 * row.hit_rate,
                row.bytes_read_per_token / 1e6,
                row.drive_bytes_per_second / 1e9,
                cell(row.drive_limit.map(|limit| limit / 1e9), 2),
                cell(row.bound_tokens_per_second, 2),
                cell(row.percent_of_bound, 0),
                row.bound_by.name(),
            );
        }
        for row in &self.rows {
            text += &row.sentences(subject);
        }
        text
    }
}

/// A number, where there is one.
fn cell(number: Option<f64>, digits: usize) -> String {
    number.map_or("–".to_owned(), |number| format!("{number:.digits$}"))
}

impl Row {
    /// What the numbers say, and the floors under the bound.
    fn sentences(&self, subject: &Subject) -> String {
        let milliseconds = |seconds: f64| 1e3 * seconds / self.test.tokens() as f64;
        let memory = subject.memory_bytes_per_second.zip(self.memory_seconds(subject));
        let memory = match memory {
            Some((speed, seconds)) => {
                let (speed, each) = (speed / 1e9, milliseconds(seconds));
                format!("the weights used, once through memory at {speed:.1} GB/s, take {each:.1} ms a token")
            }
            None => format!("memory's own is not measured below --ram {}", Bytes(2 * speed::weights_bytes() as u64)),
        };
        let sweeps = match (self.test.tokens().div_ceil(subject.sweep), self.test) {
            (sweeps @ 2.., Test::Prompt(_)) => format!(" in {sweeps} sweeps over the experts"),
            _ => String::new(),
        };
        let reached = match self.percent_of_bound {
            Some(percent) => format!(
                "{percent:.0} % of what this drive, this RAM and these routes allow{sweeps}; bound by {}{}{}",
                self.bound_by.phrase(),
                if self.percent_by_sum >= 100.5 {
                    format!(
                        " (reads ahead of the router went on behind the trunk; without those {:.0} % of this speed was possible)",
                        1e4 / self.percent_by_sum
                    )
                } else {
                    String::new()
                },
                if self.limit_raised {
                    "; the drive gave more than was measured beside, and that is its limit here"
                } else {
                    ""
                },
            ),
            None => {
                "weights outside experts were read, and how fast the drive could give those is not measured".to_owned()
            }
        };
        let ahead = match self.early {
            [early, used] if early > 0.0 => {
                let (of, right) = (100.0 * used / self.misses.max(1.0), 100.0 * used / early);
                format!(
                    " Of the experts missing {of:.0} % were read ahead of their use, and {right:.0} % of what was read so was used."
                )
            }
            _ => String::new(),
        };
        format!(
            "\n{} ({}): {reached}. For each token: trunk {:.1} ms, \
             experts {:.1} ms, reads in flight {:.1} ms, waited for {:.1} ms.{ahead}\n\
             Floors: these routes read {:.1} MB a token with the least recently used expert first out, {:.1} MB with a known \
             future ({:.1} MB were read); {memory}.\n",
            self.test.name(),
            if subject.cold { "cold" } else { "warm" },
            milliseconds(self.trunk_seconds),
            milliseconds(self.expert_seconds),
            milliseconds(self.read_seconds),
            milliseconds(self.blocked_seconds),
            self.with_misses(self.lru_misses) / 1e6,
            self.with_misses(self.belady_misses) / 1e6,
            self.bytes_read_per_token / 1e6,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outpour_engine::LayerCost;
    use outpour_engine::bound::Account;
    use outpour_model::experts::StreamStats;

    use super::*;

    /// A token whose reading, at the limit, takes longer than all of it did.
    #[test]
    fn no_row_is_above_its_bound_and_one_that_beat_the_sum_says_so() {
        let ms = Duration::from_millis;
        let stream = StreamStats { read_bytes: 90_000, computing: ms(20), blocked: ms(50), ..StreamStats::default() };
        let mut account = Account::default();
        account.add(&LayerCost { layer: 0, batch_tokens: 1, prompt: false, time: ms(100), stream });
        let repetition = |limit: f64, limit_raised| Repetition {
            time: ms(100),
            bound: account.bound(ms(100), limit),
            stream,
            drive_bytes: 90_000,
            drive_limit: Some(limit),
            limit_raised,
            lru_misses: 1,
            belady_misses: 1,
        };
        let subject = Subject {
            model: String::new(),
            bytes: 0,
            parameters: 0,
            token_bytes: [0, 0],
            cold: false,
            sweep: usize::MAX,
            ram: 0,
            backend: String::new(),
            threads: 1,
            memory_bytes_per_second: None,
        };
        // 30 ms of trunk and 90 of reading.
        let row = Row::new(Test::Generate(1), &[repetition(1e6, false)]);
        assert_eq!(row.percent_of_bound, Some(100.0));
        assert!((row.percent_by_sum - 120.0).abs() < 1e-6, "{}", row.percent_by_sum);
        let said = row.sentences(&subject);
        assert!(
            said.contains("100 % of what this drive") && said.contains("without those 83 % of this speed"),
            "{said}"
        );
        // A repetition that beat its bound does not make up for one that did not reach its own.
        let row = Row::new(Test::Generate(1), &[repetition(1e6, false), repetition(3e6, true)]);
        assert!((row.percent_of_bound.expect("a bound") - 80.0).abs() < 1e-6, "{:?}", row.percent_of_bound);
        assert!(row.sentences(&subject).contains("gave more than was measured"));
        let row = Row::new(Test::Generate(1), &[repetition(3e6, false)]);
        assert!(!row.sentences(&subject).contains("ahead of the router"));
    }
}
