//! Durable appends per second by the size of the groups: what is written together shares one write and one
//! fdatasync. Once with groups of exactly that size, once with as many single appends in flight, which the
//! journal groups by itself. The disk decides most of it, so figures of two hosts do not compare.

#![forbid(unsafe_code)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use stoq_store::journal::{Appender, EntryKind, Journal, NewEntry, Options};
use stoq_store::named_thread;

/// About what a certificate takes
const PAYLOAD_BYTES: usize = 1_000;

fn entry() -> NewEntry {
    NewEntry { kind: EntryKind(1), payload: vec![0x5a; PAYLOAD_BYTES] }
}

fn one_group(appender: &Appender, entries: usize) {
    let entries = std::iter::repeat_with(entry).take(entries).collect();
    appender.submit(entries).expect("room in the queue").wait().expect("a disk that works");
}

fn in_flight(appender: &Appender, entries: usize) {
    let submit = || appender.submit(vec![entry()]).expect("room in the queue");
    let pending: Vec<_> = std::iter::repeat_with(submit).take(entries).collect();
    for pending in pending {
        pending.wait().expect("a disk that works");
    }
}

fn append(criterion: &mut Criterion) {
    measure(criterion, "append_group", one_group);
    measure(criterion, "append_in_flight", in_flight);
}

fn measure(criterion: &mut Criterion, name: &str, way: fn(&Appender, usize)) {
    let mut group = criterion.benchmark_group(name);
    for entries in [1, 4, 16, 64, 256, 1_024] {
        let directory = tempfile::tempdir().expect("a directory for the journal");
        Journal::create(directory.path()).expect("a journal");
        let options = Options { group_bytes: 2 << 20, ..Options::default() };
        let (journal, _) = Journal::open(directory.path(), options, &named_thread, |_| Ok(()))
            .expect("the journal just created");
        let appender = journal.appender();
        group.throughput(Throughput::Elements(entries as u64));
        group.bench_function(BenchmarkId::from_parameter(entries), |bencher| {
            bencher.iter(|| way(&appender, entries));
        });
        journal.close_blocking().expect("a disk that works");
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
