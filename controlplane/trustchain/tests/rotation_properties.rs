//! What holds for rotation whatever happens to it: any order of answers, failures, revocations, suspensions
//! and clock changes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use stoq_trustchain::rotation::{
    Action, Beginning, CLOCK_REREAD_LIMIT, CertificateFacts, Connection, Failure, Held, KeySlot,
    Now, RenewalWindow, Request, Rotation, RotationSettings,
};

const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);

/// Something that happens to a node
#[derive(Clone, Debug)]
enum Mishap {
    Pass(Duration),
    Fail(usize),
    Overload(Duration),
    Issue,
    IssueNonsense(u8),
    Revoke(u8),
    Suspend(Duration),
    SetBack(Duration),
    Window(Duration, Duration),
    SwapFails,
    Open(u64, Duration),
    Close(u64),
}

fn seconds(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_secs)
}

fn mishap() -> impl Strategy<Value = Mishap> {
    prop_oneof![
        8 => seconds(0..30_000).prop_map(Mishap::Pass),
        4 => (0..Failure::ALL.len()).prop_map(Mishap::Fail),
        2 => seconds(0..10_000).prop_map(Mishap::Overload),
        4 => Just(Mishap::Issue),
        2 => any::<u8>().prop_map(Mishap::IssueNonsense),
        1 => any::<u8>().prop_map(Mishap::Revoke),
        1 => seconds(0..200_000).prop_map(Mishap::Suspend),
        1 => seconds(0..50_000).prop_map(Mishap::SetBack),
        1 => (seconds(0..90_000), seconds(0..90_000)).prop_map(|(a, b)| Mishap::Window(a, b)),
        1 => Just(Mishap::SwapFails),
        2 => (0..20_u64, seconds(0..90_000)).prop_map(|(id, left)| Mishap::Open(id, left)),
        1 => (0..20_u64).prop_map(Mishap::Close),
    ]
}

struct World {
    rotation: Rotation,
    now: Now,
    settings: RotationSettings,
    serials: u32,
    pending: Option<Request>,
    activated: BTreeSet<String>,
    keys_activated: BTreeSet<KeySlot>,
    discarded: BTreeSet<KeySlot>,
    last_activated: Option<String>,
}

fn facts(serial: String, wall: SystemTime) -> CertificateFacts {
    let since = wall.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let not_before = UNIX_EPOCH + Duration::from_secs(since - 300);
    CertificateFacts { serial, not_before, not_after: not_before + 24 * HOUR - SECOND }
}

impl World {
    fn new(seed: u64, authorities: usize, enrolled: bool) -> Self {
        let wall = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let now = Now { wall, monotone: Instant::now() };
        let settings = RotationSettings::default();
        let beginning = Beginning {
            authorities: (0..authorities).map(|number| format!("ca{number}")).collect(),
            current: enrolled
                .then(|| Held { certificate: facts("old".to_owned(), wall), key: KeySlot(0) }),
            successor: None,
            next_key: KeySlot(1),
            seed,
        };
        Self {
            rotation: Rotation::new(settings.clone(), beginning, now).unwrap(),
            now,
            settings,
            serials: 0,
            pending: None,
            activated: BTreeSet::new(),
            keys_activated: BTreeSet::new(),
            discarded: BTreeSet::new(),
            last_activated: None,
        }
    }

    fn settle(&mut self) {
        while let Some(action) = self.rotation.poll_action() {
            match action {
                Action::Request(request) => {
                    assert!(!self.discarded.contains(&request.key), "a destroyed key is used");
                    assert!(!self.keys_activated.contains(&request.key), "a key is used twice");
                    assert!(self.pending.is_none(), "two attempts at the same time");
                    self.pending = Some(request);
                }
                Action::Abandon { attempt } => {
                    let given_up = self.pending.take().map(|request| request.attempt);
                    assert_eq!(given_up, Some(attempt));
                }
                Action::Activate(activation) => {
                    let fresh = self.activated.insert(activation.serial.clone());
                    assert!(fresh, "{} is activated twice", activation.serial);
                    assert!(self.keys_activated.insert(activation.key), "a key serves twice");
                    assert!(!self.discarded.contains(&activation.key));
                    let held = self.rotation.current();
                    if let Some(held) = held.filter(|h| h.certificate.serial == activation.serial) {
                        let valid = &held.certificate;
                        assert!(valid.not_before <= self.now.wall, "activated too early");
                        assert!(self.now.wall <= valid.not_after, "activated after its end");
                    }
                    self.last_activated = Some(activation.serial);
                }
                Action::DiscardKey { key, .. } => {
                    assert!(self.discarded.insert(key), "a key is destroyed twice");
                    let current = self.rotation.current().map(|held| held.key);
                    assert_ne!(current, Some(key), "the key in force is destroyed");
                }
                _ => {}
            }
        }
        while self.rotation.poll_event().is_some() {}
    }

    /// Lets the time pass as rotation asks for
    fn pass(&mut self, by: Duration, authority_answers: bool) {
        let until = self.now.monotone + by;
        self.settle();
        if authority_answers {
            self.issue();
        }
        while self.now.monotone < until {
            let due = self.rotation.poll_timeout();
            assert!(due > self.now.monotone, "rotation runs without the time passing");
            assert!(due <= self.now.monotone + CLOCK_REREAD_LIMIT, "the clock is not read again");
            let at = due.min(until);
            self.now.wall += at - self.now.monotone;
            self.now.monotone = at;
            self.rotation.handle_time(self.now);
            self.settle();
            if authority_answers {
                self.issue();
                self.confirm();
            }
        }
    }

    fn issue(&mut self) {
        while let Some(request) = self.pending.take() {
            self.serials += 1;
            let certificate = facts(format!("n{}", self.serials), self.now.wall);
            let theirs = Some(self.now.wall);
            // A refusal is an answer too; what must not happen is that it ends the hunt.
            let _judged =
                self.rotation.handle_issued(request.key, certificate, None, theirs, self.now);
            self.settle();
        }
    }

    fn confirm(&mut self) {
        if let Some(serial) = self.last_activated.take() {
            self.rotation.handle_activated(&serial, self.now);
            self.settle();
        }
    }

    fn happen(&mut self, mishap: Mishap) {
        let now = self.now;
        match mishap {
            Mishap::Pass(by) => return self.pass(by, false),
            Mishap::Fail(which) => {
                if let Some(request) = self.pending.take() {
                    self.rotation.handle_failed(request.attempt, Failure::ALL[which], None, now);
                }
            }
            Mishap::Overload(patience) => {
                if let Some(request) = self.pending.take() {
                    let overloaded = Failure::Overloaded;
                    self.rotation.handle_failed(request.attempt, overloaded, Some(patience), now);
                }
            }
            Mishap::Issue => self.issue(),
            Mishap::IssueNonsense(how) => self.issue_nonsense(how),
            Mishap::Revoke(which) => {
                let held = match which % 3 {
                    0 => self.rotation.current(),
                    1 => self.rotation.successor(),
                    _ => self.rotation.draining().next(),
                };
                let serial = held.map(|held| held.certificate.serial.clone());
                self.rotation.handle_revoked(serial.as_deref().unwrap_or("nobody"), now);
            }
            Mishap::Suspend(by) => self.now.wall += by,
            Mishap::SetBack(by) => self.now.wall -= by,
            Mishap::Window(from, until) => {
                let window = RenewalWindow { start: now.wall + from, end: now.wall + until };
                let serial = self.rotation.current().map(|held| held.certificate.serial.clone());
                let serial = serial.unwrap_or_default();
                self.rotation.handle_renewal_information(&serial, Some(window), Some(from), now);
            }
            Mishap::SwapFails => {
                if let Some(serial) = self.last_activated.take() {
                    self.rotation.handle_activation_failed(&serial, "as the test wants", now);
                }
            }
            Mishap::Open(id, left) => {
                let own = self.rotation.current().map(|held| held.certificate.serial.clone());
                let connection = Connection {
                    own_serial: own.unwrap_or_default(),
                    peer_not_after: now.wall + left,
                };
                self.rotation.handle_connection_opened(id, connection, now).unwrap();
            }
            Mishap::Close(id) => self.rotation.handle_connection_closed(id, now),
        }
        self.settle();
    }

    fn issue_nonsense(&mut self, how: u8) {
        let Some(request) = self.pending.take() else { return };
        let mut certificate = facts(format!("x{how}"), self.now.wall);
        match how % 5 {
            0 => certificate.serial = "old".to_owned(),
            1 => certificate.not_after = certificate.not_before,
            2 => certificate.not_after = self.now.wall - HOUR,
            3 => certificate.not_before = self.now.wall + 100 * HOUR,
            _ => certificate.not_after = self.now.wall + SECOND,
        }
        let _judged = self.rotation.handle_issued(request.key, certificate, None, None, self.now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happened: no certificate is activated twice, no key serves twice, and once the authority
    /// answers again there is a valid certificate in force within the longest wait.
    #[test]
    fn the_loop_never_ends_and_nothing_is_activated_twice(
        seed: u64,
        authorities in 1..4_usize,
        enrolled: bool,
        mishaps in prop::collection::vec(mishap(), 0..60),
    ) {
        let mut world = World::new(seed, authorities, enrolled);
        for mishap in mishaps {
            world.happen(mishap);
        }
        world.confirm();
        // The longest that anything may be put off: patience asked for, its spread, and one wait.
        let longest = 2 * stoq_trustchain::rotation::RETRY_AFTER_LIMIT
            + world.settings.backoff_cap + world.settings.request_timeout + CLOCK_REREAD_LIMIT;
        world.pass(longest, true);
        let current = world.rotation.current().expect("a certificate is in force");
        let certificate = &current.certificate;
        let wall = world.now.wall;
        // Where the clock was set back, the one in force may lie ahead; nobody can mend that but the clock.
        prop_assert!(wall <= certificate.not_after, "it has ended");
    }

    /// With an authority that can be reached, however late it is at times, there is never a moment without a
    /// valid certificate.
    #[test]
    fn no_gap_as_long_as_the_authority_is_away_for_less_than_the_budget(
        seed: u64,
        outages in prop::collection::vec((seconds(0..80_000), seconds(0..21_600)), 1..8),
    ) {
        let mut world = World::new(seed, 1, true);
        let valid = |world: &World| {
            let held = world.rotation.current().expect("a certificate is in force");
            let wall = world.now.wall;
            held.certificate.not_before <= wall && wall <= held.certificate.not_after
        };
        for (up, down) in outages {
            // Long enough to catch up with what an outage before has put off.
            let mut left = up + HOUR;
            while left > Duration::ZERO {
                let step = left.min(600 * SECOND);
                world.pass(step, true);
                world.confirm();
                prop_assert!(valid(&world), "a gap while the authority answers");
                left -= step;
            }
            let mut left = down;
            while left > Duration::ZERO {
                let step = left.min(600 * SECOND);
                world.pass(step, false);
                if let Some(request) = world.pending.take() {
                    let failure = Failure::Unreachable;
                    world.rotation.handle_failed(request.attempt, failure, None, world.now);
                    world.settle();
                }
                world.confirm();
                prop_assert!(valid(&world), "a gap after {down:?} without the authority");
                left -= step;
            }
        }
    }
}
