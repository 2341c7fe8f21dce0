//! A peer's certificate, SCTs included: no octets make the verdict panic, and none but the authority's own make it
//! good. Each input is judged as it is, and as a change to a certificate that is good.

#![no_main]

use std::sync::LazyLock;
use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use stoq_interface::{ControlSnapshot, LogKey, Transparency};
use stoq_simulation::pki::Authority;
use stoq_transport::tls::{Role, judge_certificate};

/// The P-256 base point as a SubjectPublicKeyInfo: a log whose key nobody has
const LOG_SPKI: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\
\x3d\x03\x01\x07\x03\x42\x00\x04\x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2\x77\
\x03\x7d\x81\x2d\xeb\x33\xa0\xf4\xa1\x39\x45\xd8\x98\xc2\x96\x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\
\xeb\x4a\x7c\x0f\x9e\x16\x2b\xce\x33\x57\x6b\x31\x5e\xce\xcb\xb6\x40\x68\x37\xbf\x51\xf5";
/// SHA-256 of it
const LOG_ID: [u8; 32] = [
    0x5c, 0xd2, 0x52, 0xfb, 0x0c, 0xe8, 0x93, 0x24, 0x36, 0xfa, 0xf8, 0xcc, 0xd1, 0x04, 0x09, 0x81,
    0xb8, 0x9e, 0xe4, 0xad, 0x6b, 0x9f, 0xe9, 0xe2, 0xa2, 0xb7, 0xe7, 0x1a, 0xac, 0xb2, 0x7c, 0xd3,
];

static SNAPSHOT: LazyLock<ControlSnapshot> = LazyLock::new(|| Authority::new().snapshot("alpha"));

fuzz_target!(|data: &[u8]| {
    let now = SystemTime::now();
    let mut logged = SNAPSHOT.clone();
    let key = LogKey { log_id: LOG_ID, spki_der: LOG_SPKI.to_vec() };
    logged.transparency = Transparency::Required(vec![key]);
    let good = &SNAPSHOT.identity.as_ref().expect("a throwaway identity").chain_der[0];
    let mut changed = good.clone();
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % changed.len();
        changed[at] = change[2];
    }
    for role in [Role::Client, Role::Server] {
        for certificate in [data, &changed] {
            for snapshot in [&*SNAPSHOT, &logged] {
                let judged = judge_certificate(role, snapshot, certificate, now)
                    .expect("the snapshot can be put into force");
                assert!(judged.is_err() || certificate == good.as_slice());
            }
        }
    }
});
