//! What the steps of issuing cost in processor time, each measured alone and on one thread, with the code the
//! authority uses; what is left of a certificate's cost is told as the rest.

use std::hint::black_box;
use std::time::Duration;

use boring::ec::{EcGroup, EcKey};
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::PKey;
use boring::sign::Signer;
use rustix::time::{ClockId, clock_gettime};
use stoq_trustchain::certificate;
use stoq_trustchain::chain::{self, Usage};
use stoq_trustchain::csr::ProvenKey;

use crate::sink::Failure;

use super::office::{Member, Office};
use super::report::{Issuing, Step};

/// Repetitions of a step
const REPEATED: usize = 1_001;
/// Steps that are named
const NAMED: usize = 3;

/// Processor time of this process
pub fn process_cpu() -> Duration {
    of(ClockId::ProcessCPUTime)
}

fn of(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Median processor time of a step in microseconds: a neighbour on the host may slow down some repetitions, and steps are
/// subtracted from each other
fn each(mut step: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    step()?;
    let mut spent = Vec::with_capacity(REPEATED);
    for _ in 0..REPEATED {
        let before = of(ClockId::ThreadCPUTime);
        step()?;
        spent.push(of(ClockId::ThreadCPUTime).saturating_sub(before));
    }
    spent.sort_unstable();
    Ok(spent[REPEATED / 2].as_secs_f64() * 1e6)
}

/// The most expensive steps of a certificate, the most expensive first
pub fn measure(office: &Office, issuing: &Issuing) -> Result<Vec<Step>, Failure> {
    let member: &Member = office.members.first().ok_or("there is no member")?;
    let authority = office.ca.authority();
    let possession = each(|| {
        black_box(ProvenKey::from_csr(&member.csr_der)?);
        Ok(())
    })?;
    let now = office.ca.now();
    let credential = each(|| {
        let parsed = certificate::parse(&member.leaf_der)?;
        black_box(parsed.serial.bits());
        Ok(())
    })?;
    let whole_chain = each(|| {
        let (issuing, root) = (authority.certificate_der(), authority.root_der());
        chain::check_leaf(&member.leaf_der, issuing, root, Usage::Client, now)?;
        Ok(())
    })?;
    let authority_checks = each(|| {
        chain::check_root(authority.root_der(), now)?;
        chain::check_issuing(authority.certificate_der(), authority.root_der(), now)?;
        Ok(())
    })?;
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let message = &member.leaf_der;
    let sign = each(|| {
        let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
        black_box(signer.sign_oneshot_to_vec(message)?);
        Ok(())
    })?;
    // One chain check is one such verification beside those of root and authority.
    let verify = (whole_chain - authority_checks).max(0.0);
    let mut steps = vec![
        ("proof of possession: the request's signature verified", possession),
        ("the caller's certificate parsed and its signature verified", credential + verify),
        ("signatures made: precertificate, SCT, certificate", sign * issuing.signatures),
        ("signatures verified before they are released", verify * issuing.signatures),
    ];
    let known: f64 = steps.iter().map(|(_, cpu_us)| cpu_us).sum();
    let rest = "the rest: encoding, lint, journal, log, waking tasks, the generator";
    steps.push((rest, (issuing.cpu_us - known).max(0.0)));
    steps.sort_by(|one, other| other.1.total_cmp(&one.1));
    steps.truncate(NAMED);
    let whole = issuing.cpu_us.max(f64::MIN_POSITIVE);
    let step =
        |(step, cpu_us): (&str, f64)| Step { step: step.into(), cpu_us, share: cpu_us / whole };
    Ok(steps.into_iter().map(step).collect())
}
