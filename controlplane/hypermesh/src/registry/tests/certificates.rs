//! Certificates of assets: to the registered owner, one at a time, and ended with the ownership.

use super::*;

const HOUR_MS: u64 = 3_600_000;

fn granted(world: &World, asset: &AssetId) -> Option<Digest> {
    let certificate = world.registry.asset(asset).unwrap().certificate.as_ref();
    certificate.map(|certificate| certificate.csr_statement)
}

#[test]
fn the_owner_and_nobody_else_gets_the_one_certificate() {
    let mut world = World::new();
    let asset = world.asset(ALICE, "cpus", Sharing::Anyone);
    assert_eq!(world.refused(BOB, certify(Some(asset), 1)), Refusal::NotOwner);
    let effect = world.one(ALICE, certify(Some(asset), 1)).unwrap();
    let expected = Effect::CertificateGranted {
        asset: Some(asset),
        requester: id(ALICE),
        csr_statement: [1; 32],
        expires_ms: world.time_ms + 24 * HOUR_MS,
    };
    assert_eq!(effect, expected);
    let renewal_ms = world.time_ms + 16 * HOUR_MS;
    let active = Refusal::CertificateActive { renewal_ms };
    assert_eq!(world.refused(ALICE, certify(Some(asset), 1)), active);
    assert_eq!(world.refused(ALICE, certify(Some(asset), 2)), active);
    assert_eq!(granted(&world, &asset), Some([1; 32]));
    // The renewal comes with the time of blocks, not a moment before.
    world.time_ms = renewal_ms - 11;
    assert_eq!(world.refused(ALICE, certify(Some(asset), 2)), active);
    world.one(ALICE, certify(Some(asset), 2)).unwrap();
    assert_eq!(granted(&world, &asset), Some([2; 32]));
}

#[test]
fn an_ended_certificate_makes_room_for_another() {
    let mut world = World::new();
    let asset = world.asset(ALICE, "cpus", Sharing::Anyone);
    let end = || OperationBody::EndCertificate { asset };
    assert_eq!(world.refused(ALICE, end()), Refusal::NoCertificate);
    world.one(ALICE, certify(Some(asset), 1)).unwrap();
    assert_eq!(world.refused(BOB, end()), Refusal::NotOwner);
    let effect = world.one(ALICE, end()).unwrap();
    assert_eq!(effect, Effect::CertificateEnded { asset, csr_statement: [1; 32] });
    world.one(ALICE, certify(Some(asset), 2)).unwrap();
}

#[test]
fn ownership_takes_the_certificate_with_it() {
    let mut world = World::new();
    let asset = world.asset(ALICE, "cpus", Sharing::Anyone);
    world.one(ALICE, certify(Some(asset), 1)).unwrap();
    let effect = world.one(ALICE, transfer(asset, BOB)).unwrap();
    assert!(matches!(effect, Effect::Transferred { ended_certificate: Some(csr), .. }
        if csr == [1; 32]));
    assert_eq!(world.refused(ALICE, certify(Some(asset), 2)), Refusal::NotOwner);
    world.one(BOB, certify(Some(asset), 3)).unwrap();
    let effect = world.one(BOB, retire(asset)).unwrap();
    assert_eq!(effect, Effect::Retired { asset, ended_certificate: Some([3; 32]) });
    assert_eq!(world.refused(BOB, certify(Some(asset), 4)), Refusal::AssetRetired);
}

#[test]
fn a_node_asks_for_itself_as_often_as_it_proves() {
    let mut world = World::new();
    for csr in [1, 1, 2] {
        let effect = world.one(ALICE, certify(None, csr)).unwrap();
        assert!(matches!(effect, Effect::CertificateGranted { asset: None, requester, .. }
            if requester == id(ALICE)));
    }
}
