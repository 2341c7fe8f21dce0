//! Connection IDs that say which worker owns the connection. Octet 0 keeps the shape of QUIC-LB for hosts
//! without a load balancer's configuration; octets 1 to 4, multiplied by a secret odd key, give the worker.
//! The steering program of `stoq-udp` computes the same, in the kernel.

use rand::Rng;

/// Length of every connection ID this host issues
pub const CONNECTION_ID_BYTES: usize = 12;

/// A connection ID issued by this host
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ConnectionId(pub [u8; CONNECTION_ID_BYTES]);

/// Maps connection IDs to workers and issues IDs for one of them
#[derive(Clone, Copy, Debug)]
pub struct Steering {
    key: u32,
    workers: u32,
}

impl Steering {
    /// `key` is made odd: an even one would fold the space
    pub fn new(key: u32, workers: usize) -> Self {
        Self { key: key | 1, workers: workers.max(1) as u32 }
    }

    /// The key
    pub fn key(&self) -> u32 {
        self.key
    }

    /// The worker that a connection ID belongs to, `None` when it is not one of this host's shape
    pub fn worker_of(&self, id: &[u8]) -> Option<usize> {
        if id.len() != CONNECTION_ID_BYTES {
            return None;
        }
        Some(self.worker_of_any(id))
    }

    /// The worker that a connection ID of any shape leads to: those that clients choose for their first
    /// flight are random, so that this spreads handshakes evenly and keeps each on one worker. One too short
    /// for that leads to worker 0.
    pub fn worker_of_any(&self, id: &[u8]) -> usize {
        let Some(&[_, a, b, c, d]) = id.first_chunk::<5>() else { return 0 };
        let word = u32::from_be_bytes([a, b, c, d]);
        ((word.wrapping_mul(self.key) >> 16) % self.workers) as usize
    }

    /// A fresh connection ID that steers to `worker`
    pub fn issue(&self, worker: usize, random: &mut impl Rng) -> ConnectionId {
        loop {
            let mut id = [0; CONNECTION_ID_BYTES];
            random.fill(&mut id);
            // Configuration 0b111: routable by no load balancer (draft-ietf-quic-load-balancers).
            id[0] |= 0b1110_0000;
            if self.worker_of(&id) == Some(worker) {
                return ConnectionId(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn an_issued_id_leads_back_to_its_worker() {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        for workers in [1, 2, 3, 64] {
            let steering = Steering::new(0x9e37_79b8, workers);
            for worker in 0..workers {
                let id = steering.issue(worker, &mut random);
                assert_eq!(steering.worker_of(&id.0), Some(worker));
                assert_eq!(id.0[0] >> 5, 0b111);
            }
        }
        assert_eq!(Steering::new(1, 2).worker_of(&[0; 8]), None);
    }
}
