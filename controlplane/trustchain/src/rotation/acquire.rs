//! Fetching a certificate: when, from whom, authenticated how, and what follows from a failure. There is no
//! failure after which it stops. What is done with a certificate that came is in `certificates`.

use std::time::{Duration, Instant, SystemTime};

use super::clock::{CLOCK_SKEW_WARNING, Now};
use super::event::{Action, CertificateFacts, Event, KeySlot, Request, RequestKind};
use super::failure::{CertificateRefusal, Failure};
use super::machine::{Held, Kept, Pursuit, Rotation};
use super::schedule::{
    INFORMATION_INTERVAL_LONGEST, INFORMATION_INTERVAL_SHORTEST, RETRY_AFTER_LIMIT, RenewalWindow,
    between, in_proportion, up_to,
};

impl Rotation {
    /// A certificate was issued for the key in `key`; `window` is the authority's suggestion for its renewal
    /// and `authority_time` what the authority's clock showed.
    ///
    /// An answer that comes after its attempt was given up counts too, as long as its key still waits. The
    /// driver keeps key and certificate where this is `Ok` and stores both durably before it reports.
    pub fn handle_issued(
        &mut self,
        key: KeySlot,
        certificate: CertificateFacts,
        window: Option<RenewalWindow>,
        authority_time: Option<SystemTime>,
        now: Now,
    ) -> Result<(), CertificateRefusal> {
        if let Some(theirs) = authority_time {
            self.compare_clocks(theirs, now);
        }
        let judged = self.judge(key, &certificate, now.wall);
        match judged {
            Ok(()) => self.accept(Held { certificate, key }, window, now),
            Err(refusal) => {
                let serial = certificate.serial;
                self.report(Event::CertificateRefused { serial, refusal });
                if let (Pursuit::InFlight { attempt, .. }, true) =
                    (self.pursuit, self.key == Some(key))
                {
                    self.fail(attempt, Failure::Unusable, None, now);
                }
            }
        }
        self.advance(now);
        judged
    }

    /// An attempt failed; `retry_after` is the patience the authority asks for
    pub fn handle_failed(
        &mut self,
        attempt: u64,
        failure: Failure,
        retry_after: Option<Duration>,
        now: Now,
    ) {
        match self.pursuit {
            Pursuit::InFlight { attempt: flying, .. } if flying == attempt => {
                self.fail(attempt, failure, retry_after, now);
            }
            _ => self.report(Event::LateAnswer { attempt: Some(attempt) }),
        }
        self.advance(now);
    }

    /// The authority's suggestion for the renewal of the certificate `serial` and when it wants to be asked
    /// again (RFC 9773 sections 4.2 and 4.3). A point in the window is drawn once; the same window again
    /// changes nothing.
    pub fn handle_renewal_information(
        &mut self,
        serial: &str,
        window: Option<RenewalWindow>,
        retry_after: Option<Duration>,
        now: Now,
    ) {
        self.ask_information_after(retry_after, now);
        let current = self.current.as_ref().is_some_and(|kept| kept.serial() == serial);
        let place = if current { &mut self.current } else { &mut self.successor };
        match (place.take_if(|kept| kept.serial() == serial), window) {
            (Some(mut kept), Some(window)) => {
                self.apply_window(&mut kept, window);
                self.put_back(kept, current);
            }
            (Some(kept), None) => self.put_back(kept, current),
            (None, _) => {
                let reason = "no certificate with this serial number is held";
                self.report(Event::WindowIgnored { serial: serial.to_owned(), reason });
            }
        }
        self.advance(now);
    }

    fn put_back(&mut self, kept: Kept, current: bool) {
        *(if current { &mut self.current } else { &mut self.successor }) = Some(kept);
    }

    /// Whether there is reason to ask for a certificate
    pub(super) fn wants_certificate(&self, wall: SystemTime) -> bool {
        let dead = self.current.as_ref().is_none_or(|current| current.is_dead(wall));
        match (&self.successor, &self.current) {
            // Made for later, and needed now
            (Some(successor), _) => dead && wall < successor.certificate().not_before,
            (None, None) => true,
            (None, Some(current)) => dead || wall >= current.acquire_at,
        }
    }

    /// When [`Self::wants_certificate`] becomes true by the time alone
    pub(super) fn acquisition_time(&self, now: Now) -> Option<Instant> {
        let current = self.current.as_ref().filter(|current| !current.is_dead(now.wall))?;
        let ends = current.certificate().not_after + Duration::from_millis(1);
        let at = match &self.successor {
            Some(successor) if successor.certificate().not_before > ends => ends,
            Some(_) => return None,
            None => ends.min(current.acquire_at),
        };
        Some(now.monotone_at(at))
    }

    /// Draws when to renew a certificate, as long as the authority suggests nothing
    pub(super) fn keep(&mut self, held: Held) -> Kept {
        let certificate = &held.certificate;
        let scaled = |offset| in_proportion(offset, self.settings.lifetime, certificate.lifetime());
        let (from, until) =
            (scaled(self.settings.acquire_from), scaled(self.settings.acquire_until));
        let acquire_at = certificate.not_before + between(&mut self.random, from, until);
        let serial = certificate.serial.clone();
        self.report(Event::Scheduled { serial, at: acquire_at, suggested: false, cut: false });
        Kept {
            held,
            acquire_at,
            window: None,
            revoked: false,
            end_reported: false,
            confirmed: false,
        }
    }

    fn apply_window(&mut self, kept: &mut Kept, window: RenewalWindow) {
        if kept.window == Some(window) {
            return;
        }
        let serial = kept.serial().to_owned();
        let latest = self.activation_time(kept.certificate());
        if window.end <= window.start || window.start > latest {
            let reason = match window.start > latest {
                true => "it begins after the successor has to take over",
                false => "it ends before it begins",
            };
            self.report(Event::WindowIgnored { serial, reason });
            return;
        }
        let cut = window.end > latest;
        let usable = RenewalWindow { start: window.start, end: window.end.min(latest) };
        kept.window = Some(window);
        kept.acquire_at = usable.choose(&mut self.random);
        self.report(Event::Scheduled { serial, at: kept.acquire_at, suggested: true, cut });
    }

    /// Asks for a certificate where one is wanted and nothing speaks against it now
    pub(super) fn pursue(&mut self, now: Now) {
        let wanted = self.wants_certificate(now.wall);
        match self.pursuit {
            Pursuit::InFlight { .. } => {}
            // The clock was set back, or a staged certificate has become valid.
            Pursuit::Waiting { .. } if !wanted => self.pursuit = Pursuit::Rest,
            Pursuit::Waiting { until } if until > now.monotone => {}
            Pursuit::Rest if !wanted => {}
            Pursuit::Waiting { .. } | Pursuit::Rest => self.request(now),
        }
    }

    fn request(&mut self, now: Now) {
        if let Err(until) = self.choose_authority(now) {
            self.pursuit = Pursuit::Waiting { until };
            return;
        }
        let key = self.key.unwrap_or_else(|| {
            let key = KeySlot(self.next_key);
            self.next_key += 1;
            key
        });
        self.key = Some(key);
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        let kind = self.request_kind(now.wall);
        let authority = self.authorities[self.authority].name.clone();
        let deadline = now.monotone + self.settings.request_timeout;
        self.pursuit = Pursuit::InFlight { attempt, deadline };
        let label = kind.label();
        self.report(Event::Requested { attempt, authority: authority.clone(), kind: label });
        self.act(Action::Request(Request { attempt, key, authority, kind }));
    }

    /// The certificate in force serves while it lasts as long as the request may take
    fn request_kind(&self, wall: SystemTime) -> RequestKind {
        let serves = |current: &&Kept| {
            let arrives = wall + self.settings.request_timeout;
            !self.must_re_enrol && !current.revoked && !current.certificate().ended(arrives)
        };
        match self.current.as_ref().filter(serves) {
            Some(current) => RequestKind::Renew { serial: current.serial().to_owned() },
            None => RequestKind::ReEnrol,
        }
    }

    /// Stays with the present authority, or goes on to the next that has not asked for patience; where all
    /// have, the error is when the first is ready again
    fn choose_authority(&mut self, now: Now) -> Result<(), Instant> {
        let count = self.authorities.len();
        let mut earliest: Option<Instant> = None;
        for step in 0..count {
            let place = (self.authority + step) % count;
            match self.authorities[place].not_before.filter(|until| *until > now.monotone) {
                None => {
                    self.switch_to(place);
                    return Ok(());
                }
                Some(until) => earliest = Some(earliest.map_or(until, |known| known.min(until))),
            }
        }
        Err(earliest.unwrap_or(now.monotone))
    }

    fn switch_to(&mut self, place: usize) {
        if place == self.authority {
            return;
        }
        let name = |place: usize| self.authorities[place].name.clone();
        let (from, to) = (name(self.authority), name(place));
        self.authority = place;
        self.failures_here = 0;
        // The former may have certified it without our knowing.
        self.discard_waiting_key();
        self.report(Event::AuthoritySwitched { from, to });
    }

    fn discard_waiting_key(&mut self) {
        if let Some(key) = self.key.take() {
            self.act(Action::DiscardKey { key, serial: None });
        }
    }

    /// The authority that was asked is gone from the list
    pub(super) fn give_up_attempt(&mut self, now: Now) {
        if let Pursuit::InFlight { attempt, .. } = self.pursuit {
            self.act(Action::Abandon { attempt });
        }
        if self.pursuit != Pursuit::Rest {
            // Many nodes may have been given the new list at once.
            self.wait_urgently(now);
        }
        self.discard_waiting_key();
    }

    pub(super) fn abandon_overdue(&mut self, now: Now) {
        if let Pursuit::InFlight { attempt, deadline } = self.pursuit
            && deadline <= now.monotone
        {
            self.act(Action::Abandon { attempt });
            self.fail(attempt, Failure::Timeout, None, now);
        }
    }

    fn fail(&mut self, attempt: u64, failure: Failure, retry_after: Option<Duration>, now: Now) {
        let authority = self.authorities[self.authority].name.clone();
        if let Some(patience) = retry_after {
            let patience = patience.min(RETRY_AFTER_LIMIT);
            // Everybody was told the same; coming back together would be the next herd.
            let spread = up_to(&mut self.random, patience);
            self.authorities[self.authority].not_before = Some(now.monotone + patience + spread);
        }
        match failure {
            Failure::CertificateRefused => self.must_re_enrol = true,
            Failure::KeyRefused | Failure::Local | Failure::Unusable => self.discard_waiting_key(),
            _ => {}
        }
        let retry_in = self.backoff.next(&mut self.random);
        self.pursuit = Pursuit::Waiting { until: now.monotone + retry_in };
        self.report(Event::Failed { attempt, authority, failure, retry_in });
        self.failures_here = self.failures_here.saturating_add(1);
        if self.failures_here >= self.settings.failures_per_authority {
            self.switch_to((self.authority + 1) % self.authorities.len());
        }
    }

    fn judge(
        &self,
        key: KeySlot,
        certificate: &CertificateFacts,
        wall: SystemTime,
    ) -> Result<(), CertificateRefusal> {
        let refuse = |when: bool, refusal| if when { Err(refusal) } else { Ok(()) };
        refuse(self.key != Some(key), CertificateRefusal::UnknownKey)?;
        refuse(self.has_seen(&certificate.serial), CertificateRefusal::Repeated)?;
        let (from, until) = (certificate.not_before, certificate.not_after);
        refuse(until <= from, CertificateRefusal::NoLifetime)?;
        refuse(certificate.ended(wall), CertificateRefusal::Ended)?;
        match self.current.as_ref().filter(|current| !current.is_dead(wall)) {
            Some(current) => {
                let ends = current.certificate().not_after;
                refuse(from > ends, CertificateRefusal::NotYetValid)?;
                refuse(until <= ends, CertificateRefusal::NoGain)
            }
            None => refuse(from > wall, CertificateRefusal::NotYetValid),
        }
    }

    fn accept(&mut self, held: Held, window: Option<RenewalWindow>, now: Now) {
        self.pursuit = Pursuit::Rest;
        self.backoff.reset();
        self.failures_here = 0;
        self.must_re_enrol = false;
        self.key = None;
        self.ask_information_after(None, now);
        let certificate = &held.certificate;
        let (serial, not_after) = (certificate.serial.clone(), certificate.not_after);
        self.report(Event::Acquired { serial, not_after });
        let mut kept = self.keep(held);
        if let Some(window) = window {
            self.apply_window(&mut kept, window);
        }
        if let Some(passed_over) = self.successor.replace(kept) {
            self.retire(passed_over);
        }
    }

    fn compare_clocks(&mut self, theirs: SystemTime, now: Now) {
        let (by, ahead) = match now.wall.duration_since(theirs) {
            Ok(by) => (by, true),
            Err(behind) => (behind.duration(), false),
        };
        if by > CLOCK_SKEW_WARNING {
            self.report(Event::ClockSkewed { by, ahead });
        }
    }

    pub(super) fn ask_information_after(&mut self, retry_after: Option<Duration>, now: Now) {
        let interval = retry_after
            .unwrap_or(self.settings.information_interval)
            .clamp(INFORMATION_INTERVAL_SHORTEST, INFORMATION_INTERVAL_LONGEST);
        let spread = up_to(&mut self.random, interval / 10);
        self.information_due = now.monotone + interval + spread;
    }

    /// When the authority is to be asked for its window; not while a certificate is being fetched or waits
    pub(super) fn information_time(&self, now: Now) -> Option<Instant> {
        let current = self.current.as_ref()?;
        let idle = self.pursuit == Pursuit::Rest && self.successor.is_none();
        (idle && !current.is_dead(now.wall)).then_some(self.information_due)
    }

    pub(super) fn ask_information(&mut self, now: Now) {
        let due = self.information_time(now).is_some_and(|at| at <= now.monotone);
        let Some(current) = self.current.as_ref().filter(|_| due) else { return };
        let serial = current.serial().to_owned();
        let authority = self.authorities[self.authority].name.clone();
        self.ask_information_after(None, now);
        self.act(Action::AskRenewalInformation { authority, serial });
    }
}
