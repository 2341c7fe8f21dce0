//! AES-128-GCM at packet sizes, in place.

use std::time::Duration;

use boring::aead::{AeadCtx, Algorithm};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const OVERHEAD_BYTES: usize = 33;
const HEADER: [u8; 17] = [0x40; 17];
const NONCE: [u8; 12] = [9; 12];

fn aead(criterion: &mut Criterion) {
    let algorithm = Algorithm::aes_128_gcm();
    for payload_bytes in [1_452usize, 8_952] {
        let mut group = criterion.benchmark_group(format!("aead_{payload_bytes}"));
        group.throughput(Throughput::Bytes(payload_bytes as u64));
        let mut context = AeadCtx::new_default_tag(&algorithm, &[7; 16]).unwrap();
        let mut packet = vec![0u8; payload_bytes - OVERHEAD_BYTES];
        let mut tag = [0; 16];
        group.bench_function("seal", |bencher| {
            bencher.iter(|| {
                let sealed = context.seal_in_place_mut(&NONCE, &mut packet, &mut tag, &HEADER);
                sealed.map(|tag| tag.len()).unwrap()
            });
        });
        context.seal_in_place_mut(&NONCE, &mut packet, &mut tag, &HEADER).unwrap();
        let mut work = packet.clone();
        // The copy that makes each opening possible is in the figure of `copy` alone as well.
        group.bench_function("copy", |bencher| {
            bencher.iter(|| std::hint::black_box(&mut work).copy_from_slice(&packet));
        });
        group.bench_function("copy_and_open", |bencher| {
            bencher.iter(|| {
                work.copy_from_slice(&packet);
                context.open_in_place_mut(&NONCE, &mut work, &tag, &HEADER).unwrap();
            });
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    targets = aead
}
criterion_main!(benches);
