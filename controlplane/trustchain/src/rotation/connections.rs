//! Which live connections have to be replaced before a certificate on them ends. QUIC has no way to show a
//! new certificate on a connection that stands, so the connection itself is renewed. Nothing is sent here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;

use super::schedule::between;
use super::settings::RotationSettings;

/// Connections that are watched at one time
pub const CONNECTIONS_LIMIT: usize = 1 << 20;
/// A connection that came up with a certificate about to end is replaced again, but never sooner than this
const REPLACE_AGAIN: Duration = Duration::from_secs(60);

/// The certificates on a connection, as its handshake showed them
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connection {
    /// This node's certificate
    pub own_serial: String,
    /// End of the peer's certificate
    pub peer_not_after: SystemTime,
}

/// More connections than are watched
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{CONNECTIONS_LIMIT} connections are watched for the end of their certificates, the limit; \
     close this one"
)]
pub struct TooManyConnections;

#[derive(Debug)]
struct Watched {
    own_serial: String,
    /// When the first of its two certificates ends
    end: SystemTime,
    next: SystemTime,
    step: Step,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Replace,
    End,
    Close,
}

/// What is due
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Due {
    pub(super) replace: Vec<u64>,
    pub(super) ends_before: Option<SystemTime>,
    pub(super) past_end: usize,
    pub(super) close: Vec<u64>,
}

/// The live connections by their ends
#[derive(Debug, Default)]
pub(super) struct Connections {
    watched: BTreeMap<u64, Watched>,
    due: BTreeSet<(SystemTime, u64)>,
    by_own: BTreeMap<String, usize>,
}

impl Connections {
    /// Begins to watch. A connection on a certificate that is unknown here is replaced at once: its handshake
    /// began before that certificate was retired.
    pub(super) fn open(
        &mut self,
        id: u64,
        connection: Connection,
        own_not_after: Option<SystemTime>,
        wall: SystemTime,
        settings: &RotationSettings,
        random: &mut StdRng,
    ) -> Result<(), TooManyConnections> {
        self.close(id);
        if self.watched.len() >= CONNECTIONS_LIMIT {
            return Err(TooManyConnections);
        }
        let Connection { own_serial, peer_not_after } = connection;
        let end = own_not_after.map_or(peer_not_after, |own| own.min(peer_not_after));
        let margin =
            between(random, settings.replace_margin_shortest, settings.replace_margin_longest);
        let (next, step) = match end.checked_sub(margin) {
            _ if own_not_after.is_none() => (wall, Step::Replace),
            Some(at) if at > wall => (at, Step::Replace),
            _ => next_step(end, wall, settings),
        };
        *self.by_own.entry(own_serial.clone()).or_default() += 1;
        self.due.insert((next, id));
        self.watched.insert(id, Watched { own_serial, end, next, step });
        Ok(())
    }

    /// Ends to watch; nothing happens for a connection that is not watched
    pub(super) fn close(&mut self, id: u64) {
        let Some(watched) = self.watched.remove(&id) else { return };
        self.due.remove(&(watched.next, id));
        if let Some(count) = self.by_own.get_mut(&watched.own_serial) {
            *count -= 1;
            if *count == 0 {
                self.by_own.remove(&watched.own_serial);
            }
        }
    }

    /// Connections on one of this node's certificates
    pub(super) fn count_on(&self, own_serial: &str) -> usize {
        self.by_own.get(own_serial).copied().unwrap_or(0)
    }

    /// All connections watched
    pub(super) fn len(&self) -> usize {
        self.watched.len()
    }

    /// Makes the replacement of every connection on a certificate due
    pub(super) fn hurry(&mut self, own_serial: &str, wall: SystemTime) {
        for (id, watched) in &mut self.watched {
            if watched.own_serial == own_serial && watched.step == Step::Replace {
                self.due.remove(&(watched.next, *id));
                watched.next = wall;
                self.due.insert((wall, *id));
            }
        }
    }

    /// The next time something is due
    pub(super) fn next_due(&self) -> Option<SystemTime> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes what is due
    pub(super) fn take_due(&mut self, wall: SystemTime, settings: &RotationSettings) -> Due {
        let mut due = Due::default();
        while let Some(&(at, id)) = self.due.first() {
            if at > wall {
                break;
            }
            self.due.remove(&(at, id));
            let Some(watched) = self.watched.get_mut(&id) else { continue };
            if wall >= watched.end + settings.grace_after_end {
                due.close.push(id);
                self.close(id);
                continue;
            }
            match watched.step {
                Step::Replace => {
                    due.replace.push(id);
                    due.ends_before = due.ends_before.max(Some(watched.end));
                }
                Step::End => due.past_end += 1,
                Step::Close => {}
            }
            (watched.next, watched.step) = next_step(watched.end, wall, settings);
            self.due.insert((watched.next, id));
        }
        due
    }
}

/// What follows when a replacement was asked for and the connection is still there
fn next_step(end: SystemTime, wall: SystemTime, settings: &RotationSettings) -> (SystemTime, Step) {
    match end.duration_since(wall) {
        Ok(left) if left > 2 * REPLACE_AGAIN => (wall + left / 2, Step::Replace),
        Ok(left) if !left.is_zero() => (end, Step::End),
        _ => (end + settings.grace_after_end, Step::Close),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rand::SeedableRng;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn wall() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn on(own_serial: &str, peer_not_after: SystemTime) -> Connection {
        Connection { own_serial: own_serial.to_owned(), peer_not_after }
    }

    fn opened(ends: &[(u64, Duration)]) -> Connections {
        let mut connections = Connections::default();
        let mut random = StdRng::seed_from_u64(3);
        let own = Some(wall() + 600 * MINUTE);
        for (id, left) in ends {
            let connection = on("a1", wall() + *left);
            connections
                .open(*id, connection, own, wall(), &RotationSettings::default(), &mut random)
                .unwrap();
        }
        connections
    }

    #[test]
    fn a_connection_is_replaced_within_the_margins_and_only_once_if_it_goes() {
        let settings = RotationSettings::default();
        let ends: Vec<_> = (0..200).map(|id| (id, 120 * MINUTE)).collect();
        let mut connections = opened(&ends);
        let early = wall() + 90 * MINUTE - Duration::from_secs(1);
        assert_eq!(connections.take_due(early, &settings), Due::default());
        let half = connections.take_due(wall() + 102 * MINUTE, &settings).replace;
        assert!((50..150).contains(&half.len()), "{} of 200 in the first half", half.len());
        half.iter().for_each(|id| connections.close(*id));
        let rest = connections.take_due(wall() + 115 * MINUTE, &settings);
        assert_eq!(rest.ends_before, Some(wall() + 120 * MINUTE));
        let mut all = [half, rest.replace].concat();
        all.sort_unstable();
        assert_eq!(all, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn one_that_stays_is_asked_for_again_a_few_times_then_reported_then_closed() {
        let settings = RotationSettings::default();
        let mut connections = opened(&[(7, 20 * MINUTE)]);
        let (mut replaced, mut past_end, mut closed) = (0, Vec::new(), Vec::new());
        while let Some(at) = connections.next_due() {
            let due = connections.take_due(at, &settings);
            replaced += due.replace.len();
            past_end.extend((due.past_end > 0).then_some(at));
            closed.extend(due.close.iter().map(|id| (*id, at)));
        }
        assert!((3..=5).contains(&replaced), "{replaced} times");
        assert_eq!(past_end, [wall() + 20 * MINUTE]);
        assert_eq!(closed, [(7, wall() + 20 * MINUTE + settings.grace_after_end)]);
        assert_eq!((connections.len(), connections.count_on("a1")), (0, 0));
    }

    #[test]
    fn after_a_long_sleep_a_connection_is_closed_and_not_replaced_as_well() {
        let settings = RotationSettings::default();
        let mut connections = opened(&[(7, 20 * MINUTE)]);
        let due = connections.take_due(wall() + 600 * MINUTE, &settings);
        assert_eq!((due.replace, due.close), (vec![], vec![7]));
    }

    #[test]
    fn the_own_certificate_counts_too_and_an_unknown_one_is_replaced_at_once() {
        let settings = RotationSettings::default();
        let mut connections = Connections::default();
        let mut random = StdRng::seed_from_u64(4);
        let far = wall() + 900 * MINUTE;
        let mut open = |connections: &mut Connections, id, own: Option<Duration>| {
            let own = own.map(|left| wall() + left);
            connections.open(id, on("b2", far), own, wall(), &settings, &mut random).unwrap();
        };
        open(&mut connections, 1, Some(60 * MINUTE));
        open(&mut connections, 2, None);
        assert_eq!(connections.take_due(wall(), &settings).replace, [2]);
        assert!(connections.next_due().unwrap() <= wall() + 55 * MINUTE);
        connections.hurry("b2", wall() + MINUTE);
        let mut hurried = connections.take_due(wall() + MINUTE, &settings).replace;
        hurried.sort_unstable();
        assert_eq!(hurried, [1, 2]);
        assert_eq!(connections.count_on("b2"), 2);
    }
}
