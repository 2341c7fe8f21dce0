//! The codecs every byte or every turn meets: leg records, control frames, connection IDs.

use std::hint::black_box;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::SeedableRng;
use rand::rngs::StdRng;
use stoq_interface::ServiceName;
use stoq_transport::connection_id::Steering;
use stoq_transport::wire::{
    Frame, FrameReader, LegHeader, LegReader, encode_record, encode_record_header,
};

fn leg(service: &str, records: usize, record_bytes: usize) -> Bytes {
    let mut stream = BytesMut::new();
    let service = Some(ServiceName::new(service).unwrap());
    LegHeader { flow: 4, service }.encode(&mut stream);
    let body = vec![7u8; record_bytes];
    for index in 0..records {
        let offset = (index * record_bytes) as u64;
        stream.extend_from_slice(&encode_record(offset, &body, index + 1 == records));
    }
    stream.freeze()
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    group.bench_function("encode_header", |bencher| {
        let mut out = BytesMut::with_capacity(64);
        bencher.iter(|| {
            out.clear();
            encode_record_header(&mut out, black_box(1 << 33), black_box(65_536), false);
            out.len()
        });
    });
    for record_bytes in [1_024, 65_536] {
        let stream = leg("bulk", 16, record_bytes);
        group.throughput(Throughput::Bytes(stream.len() as u64));
        // As the transport cuts it: pieces that ignore where records begin.
        for piece in [1_400, 65_536] {
            group.bench_function(format!("parse_{record_bytes}_in_{piece}"), |bencher| {
                bencher.iter(|| {
                    let mut reader = LegReader::default();
                    let (mut rest, mut items) = (stream.clone(), 0);
                    while !rest.is_empty() {
                        let mut input = rest.split_to(rest.len().min(piece));
                        while reader.next_item(&mut input).unwrap().is_some() {
                            items += 1;
                        }
                    }
                    items
                });
            });
        }
    }
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    let frame =
        Frame::FlowStatus { flow: 4, acknowledged: 1 << 33, complete: false, limit: 1 << 34 };
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);
    let mut group = criterion.benchmark_group("frame");
    group.bench_function("encode_flow_status", |bencher| {
        let mut out = BytesMut::with_capacity(64);
        bencher.iter(|| {
            out.clear();
            black_box(&frame).encode(&mut out);
            out.len()
        });
    });
    group.bench_function("parse_flow_status", |bencher| {
        let mut reader = FrameReader::new(4_096);
        bencher.iter(|| {
            reader.push(black_box(&bytes));
            reader.next_frame().unwrap().is_some()
        });
    });
    group.finish();
}

fn connection_ids(criterion: &mut Criterion) {
    let mut random = StdRng::seed_from_u64(7);
    let mut group = criterion.benchmark_group("connection_id");
    for workers in [1, 2, 16] {
        let steering = Steering::new(0x9e37_79b9, workers);
        group.bench_function(format!("issue_for_one_of_{workers}"), |bencher| {
            bencher.iter(|| steering.issue(workers - 1, &mut random));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    targets = records, frames, connection_ids
}
criterion_main!(benches);
