//! `stoq-bench handshake`: full mutual handshakes per second, what each costs either end, and the time from
//! dialling to a session. Nothing is resumed: the product has neither tickets nor 0-RTT.

pub mod report;

use std::net::SocketAddrV6;
use std::time::Duration;

use clap::{Args, ValueEnum};
use stoq::{ConnectError, Endpoint, NodeId};

use crate::beside::{self, Beside, Peer};
use crate::bounds::KeyShare;
use crate::latency::drive::{Pace, Window, drive};
use crate::latency::tally::{Outcome, Tally};
use crate::rig::{Rig, RigArgs};
use crate::sink::Failure;
use crate::units::duration;
use crate::vitals::Vitals;
use report::{HandshakeReport, SCHEMA, ShareReport};

/// Connections either end may hold: closed ones stay for three probe timeouts (RFC 9000 section 10.2)
const HOLD: usize = 1 << 20;
/// Time that handshakes one by one are measured
const ALONE: Duration = Duration::from_secs(1);
/// Warm-up of either
const OMIT: Duration = Duration::from_millis(250);

/// Key exchanges to measure
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum KeyShares {
    /// Post-quantum hybrid
    X25519mlkem768,
    /// Without the post-quantum part
    X25519,
    /// One after the other
    #[default]
    Both,
}

impl KeyShares {
    const fn each(self) -> &'static [KeyShare] {
        match self {
            Self::X25519mlkem768 => &[KeyShare::X25519mlkem768],
            Self::X25519 => &[KeyShare::X25519],
            Self::Both => &[KeyShare::X25519mlkem768, KeyShare::X25519],
        }
    }
}

/// `stoq-bench handshake`
#[derive(Args, Clone, Debug)]
pub struct HandshakeArgs {
    /// Measured time
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Handshakes under way at any time
    #[arg(long, default_value_t = 8, value_name = "COUNT")]
    pub in_flight: usize,
    /// Key exchanges to measure
    #[arg(long, value_enum, default_value_t)]
    pub key_share: KeyShares,
    /// Run other stacks with the same key exchange, in turn with this one
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PEERS")]
    pub beside: Vec<Peer>,
    /// Where both ends run
    #[command(flatten)]
    pub rig: RigArgs,
}

/// Runs and prints; the record is also returned
pub fn run(args: &HandshakeArgs) -> Result<HandshakeReport, Failure> {
    beside::check(&args.beside)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut shares = Vec::new();
    for (turn, share) in args.key_share.each().iter().enumerate() {
        shares.push(runtime.block_on(measure(args, *share, turn))?);
    }
    let report = HandshakeReport { schema: SCHEMA.to_owned(), shares };
    args.rig.record(&report)?;
    Ok(report)
}

fn notes() -> Vec<String> {
    vec![
        format!(
            "limits of connections, half-open handshakes and Retry are raised to {HOLD}: what protects a node from \
             strangers is not what is measured"
        ),
        "every handshake is full and mutual: certificates on both sides, no ticket, no 0-RTT; a session counts once \
         the peer has accepted it"
            .into(),
        "a client thread and its worker share one processor, the sink has the other".into(),
    ]
}

async fn measure(
    args: &HandshakeArgs,
    share: KeyShare,
    turn: usize,
) -> Result<ShareReport, Failure> {
    let mut rig_args = args.rig.clone();
    let bounds = &mut rig_args.tuning.bounds;
    bounds.key_exchange = Some(share);
    bounds.hold = bounds.hold.or(Some(HOLD));
    let mut others = Vec::new();
    let beside = Beside::new(&args.beside, &args.rig);
    // Every other part begins with the other stacks, so that a drift of the host favours nobody.
    if !turn.is_multiple_of(2) {
        others = beside.handshakes(share, args.in_flight, args.duration).await?;
    }
    let mut rig = Rig::start(&rig_args).await?;
    let negotiated = rig.key_exchange().unwrap_or_default().to_owned();
    if negotiated != share.group() {
        let wanted = share.group();
        return Err(format!("the two ends agreed on {negotiated:?} instead of {wanted}").into());
    }
    let conditions = rig.conditions(&rig_args, notes())?;
    if turn == 0 {
        for line in conditions.lines() {
            args.rig.say(&line)?;
        }
    }
    let window = Window { omit: OMIT, measure: ALONE };
    let alone = on_program(&rig, Pace::Closed { in_flight: 1 }, window).await?;
    let window = Window { omit: OMIT, measure: args.duration };
    let before = rig.vitals().await?;
    let many = on_program(&rig, Pace::Closed { in_flight: args.in_flight.max(1) }, window).await?;
    let after = rig.vitals().await?;
    rig.end().await?;
    if turn.is_multiple_of(2) {
        others = beside.handshakes(share, args.in_flight, args.duration).await?;
    }
    let dialled = gained(&before.0, &after.0, "connections_dialled");
    let each = |before: &Vitals, after: &Vitals| {
        (after.cpu_seconds() - before.cpu_seconds()) * 1e6 / dialled.max(1) as f64
    };
    let report = ShareReport {
        conditions,
        key_exchange: negotiated,
        in_flight: args.in_flight.max(1),
        seconds: args.duration.as_secs_f64(),
        per_second: many.per_second(),
        counts: many.counts(),
        dialled,
        accepted_at_sink: gained(&before.1, &after.1, "connections_accepted"),
        near_cpu_us: each(&before.0, &after.0),
        far_cpu_us: each(&before.1, &after.1),
        time_to_session_us: many.latency(),
        unloaded_time_to_session_us: alone.latency(),
        retries: after.1.counter("retries_sent"),
        near_reasons: after.0.reasons,
        far_reasons: after.1.reasons,
        beside: others,
    };
    for line in report.lines() {
        args.rig.say(&line)?;
    }
    Ok(report)
}

fn gained(before: &Vitals, after: &Vitals, counter: &str) -> u64 {
    after.counter(counter).saturating_sub(before.counter(counter))
}

/// Dials and closes from the program's thread
async fn on_program(rig: &Rig, pace: Pace, window: Window) -> Result<Tally, Failure> {
    let (endpoint, peer, to) = (rig.endpoint.clone(), rig.peer().clone(), rig.sink_address());
    let driven = async move { drive(pace, window, |_| handshake(&endpoint, to, &peer)).await };
    rig.program().spawn(driven).await?
}

/// One session, made and closed
async fn handshake(endpoint: &Endpoint, to: SocketAddrV6, peer: &NodeId) -> Outcome {
    match endpoint.connect(to, peer).await {
        // A session that is not closed would stay, and with it what it holds.
        Ok(session) => {
            if session.close() {
                Outcome::Good
            } else {
                Outcome::Failed
            }
        }
        Err(ConnectError::Busy | ConnectError::Refused(_)) => Outcome::Refused,
        Err(ConnectError::Closed(_) | ConnectError::EndpointClosed) => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::tally::{Counts, Quantiles};
    use crate::rig::example_conditions;

    fn example() -> ShareReport {
        ShareReport {
            conditions: example_conditions(),
            key_exchange: "X25519".into(),
            in_flight: 8,
            seconds: 5.0,
            per_second: 1_000.0,
            counts: Counts { good: 5_000, ..Counts::default() },
            dialled: 5_100,
            accepted_at_sink: 5_100,
            near_cpu_us: 400.0,
            far_cpu_us: 450.0,
            time_to_session_us: Quantiles::default(),
            unloaded_time_to_session_us: Quantiles::default(),
            retries: 0,
            near_reasons: [].into(),
            far_reasons: [].into(),
            beside: Vec::new(),
        }
    }

    #[test]
    fn a_run_that_measured_something_else_is_not_sound() {
        assert!(example().is_sound());
        let report = HandshakeReport { schema: SCHEMA.into(), shares: vec![example()] };
        assert!(report.is_sound());
        assert!(!HandshakeReport { shares: Vec::new(), ..report }.is_sound());
        type Bend = fn(&mut ShareReport);
        let bends: [Bend; 5] = [
            |report| report.retries = 1,
            |report| report.accepted_at_sink = 5_099,
            |report| report.counts.failed = 1,
            |report| report.counts.refused = 1,
            |report| report.counts.good = 0,
        ];
        for bend in bends {
            let mut report = example();
            bend(&mut report);
            assert!(!report.is_sound(), "{report:?}");
            assert!(report.lines().iter().any(|line| line.contains("NOT SOUND")));
        }
    }

    #[test]
    fn a_record_is_read_back() {
        let report = HandshakeReport { schema: SCHEMA.into(), shares: vec![example()] };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<HandshakeReport>(&text).unwrap(), report);
    }
}
