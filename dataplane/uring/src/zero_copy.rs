//! Whether sends avoid the kernel's copy: decided by trying. A copied "zero-copy" send is slower than a plain
//! one, and on loopback, veth and devices without scatter-gather every one is copied. Pure: the policy is told
//! what happened and answers what to do.

use std::net::{Ipv6Addr, SocketAddrV6};

use stoq_udp::{ZeroCopy, ZeroCopyState};

/// Below this many octets pinning costs more than copying (Documentation/networking/msg_zerocopy.rst)
const THRESHOLD_BYTES: usize = 10_240;
/// Trains sent with zero copy to find out
const TRIAL_TRAINS: u32 = 8;
/// Notifications over which copies are counted while in use
const WINDOW: u32 = 64;
/// Copies within a window that end it
const COPIES_MAX: u32 = WINDOW / 4;

#[derive(Clone, Debug)]
enum State {
    Off(String),
    Trial { to_send: u32, outstanding: u32 },
    On { notified: u32, copied: u32 },
    Forced,
}

/// Decides for each train; one per socket
#[derive(Clone, Debug)]
pub struct ZeroCopyPolicy {
    state: State,
}

impl ZeroCopyPolicy {
    /// A policy at its start; `registered` tells whether the send memory is registered with the ring
    pub fn new(wanted: ZeroCopy, registered: bool) -> Self {
        let off = |reason: &str| State::Off(reason.to_owned());
        let state = match wanted {
            ZeroCopy::Off => off("switched off by configuration"),
            ZeroCopy::Always => State::Forced,
            ZeroCopy::Measured if !registered => off("the send memory is not registered"),
            ZeroCopy::Measured => State::Trial { to_send: TRIAL_TRAINS, outstanding: 0 },
        };
        Self { state }
    }

    /// Whether to send this train without a copy; a yes counts as sent
    pub fn wants(&mut self, bytes: usize, to: &SocketAddrV6, from: Option<Ipv6Addr>) -> bool {
        if matches!(self.state, State::Forced) {
            return true;
        }
        if bytes < THRESHOLD_BYTES || to.ip().is_loopback() || from == Some(*to.ip()) {
            return false;
        }
        match &mut self.state {
            State::Trial { to_send, outstanding } if *to_send > 0 => {
                *to_send -= 1;
                *outstanding += 1;
                true
            }
            State::On { .. } => true,
            _ => false,
        }
    }

    /// The kernel is done with a train: whether it copied it after all
    pub fn notified(&mut self, copied: bool) {
        match &mut self.state {
            State::Trial { .. } if copied => self.turn_off(format!(
                "the kernel copied a train of the trial: the device lacks scatter-gather or \
                 checksum offload, or the route is local (threshold {THRESHOLD_BYTES} octets)"
            )),
            State::Trial { to_send, outstanding } => {
                *outstanding = outstanding.saturating_sub(1);
                if (*to_send, *outstanding) == (0, 0) {
                    tracing::info!("zero-copy sends are on: {TRIAL_TRAINS} trial trains uncopied");
                    self.state = State::On { notified: 0, copied: 0 };
                }
            }
            State::On { notified, copied: copies } => {
                *notified += 1;
                *copies += u32::from(copied);
                if *copies > COPIES_MAX {
                    let reason = format!("the kernel copied {copies} of {notified} trains");
                    self.turn_off(reason);
                } else if *notified == WINDOW {
                    self.state = State::On { notified: 0, copied: 0 };
                }
            }
            State::Off(_) | State::Forced => {}
        }
    }

    /// The kernel refused a zero-copy send that it might have taken as a plain one
    pub fn refused(&mut self, reason: &std::io::Error) {
        if !matches!(self.state, State::Forced | State::Off(_)) {
            self.turn_off(format!("the kernel refused a zero-copy send: {reason}"));
        }
    }

    fn turn_off(&mut self, reason: String) {
        tracing::info!(reason, "zero-copy sends are off");
        self.state = State::Off(reason);
    }

    /// For status pages
    pub fn state(&self) -> ZeroCopyState {
        match &self.state {
            State::Off(reason) => ZeroCopyState::Off(reason.clone()),
            State::Trial { .. } => ZeroCopyState::Trying,
            State::On { .. } | State::Forced => ZeroCopyState::On,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far() -> SocketAddrV6 {
        SocketAddrV6::new("2001:db8::1".parse().unwrap(), 1, 0, 0)
    }

    fn tried() -> ZeroCopyPolicy {
        let mut policy = ZeroCopyPolicy::new(ZeroCopy::Measured, true);
        for _ in 0..TRIAL_TRAINS {
            assert!(policy.wants(60_000, &far(), None));
        }
        assert!(!policy.wants(60_000, &far(), None), "the trial waits for its outcome");
        policy
    }

    #[test]
    fn loopback_and_small_trains_are_never_tried() {
        let mut policy = ZeroCopyPolicy::new(ZeroCopy::Measured, true);
        let near = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 0, 0);
        assert!(!policy.wants(60_000, &near, None));
        assert!(!policy.wants(60_000, &far(), Some(*far().ip())));
        assert!(!policy.wants(1452, &far(), None));
        assert_eq!(policy.state(), ZeroCopyState::Trying);
    }

    #[test]
    fn a_clean_trial_switches_on() {
        let mut policy = tried();
        for _ in 0..TRIAL_TRAINS {
            policy.notified(false);
        }
        assert_eq!(policy.state(), ZeroCopyState::On);
        assert!(policy.wants(60_000, &far(), None));
        assert!(!policy.wants(1452, &far(), None));
    }

    #[test]
    fn one_copy_ends_the_trial_for_good() {
        let mut policy = tried();
        policy.notified(true);
        for _ in 1..TRIAL_TRAINS {
            policy.notified(false);
        }
        assert!(matches!(policy.state(), ZeroCopyState::Off(reason) if reason.contains("copied")));
        assert!(!policy.wants(60_000, &far(), None));
    }

    #[test]
    fn few_copies_are_borne_and_many_end_it() {
        let mut policy = tried();
        for _ in 0..TRIAL_TRAINS {
            policy.notified(false);
        }
        for number in 0..WINDOW * 4 {
            policy.notified(number % 8 == 0);
        }
        assert_eq!(policy.state(), ZeroCopyState::On);
        for _ in 0..=COPIES_MAX {
            policy.notified(true);
        }
        assert!(matches!(policy.state(), ZeroCopyState::Off(_)));
    }

    #[test]
    fn refusals_and_settings_are_reasons() {
        let mut policy = tried();
        policy.refused(&std::io::Error::from_raw_os_error(libc::EINVAL));
        assert!(matches!(policy.state(), ZeroCopyState::Off(reason) if reason.contains("refused")));
        let off = ZeroCopyPolicy::new(ZeroCopy::Off, true).state();
        assert!(matches!(off, ZeroCopyState::Off(reason) if reason.contains("configuration")));
        let unregistered = ZeroCopyPolicy::new(ZeroCopy::Measured, false).state();
        assert!(
            matches!(unregistered, ZeroCopyState::Off(reason) if reason.contains("registered"))
        );
        let mut forced = ZeroCopyPolicy::new(ZeroCopy::Always, true);
        let near = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 0, 0);
        forced.notified(true);
        assert!(forced.wants(1, &near, None));
    }
}
