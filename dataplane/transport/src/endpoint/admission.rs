//! Who may begin a handshake: limits on half-open connections in total and by /64 prefix, address validation
//! by Retry under load, and the tokens that carry it. Stateless but for two counts.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stoq_interface::{DropReason, Limits};

/// Time a Retry token is good for
const TOKEN_LIFETIME: Duration = Duration::from_secs(15);
const MAC_BYTES: usize = 16;

/// Secrets shared by all workers of an endpoint, drawn at start
#[derive(Clone)]
pub struct EndpointSecrets {
    /// Keys Retry tokens
    pub token: [u8; 32],
    /// Keys stateless reset tokens
    pub reset: [u8; 32],
    /// Keys steering
    pub steering: u32,
}

impl EndpointSecrets {
    /// Draws fresh secrets
    pub fn random() -> Self {
        Self { token: rand::random(), reset: rand::random(), steering: rand::random() }
    }

    /// The stateless reset token of a connection ID (RFC 9000 section 10.3)
    pub fn reset_token(&self, connection_id: &[u8]) -> u128 {
        let digest = blake3::keyed_hash(&self.reset, connection_id);
        let mut token = [0; 16];
        token.copy_from_slice(&digest.as_bytes()[..16]);
        u128::from_be_bytes(token)
    }

    /// A Retry token: time, original destination, MAC over both, the address and the Retry's source
    pub fn mint_token(
        &self,
        now: SystemTime,
        remote: SocketAddrV6,
        original: &[u8],
        retry_source: &[u8],
    ) -> Vec<u8> {
        let mut token = Vec::with_capacity(8 + original.len() + MAC_BYTES);
        token.extend_from_slice(&seconds(now).to_be_bytes());
        token.extend_from_slice(original);
        let mac = self.token_mac(&token, remote, retry_source);
        token.extend_from_slice(&mac);
        token
    }

    /// The original destination of a valid token
    pub fn check_token(
        &self,
        now: SystemTime,
        remote: SocketAddrV6,
        token: &[u8],
        retry_source: &[u8],
    ) -> Option<Vec<u8>> {
        let split = token.len().checked_sub(MAC_BYTES).filter(|at| *at >= 8)?;
        let (body, mac) = token.split_at(split);
        // The hash's own equality takes constant time; a truncated one is compared likewise.
        let expected = self.token_mac(body, remote, retry_source);
        let differing = expected.iter().zip(mac).fold(0, |sum, (a, b)| sum | (a ^ b));
        let mut minted = [0; 8];
        minted.copy_from_slice(&body[..8]);
        let age = seconds(now).checked_sub(u64::from_be_bytes(minted))?;
        (differing == 0 && age <= TOKEN_LIFETIME.as_secs()).then(|| body[8..].to_vec())
    }

    fn token_mac(&self, body: &[u8], remote: SocketAddrV6, retry_source: &[u8]) -> [u8; MAC_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.token);
        hasher.update(&[body.len() as u8]);
        hasher.update(body);
        hasher.update(&remote.ip().octets());
        hasher.update(&remote.port().to_be_bytes());
        hasher.update(retry_source);
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&hasher.finalize().as_bytes()[..MAC_BYTES]);
        mac
    }
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Counts of handshakes under way
#[derive(Debug, Default)]
pub struct HalfOpen {
    total: usize,
    prefixes: HashMap<[u8; 8], usize>,
}

/// Verdict on a new Initial
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// Go on
    Accept,
    /// Ask for proof of address first
    Retry,
    /// Drop it
    Refuse(DropReason),
}

impl HalfOpen {
    /// Handshakes under way
    pub fn total(&self) -> usize {
        self.total
    }

    /// Judges a new Initial; `validated` where a token has proved the address
    pub fn judge(&self, limits: &Limits, remote: SocketAddrV6, validated: bool) -> Admission {
        if self.total >= limits.half_open_per_worker {
            return Admission::Refuse(DropReason::HalfOpenTotal);
        }
        if !validated && self.total >= limits.retry_above_half_open {
            return Admission::Retry;
        }
        let of_prefix = self.prefixes.get(&prefix(*remote.ip())).copied().unwrap_or(0);
        if of_prefix >= limits.half_open_per_prefix {
            return Admission::Refuse(DropReason::HalfOpenPrefix);
        }
        Admission::Accept
    }

    /// A handshake began
    pub fn begin(&mut self, remote: SocketAddrV6) {
        self.total += 1;
        *self.prefixes.entry(prefix(*remote.ip())).or_default() += 1;
    }

    /// A handshake ended, either way
    pub fn end(&mut self, remote: SocketAddrV6) {
        self.total = self.total.saturating_sub(1);
        let key = prefix(*remote.ip());
        if let Some(count) = self.prefixes.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.prefixes.remove(&key);
            }
        }
    }
}

fn prefix(address: Ipv6Addr) -> [u8; 8] {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&address.octets()[..8]);
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(text: &str) -> SocketAddrV6 {
        text.parse().unwrap()
    }

    #[test]
    fn a_token_is_good_for_one_address_and_a_short_time() {
        let secrets = EndpointSecrets::random();
        let now = SystemTime::now();
        let here = remote("[2001:db8::1]:1000");
        let token = secrets.mint_token(now, here, b"original", b"retry");
        let check = |at, from, token: &[u8], id: &[u8]| secrets.check_token(at, from, token, id);
        assert_eq!(check(now, here, &token, b"retry").as_deref(), Some(&b"original"[..]));
        assert_eq!(check(now, remote("[2001:db8::1]:1001"), &token, b"retry"), None);
        assert_eq!(check(now, remote("[2001:db8::2]:1000"), &token, b"retry"), None);
        assert_eq!(check(now, here, &token, b"other"), None);
        let late = now + TOKEN_LIFETIME + Duration::from_secs(1);
        assert_eq!(check(late, here, &token, b"retry"), None);
        for index in 0..token.len() {
            let mut bad = token.clone();
            bad[index] ^= 1;
            assert_eq!(check(now, here, &bad, b"retry"), None, "octet {index}");
            assert_eq!(check(now, here, &token[..index], b"retry"), None);
        }
    }

    #[test]
    fn limits_apply_by_total_and_by_prefix() {
        let limits = Limits {
            half_open_per_worker: 4,
            half_open_per_prefix: 2,
            retry_above_half_open: 3,
            ..Limits::default()
        };
        let mut half_open = HalfOpen::default();
        let near = remote("[2001:db8::1]:1");
        let neighbour = remote("[2001:db8::ffff]:2");
        let far = remote("[2001:db8:0:1::1]:1");
        half_open.begin(near);
        assert_eq!(half_open.judge(&limits, neighbour, false), Admission::Accept);
        half_open.begin(neighbour);
        let refused = Admission::Refuse(DropReason::HalfOpenPrefix);
        assert_eq!(half_open.judge(&limits, near, false), refused);
        assert_eq!(half_open.judge(&limits, far, false), Admission::Accept);
        half_open.begin(far);
        assert_eq!(half_open.judge(&limits, far, false), Admission::Retry);
        assert_eq!(half_open.judge(&limits, far, true), Admission::Accept);
        half_open.begin(far);
        let refused = Admission::Refuse(DropReason::HalfOpenTotal);
        assert_eq!(half_open.judge(&limits, far, true), refused);
        for address in [near, neighbour, far, far] {
            half_open.end(address);
        }
        assert_eq!(half_open.total(), 0);
        assert!(half_open.prefixes.is_empty());
    }
}
