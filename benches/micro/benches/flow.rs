//! The two halves of a flow without any transport: what reliability above QUIC costs per byte.

use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stoq_transport::session::{FlowReceiver, FlowSender};

const PIECES: u64 = 64;
/// Half a window in less than this makes it larger
const FAST_READER: Duration = Duration::from_millis(5);

fn sender(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow_sender");
    for piece_bytes in [1_400u64, 65_536] {
        let piece = Bytes::from(vec![7u8; piece_bytes as usize]);
        group.throughput(Throughput::Bytes(PIECES * piece_bytes));
        group.bench_function(format!("write_send_acknowledge_{piece_bytes}"), |bencher| {
            let mut sender = FlowSender::new(u64::MAX >> 2);
            let mut offset = 0;
            bencher.iter(|| {
                for _ in 0..PIECES {
                    sender.write(piece.clone());
                }
                while let Some(piece) = sender.next_piece(piece_bytes as usize) {
                    offset = piece.offset + piece.bytes.len() as u64;
                }
                sender.acknowledge(offset, false)
            });
        });
    }
    group.finish();
}

fn receiver(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow_receiver");
    for piece_bytes in [1_400u64, 65_536] {
        let piece = Bytes::from(vec![7u8; piece_bytes as usize]);
        group.throughput(Throughput::Bytes(PIECES * piece_bytes));
        // In order as one connection delivers it; in turns of two as two legs do.
        for (name, stride) in [("in_order", 1u64), ("two_legs", 2)] {
            group.bench_function(format!("{name}_{piece_bytes}"), |bencher| {
                let mut receiver = FlowReceiver::new(1 << 30, 1 << 30, 4_096);
                let mut base = 0;
                bencher.iter(|| {
                    for index in 0..PIECES {
                        // The second leg's pieces come first.
                        let place = index / stride * stride + (stride - 1 - index % stride);
                        let offset = base + place * piece_bytes;
                        receiver.handle_piece(offset, piece.clone(), false).unwrap();
                    }
                    base += PIECES * piece_bytes;
                    let mut read = 0;
                    while let Some(bytes) = receiver.read() {
                        read += bytes.len();
                    }
                    receiver.poll_limit(Instant::now(), FAST_READER);
                    read
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    targets = sender, receiver
}
criterion_main!(benches);
