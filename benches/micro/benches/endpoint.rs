//! Two endpoints in memory: time of one core per packet, for each side. A packet's ACKs are in it.

use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stoq_micro::{Pair, Spent};

/// Full packets' worth of octets per measured step: some trains
fn step_bytes(payload_bytes: usize) -> u64 {
    (payload_bytes as u64) * 256
}

/// Which side is measured
#[derive(Clone, Copy)]
enum Measured {
    Sender,
    Receiver,
}

fn endpoint(criterion: &mut Criterion) {
    let piece = Bytes::from((0..262_144u32).map(|i| (i >> 3) as u8).collect::<Vec<u8>>());
    for payload_bytes in [1_452, 8_952] {
        let mut group = criterion.benchmark_group(format!("packet_{payload_bytes}"));
        group.throughput(Throughput::Elements(1));
        for (name, measured) in [("sender", Measured::Sender), ("receiver", Measured::Receiver)] {
            let pick = |pair: &Pair| -> (Duration, u64) {
                let (sender, receiver): (Spent, Spent) = pair.spent();
                match measured {
                    Measured::Sender => (sender.time, sender.sent),
                    Measured::Receiver => (receiver.time, receiver.received),
                }
            };
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|packets| {
                    let mut pair = Pair::new(payload_bytes);
                    // The congestion window opens and buffers find their size before the clock counts.
                    pair.carry(16 * step_bytes(payload_bytes), &piece);
                    let (time, seen) = pick(&pair);
                    loop {
                        let (now, count) = pick(&pair);
                        let done = count - seen;
                        if done >= packets {
                            let per_packet = (now - time).as_secs_f64() / done as f64;
                            return Duration::from_secs_f64(per_packet * packets as f64);
                        }
                        pair.carry(step_bytes(payload_bytes), &piece);
                    }
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).sample_size(10);
    targets = endpoint
}
criterion_main!(benches);
