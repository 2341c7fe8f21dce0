//! Rotation step by step: a driver that moves both clocks and answers as each test says.

mod fetching;
mod turns;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
enum Answer {
    Nothing,
    Issue,
    Fail(Failure, Option<Duration>),
}

struct Bench {
    rotation: Rotation,
    now: Now,
    start: SystemTime,
    answer: Answer,
    confirm: bool,
    window: Option<RenewalWindow>,
    serials: u32,
    actions: Vec<(SystemTime, Action)>,
    events: Vec<Event>,
}

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// As the authority issues: backdated five minutes, 24 hours, whole seconds, both ends included
fn facts(serial: &str, wall: SystemTime) -> CertificateFacts {
    let since = wall.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let not_before = UNIX_EPOCH + Duration::from_secs(since) - 5 * MINUTE;
    CertificateFacts {
        serial: serial.to_owned(),
        not_before,
        not_after: not_before + 24 * HOUR - SECOND,
    }
}

impl Bench {
    fn with(authorities: &[&str], current: Option<CertificateFacts>, seed: u64) -> Self {
        let now = Now { wall: start(), monotone: Instant::now() };
        let beginning = Beginning {
            authorities: authorities.iter().map(|name| (*name).to_owned()).collect(),
            current: current.map(|certificate| Held { certificate, key: KeySlot(0) }),
            successor: None,
            next_key: KeySlot(1),
            seed,
        };
        let rotation = Rotation::new(RotationSettings::default(), beginning, now).unwrap();
        Self {
            rotation,
            now,
            start: start(),
            answer: Answer::Nothing,
            confirm: true,
            window: None,
            serials: 0,
            actions: Vec::new(),
            events: Vec::new(),
        }
    }

    /// One authority and a certificate `old` issued now
    fn running() -> Self {
        Self::with(&["one"], Some(facts("old", start())), 7)
    }

    fn issue(&mut self, key: KeySlot) -> Result<(), CertificateRefusal> {
        self.serials += 1;
        let certificate = facts(&format!("n{}", self.serials), self.now.wall);
        let theirs = Some(self.now.wall);
        self.rotation.handle_issued(key, certificate, self.window, theirs, self.now)
    }

    /// Carries out what is asked, as long as something is
    fn settle(&mut self) {
        while let Some(action) = self.rotation.poll_action() {
            match (&action, self.answer) {
                (Action::Request(request), Answer::Issue) => {
                    self.issue(request.key).unwrap();
                }
                (Action::Request(request), Answer::Fail(failure, patience)) => {
                    self.rotation.handle_failed(request.attempt, failure, patience, self.now);
                }
                (Action::Activate(activation), _) if self.confirm => {
                    self.rotation.handle_activated(&activation.serial, self.now);
                }
                _ => {}
            }
            self.actions.push((self.now.wall, action));
        }
        while let Some(event) = self.rotation.poll_event() {
            self.events.push(event);
        }
    }

    fn pass(&mut self, by: Duration) {
        self.settle();
        let until = self.now.monotone + by;
        while self.now.monotone < until {
            let due = self.rotation.poll_timeout();
            assert!(due > self.now.monotone, "rotation wants to run without the time passing");
            assert!(due <= self.now.monotone + CLOCK_REREAD_LIMIT);
            let at = due.min(until);
            self.now.wall += at - self.now.monotone;
            self.now.monotone = at;
            self.rotation.handle_time(self.now);
            self.settle();
        }
    }

    fn pass_until(&mut self, since_start: Duration) {
        let at = self.start + since_start;
        self.pass(at.duration_since(self.now.wall).unwrap());
    }

    fn take(&mut self) -> Vec<(SystemTime, Action)> {
        self.settle();
        std::mem::take(&mut self.actions)
    }

    fn requests(&mut self) -> Vec<(SystemTime, Request)> {
        let requests = self.take().into_iter().filter_map(|(at, action)| match action {
            Action::Request(request) => Some((at, request)),
            _ => None,
        });
        requests.collect()
    }

    fn activations(&mut self) -> Vec<(Duration, Activation)> {
        let start = self.start;
        let activations = self.take().into_iter().filter_map(|(at, action)| match action {
            Action::Activate(activation) => Some((at.duration_since(start).unwrap(), activation)),
            _ => None,
        });
        activations.collect()
    }

    fn count(&self, label: &str) -> u64 {
        self.rotation.counters().find(|(name, _)| *name == label).unwrap().1
    }
}

fn since(later: SystemTime, earlier: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap()
}
