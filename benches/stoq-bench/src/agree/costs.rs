//! What it costs to judge four proofs, a ticket's use and a receipt: the same one again and again on one thread.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoq_hypermesh::operation::{
    AssetKind, AssetName, Candidate, OperationBody, Registration, Sharing,
};
use stoq_hypermesh::receipt::Verifier;
use stoq_hypermesh::requester::Maker;
use stoq_interface::NodeId;

use super::world::{Asker, World, now_ms};
use crate::sink::Failure;

/// Judged for so long each
const TIME: Duration = Duration::from_millis(500);

/// Microseconds each
pub struct Costs {
    pub proof_verify_us: f64,
    pub ticket_verify_us: f64,
    pub receipt_cold_us: f64,
    pub receipt_warm_us: f64,
    pub receipt_bytes: usize,
}

fn each_us(mut judge: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let begun = Instant::now();
    let mut count = 0u32;
    while begun.elapsed() < TIME {
        judge()?;
        count += 1;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(count))
}

/// Judges what the first requester asks
pub async fn measure(world: &World, askers: &mut [Asker]) -> Result<Costs, Failure> {
    let asker = askers.first_mut().ok_or("there is no requester")?;
    asker.sequence += 1;
    let body = OperationBody::RegisterAsset(Registration {
        kind: AssetKind::Cpu,
        name: AssetName::new("judged")?,
        node: NodeId::new("bench")?,
        capacity: 1,
        sharing: Sharing::Owner,
    });
    let ground = world.ground(&asker.key)?;
    let maker = Maker::new(&asker.key, &ground);
    let patient = &mut |_| ControlFlow::Continue(());
    let now_ms = now_ms().max(ground.beacon_time_ms);
    let proven = maker.proven(body.clone(), asker.sequence, &asker.prover, now_ms, patient)?;
    let proven = Bytes::from(proven.encode());
    let with_ticket = Bytes::from(maker.with_ticket(body, asker.sequence, asker.ticket).encode());
    let registry = world.view()?.registry();
    let judge = |octets: &Bytes| -> Result<(), Failure> {
        // As a validator meets it: read, hashed and judged.
        let candidate = Candidate::decode(octets)?;
        Ok(black_box(registry.check(&candidate, now_ms))?)
    };
    let proof_verify_us = each_us(|| judge(&proven))?;
    let ticket_verify_us = each_us(|| judge(&with_ticket))?;

    let place = world.client()?.submit(with_ticket).await?;
    let receipt = world.client()?.receipt(place.height, place.index).await;
    let receipt = receipt.ok_or("there is no receipt")?;
    let receipt_bytes = receipt.to_vec().len();
    let receipt_cold_us = each_us(|| {
        black_box(receipt.verify(&world.genesis))?;
        Ok(())
    })?;
    let mut warm = Verifier::new(Arc::clone(&world.genesis));
    let receipt_warm_us = each_us(|| {
        black_box(warm.verify(&receipt))?;
        Ok(())
    })?;
    Ok(Costs { proof_verify_us, ticket_verify_us, receipt_cold_us, receipt_warm_us, receipt_bytes })
}
