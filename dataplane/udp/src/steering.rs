//! Which worker a datagram belongs to: a keyed hash of four octets of its destination connection ID, the same
//! in a classic BPF program on the reuseport group and here. Octet 0 of the connection ID is left alone, so
//! that it can stay in the shape QUIC-LB wants. The key keeps outsiders from aiming at one worker by
//! arithmetic alone; it is no cryptographic secret, and nothing but load depends on it.

use crate::{Socket, SocketError};

/// Octets of every connection ID that this host issues
pub const CONNECTION_ID_BYTES: usize = 12;

// QUIC's invariants (RFC 8999 section 5): where the destination connection ID starts in a datagram.
const SHORT_ID_AT: usize = 1;
const LONG_ID_LENGTH_AT: usize = 5;
const LONG_ID_AT: usize = 6;
// The hashed octets start at octet 1 of the connection ID.
const WORD_AT: usize = 1;
const LONG_HEADER: u8 = 0x80;
/// Clear in Initial (0x00) and 0-RTT (0x10), set in Handshake and Retry (RFC 9000 section 17.2)
const NOT_FIRST_FLIGHT: u8 = 0x20;

/// The steering function of one endpoint
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Steering {
    key: u32,
    inverse: u32,
    workers: u32,
}

impl Steering {
    /// A function onto `workers` workers (1 to 65,536; other numbers are brought within) keyed by `key`, of
    /// which the lowest bit is always set, so that the hash can be inverted
    pub fn new(key: u32, workers: u32) -> Self {
        let key = key | 1;
        // Newton's iteration for the inverse modulo 2^32: correct bits double from the 3 that any odd number
        // has as its own inverse.
        let mut inverse = key;
        for _ in 0..4 {
            inverse = inverse.wrapping_mul(2u32.wrapping_sub(key.wrapping_mul(inverse)));
        }
        Self { key, inverse, workers: workers.clamp(1, 1 << 16) }
    }

    /// Number of workers
    pub fn workers(&self) -> usize {
        self.workers as usize
    }

    fn worker_of_word(&self, word: u32) -> usize {
        ((word.wrapping_mul(self.key) >> 16) % self.workers) as usize
    }

    /// The worker a connection ID names; one too short to have been issued here names worker 0
    pub fn worker_of(&self, connection_id: &[u8]) -> usize {
        word_at(connection_id, WORD_AT).map_or(0, |word| self.worker_of_word(word))
    }

    /// The worker a datagram's first packet names; `None` where the kernel chooses by processor: first
    /// flights, whose connection IDs the peer invented, and datagrams too short or of another ID length
    pub fn worker_of_datagram(&self, datagram: &[u8]) -> Option<usize> {
        let first = *datagram.first()?;
        if first & LONG_HEADER == 0 {
            return word_at(datagram, SHORT_ID_AT + WORD_AT).map(|word| self.worker_of_word(word));
        }
        let issued_here = datagram.get(LONG_ID_LENGTH_AT) == Some(&(CONNECTION_ID_BYTES as u8));
        if first & NOT_FIRST_FLIGHT == 0 || !issued_here {
            return None;
        }
        word_at(datagram, LONG_ID_AT + WORD_AT).map(|word| self.worker_of_word(word))
    }

    /// Writes the four steered octets of a connection ID so that it names `worker`, evenly spread over all
    /// such values when `random` is
    ///
    /// # Panics
    /// If the connection ID has fewer than five octets, or there is no such worker.
    pub fn place(&self, connection_id: &mut [u8], worker: usize, random: u32) {
        let worker = u32::try_from(worker).unwrap_or(u32::MAX);
        assert!(worker < self.workers, "worker {worker} of {}", self.workers);
        // Values of the upper 16 bits that leave this remainder: worker, worker + workers, and so on.
        let choices = (0xffff - worker) / self.workers + 1;
        let high = worker + self.workers * ((random >> 16) % choices);
        let hash = (high << 16) | (random & 0xffff);
        let word = hash.wrapping_mul(self.inverse);
        connection_id[WORD_AT..WORD_AT + 4].copy_from_slice(&word.to_be_bytes());
    }

    /// The classic BPF program. Offset 0 is the first octet of the UDP payload: before a reuseport program
    /// runs, the kernel pulls the UDP header. Loads are big-endian, arithmetic wraps at 32 bits.
    pub fn program(&self) -> Vec<libc::sock_filter> {
        let load_byte = |at: usize| plain(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at as u32);
        let load_word = |at: usize| plain(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at as u32);
        let load_length = || plain(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0);
        let compute = |op: u32, with: u32| plain(libc::BPF_ALU | op | libc::BPF_K, with);
        let short_end = (SHORT_ID_AT + WORD_AT + 4) as u32;
        let long_end = (LONG_ID_AT + WORD_AT + 4) as u32;
        // Instructions are numbered on the right; jumps count from the next one.
        vec![
            load_length(),                                                // 0
            jump(libc::BPF_JGE, short_end, 0, 14),                        // 1: else 16
            load_byte(0),                                                 // 2
            jump(libc::BPF_JSET, u32::from(LONG_HEADER), 2, 0),           // 3: long 6
            load_word(SHORT_ID_AT + WORD_AT),                             // 4
            plain(libc::BPF_JMP | libc::BPF_JA, 6),                       // 5: hash 12
            jump(libc::BPF_JSET, u32::from(NOT_FIRST_FLIGHT), 0, 9),      // 6: else 16
            load_length(),                                                // 7
            jump(libc::BPF_JGE, long_end, 0, 7),                          // 8: else 16
            load_byte(LONG_ID_LENGTH_AT),                                 // 9
            jump(libc::BPF_JEQ, CONNECTION_ID_BYTES as u32, 0, 5),        // 10: else 16
            load_word(LONG_ID_AT + WORD_AT),                              // 11
            compute(libc::BPF_MUL, self.key),                             // 12
            compute(libc::BPF_RSH, 16),                                   // 13
            compute(libc::BPF_MOD, self.workers),                         // 14
            plain(libc::BPF_RET | BPF_A, 0),                              // 15
            plain(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, PROCESSOR), // 16
            compute(libc::BPF_MOD, self.workers),                         // 17
            plain(libc::BPF_RET | BPF_A, 0),                              // 18
        ]
    }

    /// Attaches the program to the group `socket` is a member of: once, after the last member was bound
    pub fn attach(&self, socket: &Socket) -> Result<(), SocketError> {
        let mut program = self.program();
        let described =
            libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
        // SAFETY: the description and the instructions it points at live during the call, which copies them.
        let done = unsafe {
            libc::setsockopt(
                socket.raw(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_CBPF,
                (&raw const described).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        if done == 0 {
            return Ok(());
        }
        let source = std::io::Error::last_os_error();
        Err(SocketError::Option { option: "SO_ATTACH_REUSEPORT_CBPF", source })
    }
}

/// Return the accumulator (linux/filter.h); libc has no name for it
const BPF_A: u32 = 0x10;
/// The processor the packet arrived on, as a load from a place no packet has
const PROCESSOR: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32;

fn plain(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(condition: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | condition | libc::BPF_K) as u16, jt, jf, k }
}

fn word_at(octets: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(octets.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placed_id_names_its_worker_whatever_the_key() {
        let mut random = 0x9e37_79b9u32;
        for workers in [1, 2, 3, 4, 7, 64, 1000, 65_536] {
            for key in [0, 1, 0xffff_ffff, 0xdead_beef, 0x8000_0000] {
                let steering = Steering::new(key, workers);
                for worker in [0, workers / 2, workers - 1] {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let mut id = [0xabu8; CONNECTION_ID_BYTES];
                    steering.place(&mut id, worker as usize, random);
                    assert_eq!(steering.worker_of(&id), worker as usize);
                    assert_eq!((id[0], id[5]), (0xab, 0xab), "only four octets are written");
                }
            }
        }
    }

    #[test]
    fn places_spread_evenly_and_differ_between_keys() {
        let (one, other) = (Steering::new(0x1234_5677, 4), Steering::new(0xc2b2_ae35, 4));
        let mut both = 0;
        for number in 0..4096u32 {
            let mut id = [0; CONNECTION_ID_BYTES];
            one.place(&mut id, 2, number.wrapping_mul(0x9e37_79b9));
            both += usize::from(other.worker_of(&id) == 2);
        }
        // Under another key the same IDs fall on all four workers alike.
        assert!((700..1400).contains(&both), "{both} of 4096");
    }

    #[test]
    fn datagrams_without_an_id_of_ours_name_nobody() {
        let steering = Steering::new(99, 4);
        let mut long = vec![0u8; 40];
        long[5] = CONNECTION_ID_BYTES as u8;
        for (first, steered) in [(0xc0, false), (0xd0, false), (0xe0, true), (0xf0, true)] {
            long[0] = first;
            assert_eq!(steering.worker_of_datagram(&long).is_some(), steered, "{first:x}");
        }
        long[5] = 8;
        assert_eq!(steering.worker_of_datagram(&long), None);
        assert_eq!(steering.worker_of_datagram(&[]), None);
        assert_eq!(steering.worker_of_datagram(&[0x40, 1, 2, 3, 4]), None);
        assert!(steering.worker_of_datagram(&[0x40, 1, 2, 3, 4, 5]).is_some());
        assert_eq!(steering.worker_of(&[1, 2, 3, 4]), 0);
    }
}
