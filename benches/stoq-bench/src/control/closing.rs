//! How long a revoked node stays connected: from the call that revokes it to the end of its connection at a node
//! that follows the authority's deny-list over STOQ, as nodes do.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use stoq::{Allow, ControlSnapshot, Endpoint, NodeId, ServiceName};
use stoq_interface::Denied;
use stoq_trustchain::calls::{CallPolicy, wire};
use stoq_trustchain::revocation::{
    DenyList, DenyListAction, DenyListSettings, ListSigner, Reason, Signers,
};

use crate::sink::Failure;

use super::office::Office;
use super::over_stoq::{self, Asker, DEADLINE};
use super::report::Closing;

const SERVICE: &str = "bench";
/// Longest time a revoked connection is waited for
const PATIENCE: Duration = Duration::from_secs(5);

/// Revokes nodes one by one
pub async fn measure(office: &Office, revocations: usize) -> Result<Closing, Failure> {
    let [authority, follower] = office.others(["bench-authority", "bench-follower"]).await?;
    let revoking_nodes = Allow::Nodes([follower.node.clone()].into_iter().collect());
    let policy = CallPolicy { revoking_nodes, ..CallPolicy::default() };
    let at_authority = over_stoq::endpoint(office, &authority)?;
    over_stoq::answer(&at_authority, office.desk(policy));

    let service = ServiceName::new(SERVICE)?;
    let mut snapshot = over_stoq::snapshot(office, &follower);
    snapshot.services.insert(service.clone(), Allow::AnyEnrolled);
    let listen = "[::1]:0".parse()?;
    let builder = Endpoint::builder().listen(listen).snapshot(snapshot.clone());
    let at_follower = builder.build()?;
    let mut incoming = at_follower.serve(service.clone())?;
    let follower = Arc::new(follower);
    let asker = Asker::connect(office, follower.clone(), &at_authority, &authority.node).await?;
    let follows = tokio::spawn(follow(
        at_follower.clone(),
        snapshot,
        Asker::connect(office, follower, &at_authority, &authority.node).await?,
        office.ca.instance().clone(),
        office.ca.authority().certificate_der().to_vec(),
    ));
    let mut times = Vec::new();
    for number in 0..revocations {
        let [member] = office.others([format!("bench-revoked-{number}").as_str()]).await?;
        let endpoint = over_stoq::endpoint(office, &member)?;
        let node = at_follower_node(&at_follower)?;
        let session = endpoint.connect(at_follower.local_address(), &node).await?;
        let mut flow = session.open(&service);
        flow.write_chunk(bytes::Bytes::from_static(b"here")).await?;
        let mut served = incoming.next().await.ok_or("the follower's endpoint is closed")?;
        if served.read_chunk().await?.as_deref() != Some(b"here") {
            return Err("the flow arrived otherwise than it left".into());
        }
        let begun = Instant::now();
        let request = wire::RevokeRequest {
            serial: member.serial()?,
            reason: Reason::KeyCompromise.code().unsigned_abs(),
            ..wire::RevokeRequest::default()
        };
        asker.client().revoke(&request, DEADLINE).await?;
        // The flow was made to stay: its end is the connection's.
        match tokio::time::timeout(PATIENCE, flow.read_chunk()).await {
            Ok(Err(_closed)) => times.push(begun.elapsed().as_secs_f64() * 1e3),
            Ok(Ok(_)) => return Err("the flow ended in order instead of by revocation".into()),
            Err(_elapsed) => return Err("a revoked node stayed connected for five seconds".into()),
        }
        drop(served);
    }
    follows.abort();
    times.sort_by(f64::total_cmp);
    let p50_ms = times.get(times.len() / 2).copied().unwrap_or_default();
    let max_ms = times.last().copied().unwrap_or_default();
    Ok(Closing { revocations: times.len(), p50_ms, max_ms })
}

fn at_follower_node(endpoint: &Endpoint) -> Result<NodeId, Failure> {
    let snapshot = endpoint.snapshot();
    let identity = snapshot.identity.as_ref().ok_or("the follower has an identity")?;
    Ok(identity.node.clone())
}

/// Follows the deny-list and publishes it to the data plane, as the daemon does
async fn follow(
    endpoint: Endpoint,
    mut snapshot: ControlSnapshot,
    asker: Asker,
    instance: NodeId,
    authority_der: Vec<u8>,
) -> Result<(), Failure> {
    let signer = ListSigner::from_certificate(instance, &authority_der)?;
    let signers = Signers::new([signer])?;
    let mut list = DenyList::new(DenyListSettings::default(), signers, SystemTime::now());
    let mut epoch = 0;
    loop {
        if let Some(document) = asker.client().deny_list(epoch, DEADLINE).await? {
            list.handle_document(&document, SystemTime::now())?;
        }
        while let Some(action) = list.poll_action() {
            if let DenyListAction::CloseConnections { .. } = action {
                snapshot.epoch += 1;
                let serials: HashSet<String> = list.denied_serials().into_iter().collect();
                snapshot.denied = Arc::new(Denied { serials, ..Denied::default() });
                endpoint.publish(snapshot.clone());
            }
        }
        epoch = list.epochs().map(|(_, epoch)| epoch).max().unwrap_or(epoch);
    }
}
