//! One end of a run: differences of its samples, summed over its workers. What they mean for the run is
//! `report`'s.

use std::collections::BTreeMap;

use super::report::{CpuUse, Side, SideName, WorkerReport};
use crate::exchange::{Description, WorkerDescription};
use crate::process::{Sample, WorkerSample};

/// Two samples of one end and what it is
pub struct Ends<'a> {
    /// Before anything was sent
    pub first: &'a Sample,
    /// When the measured time began
    pub before: &'a Sample,
    /// When everything had arrived
    pub after: &'a Sample,
    /// What it is, asked at the end
    pub about: &'a Description,
    /// After that: what connections that still live have lost is counted when they are asked
    pub last: &'a Sample,
}

/// `part` over `whole`; absent of nothing
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn counter(worker: &WorkerSample, name: &str) -> u64 {
    worker.counters.get(name).copied().unwrap_or(0)
}

impl Ends<'_> {
    fn workers(&self) -> impl Iterator<Item = (WorkerSample, &WorkerDescription)> {
        let none = WorkerSample::default();
        let after = self.after.workers.iter().enumerate();
        after.zip(&self.about.workers).map(move |((index, after), about)| {
            let before = self.before.workers.get(index).unwrap_or(&none);
            let less = |after: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
                let old = |name: &String| before.get(name).copied().unwrap_or(0);
                let less = after.iter().map(|(n, v)| (n.clone(), v.saturating_sub(old(n))));
                less.collect()
            };
            let spent = WorkerSample {
                counters: less(&after.counters, &before.counters),
                stage_ns: less(&after.stage_ns, &before.stage_ns),
            };
            (spent, about)
        })
    }

    pub(super) fn sum(&self, name: &str) -> u64 {
        self.workers().map(|(worker, _)| counter(&worker, name)).sum()
    }

    /// A count from before the first flow octet to the end, warm-up included
    pub(super) fn over_the_run(&self, name: &str) -> u64 {
        let all = |sample: &Sample| -> u64 {
            sample.workers.iter().map(|worker| counter(worker, name)).sum()
        };
        all(self.last).saturating_sub(all(self.first))
    }

    /// Most packets that one connection's keys protected
    pub(super) fn packets_per_key(&self) -> u64 {
        let most = |worker| counter(worker, "packets_per_key_most");
        self.last.workers.iter().map(most).max().unwrap_or(0)
    }

    /// Time of a stage of the workers' loops
    pub(super) fn stage_ns(&self, name: &str) -> u64 {
        let stage = |worker: WorkerSample| worker.stage_ns.get(name).copied().unwrap_or(0);
        self.workers().map(|(worker, _)| stage(worker)).sum()
    }

    /// Processor time of a kind of thread, in user mode and in the kernel
    pub(super) fn processor_ns(&self, class: &str) -> (f64, f64) {
        let of = |sample: &Sample| sample.threads.get(class).copied().unwrap_or_default();
        let (before, after) = (of(self.before), of(self.after));
        let less = |after: f64, before: f64| (after - before).max(0.0) * 1e9;
        (
            less(after.user_seconds, before.user_seconds),
            less(after.system_seconds, before.system_seconds),
        )
    }

    fn seconds(&self) -> f64 {
        self.after.at_ns.saturating_sub(self.before.at_ns) as f64 / 1e9
    }

    pub(super) fn side(&self, bytes: u64) -> Side {
        let seconds = self.seconds();
        let cpu = |(class, after): (&String, &crate::process::ThreadTime)| {
            let before = self.before.threads.get(class).copied().unwrap_or_default();
            let cores = |after: f64, before: f64| (after - before).max(0.0) / seconds;
            let used = CpuUse {
                user_cores: cores(after.user_seconds, before.user_seconds),
                system_cores: cores(after.system_seconds, before.system_seconds),
            };
            (class.clone(), used)
        };
        let mut stages: BTreeMap<String, f64> = BTreeMap::new();
        for (worker, _) in self.workers() {
            for (stage, ns) in worker.stage_ns {
                *stages.entry(stage).or_default() += ns as f64 / bytes as f64;
            }
        }
        let (sent, received) = (self.sum("datagrams_sent"), self.sum("datagrams_received"));
        Side {
            cpu: self.after.threads.iter().map(cpu).collect(),
            datagrams_sent: sent,
            datagrams_received: received,
            tx_train_mean: ratio(sent, self.sum("trains_sent")),
            rx_train_mean: ratio(received, self.sum("trains_received")),
            system_calls: self.sum("system_calls"),
            datagrams_per_system_call: ratio(sent + received, self.sum("system_calls")),
            turns: self.sum("turns"),
            sleeps: self.sum("sleeps"),
            ns_per_byte: stages,
        }
    }

    pub(super) fn worker_reports(&self, side: SideName) -> Vec<WorkerReport> {
        let report = |(worker, about): (WorkerSample, &WorkerDescription)| WorkerReport {
            side,
            core: about.core,
            node: about.node,
            io: about.io.clone(),
            tx_train_mean: ratio(
                counter(&worker, "datagrams_sent"),
                counter(&worker, "trains_sent"),
            ),
            rx_train_mean: ratio(
                counter(&worker, "datagrams_received"),
                counter(&worker, "trains_received"),
            ),
        };
        self.workers().map(report).collect()
    }
}
