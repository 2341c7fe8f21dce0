//! The record of `stoq-bench agree` and its text. Figures come in; nothing is measured here.

use serde::{Deserialize, Serialize};

use crate::host::Fingerprint;

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.agree/1";

/// So many validators. The first fields are what a gate reads.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Row {
    /// Validators
    pub n: usize,
    /// Final and durable operations a second, at the client
    pub operations_per_second: f64,
    /// From an operation's instant to its being final, at half load
    pub finality_p50_ms: f64,
    /// The same
    pub finality_p99_ms: f64,
    /// Judging four proofs against the state
    pub proof_verify_us: f64,
    /// Judging a ticket's use against the state
    pub ticket_verify_us: f64,
    /// Judging a receipt with nothing but the genesis
    pub receipt_cold_us: f64,
    /// Judging a receipt of a block that is known to be final
    pub receipt_warm_us: f64,
    /// Octets of that receipt
    pub receipt_bytes: usize,
    /// From a validator's first vote that contradicts another of its own to its conviction by all honest ones, the slowest;
    /// null where none may be faulty
    pub byzantine_named_ms: Option<f64>,
    /// How many voted twice
    pub byzantine: usize,
    /// Operations that became final at full load
    pub committed: u64,
    /// Operations that were refused
    pub refused: u64,
    /// Final blocks at full load
    pub blocks: u64,
    /// Processor time of all processes per operation at full load, the client's too, divided by the validators
    pub cpu_us_per_operation_and_validator: f64,
    /// The part of the host's processors that these processes used at full load: near 1 they are what binds
    pub processors_busy: f64,
    /// Operations a second that were asked for at half load
    pub half_per_second: f64,
}

/// A whole run
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct AgreeReport {
    /// One for each number of validators
    pub rows: Vec<Row>,
    /// [`SCHEMA`]
    pub schema: String,
    /// The host
    pub host: Fingerprint,
    /// Where the journals were
    pub directory: String,
    /// What the figures mean
    pub notes: Vec<String>,
}

impl AgreeReport {
    /// Whether something was agreed on in every row and nothing was refused
    pub fn is_sound(&self) -> bool {
        self.rows.iter().all(|row| row.committed > 0 && row.refused == 0)
    }

    /// For people
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.rows.iter().map(Row::line).collect();
        lines.extend(self.notes.iter().map(|note| format!("  {note}")));
        lines
    }
}

impl Row {
    fn line(&self) -> String {
        let named = self.byzantine_named_ms.map_or_else(
            || "none may be faulty".to_owned(),
            |named| format!("{} faulty named in {named:.0} ms", self.byzantine),
        );
        format!(
            "n = {}: {:.0} operations/s, {:.0} us of processor time each and validator, {:.0} % of the \
             processors busy; final after p50 {:.1} ms, p99 {:.1} \
             ms at {:.0}/s; proof {:.0} us, ticket {:.0} us, receipt cold {:.0} us, warm {:.2} us; {named}",
            self.n,
            self.operations_per_second,
            self.cpu_us_per_operation_and_validator,
            100.0 * self.processors_busy,
            self.finality_p50_ms,
            self.finality_p99_ms,
            self.half_per_second,
            self.proof_verify_us,
            self.ticket_verify_us,
            self.receipt_cold_us,
            self.receipt_warm_us,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_with_refusals_or_without_operations_is_not_sound() {
        let row = Row {
            n: 4,
            operations_per_second: 1.0,
            finality_p50_ms: 1.0,
            finality_p99_ms: 2.0,
            proof_verify_us: 1.0,
            ticket_verify_us: 1.0,
            receipt_cold_us: 1.0,
            receipt_warm_us: 1.0,
            receipt_bytes: 1,
            byzantine_named_ms: Some(7.0),
            byzantine: 1,
            committed: 5,
            refused: 0,
            blocks: 1,
            cpu_us_per_operation_and_validator: 1.0,
            processors_busy: 0.5,
            half_per_second: 1.0,
        };
        let report = |row: Row| AgreeReport {
            rows: vec![row],
            schema: SCHEMA.into(),
            host: Fingerprint::read().unwrap(),
            directory: String::new(),
            notes: Vec::new(),
        };
        assert!(report(row.clone()).is_sound());
        assert!(row.line().contains("1 faulty named in 7 ms"));
        assert!(!report(Row { refused: 1, ..row.clone() }).is_sound());
        assert!(!report(Row { committed: 0, ..row }).is_sound());
    }
}
