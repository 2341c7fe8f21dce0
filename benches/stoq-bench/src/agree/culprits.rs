//! How soon validators that vote twice are named: as many as may be faulty are told to, all at once, and every other one
//! says when it lists all of them as convicted.

use stoq_hypermesh::operation::ValidatorKey;

use super::child::{Said, Told};
use super::world::World;
use crate::sink::Failure;

/// Milliseconds from a culprit's own first contradictory vote to its being named by the last of the honest ones; the
/// slowest culprit counts; none where none may be faulty
pub async fn measure(world: &mut World) -> Result<Option<f64>, Failure> {
    let faults = world.faults();
    if faults == 0 {
        return Ok(None);
    }
    // The last ones: the first is asked by the client, in this process.
    let keys: Vec<ValidatorKey> = world.keys_of_last(faults);
    let World { member, children, .. } = world;
    let member = member.as_ref().ok_or("there is no validator here")?;
    let others = children.len() - faults;
    let (honest, faulty) = children.split_at_mut(others);
    for child in honest.iter_mut() {
        child.tell(&Told::Watch(keys.iter().map(|key| key.0).collect())).await?;
    }
    for child in faulty.iter_mut() {
        child.tell(&Told::Lie).await?;
    }
    let mut lied_ns = Vec::new();
    for child in faulty.iter_mut() {
        match child.hear().await? {
            Said::LiedNs(at) => lied_ns.push(at),
            other => return Err(format!("{other:?} was not asked for").into()),
        }
    }
    let mut convicted_ns = vec![member.convicted_ns(&keys).await?];
    for child in honest.iter_mut() {
        match child.hear().await? {
            Said::ConvictedNs(at) => convicted_ns.push(at),
            other => return Err(format!("{other:?} was not asked for").into()),
        }
    }
    let waits = convicted_ns.iter().flat_map(|of_one| {
        of_one.iter().zip(&lied_ns).map(|(convicted, lied)| convicted.saturating_sub(*lied))
    });
    Ok(waits.max().map(|slowest_ns| slowest_ns as f64 / 1e6))
}
