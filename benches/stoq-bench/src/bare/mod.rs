//! The same transfer by a bare quiche loop on the product's ring: one connection, one stream, one thread per
//! end, no session and no flow. It is what the product's own layers are measured against, not a product.

mod quic;
mod report;
mod sides;
mod turn;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use stoq_memory::{bind_current_thread, host_topology};
use stoq_transport::tls::Role;
use stoq_udp::{DatagramIo, IoSettings, Socket};

use crate::command_line::TuningArgs;
use crate::digest::Verify;
use crate::identity::{self, Bundle};
use crate::render::line;
use crate::sink::Failure;
use crate::units::{Cores, cores, duration};
pub use report::BareReport;
use report::{Near, Received};
use sides::{Receiver, Sender};
use turn::{Bare, Loop};

/// `stoq-bench bare-load`
#[derive(Args, Clone, Debug)]
pub struct BareLoadArgs {
    /// Processor of the sending end
    #[arg(long, default_value = "0", value_parser = cores, value_name = "CORE")]
    pub cores: Cores,
    /// Processor of the receiving end
    #[arg(long, default_value = "1", value_parser = cores, value_name = "CORE")]
    pub sink_cores: Cores,
    /// Time to measure, after the warm-up
    #[arg(long, default_value = "3s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Warm-up that is not measured
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub omit: Duration,
    /// How bytes are verified at the receiver
    #[arg(long, value_enum, default_value_t)]
    pub verify: Verify,
    /// Transport and I/O
    #[command(flatten)]
    pub tuning: TuningArgs,
}

/// `stoq-bench bare-sink`
#[derive(Args, Clone, Debug)]
pub struct BareSinkArgs {
    /// Processor
    #[arg(long, value_parser = cores, value_name = "CORE")]
    pub cores: Cores,
    /// Warm-up that is not measured
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub omit: Duration,
    /// How bytes are verified
    #[arg(long, value_enum)]
    pub verify: Verify,
    /// Transport and I/O
    #[command(flatten)]
    pub tuning: TuningArgs,
}

/// Binds this thread and opens the ring on it, as a worker does
fn open(tuning: &TuningArgs, cores: &Cores) -> Result<Box<dyn DatagramIo>, Failure> {
    let plan = tuning.plan(&cores.0);
    let &[place] = plan.places().as_slice() else {
        return Err("the bare loop has one thread per end: name one processor".into());
    };
    if tuning.pacing || tuning.busy_poll || tuning.stripe {
        return Err("the bare loop neither paces, nor polls, nor stripes".into());
    }
    let node = match place {
        Some(core) => {
            bind_current_thread(core)?;
            host_topology()?.node_of(core)
        }
        None => None,
    };
    let any = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    let socket = Socket::bind(any, &plan.socket_options())?;
    let settings = IoSettings { node, ..plan.io_settings() };
    let opened = stoq_uring::open(socket, &settings)?;
    match opened.fallback {
        Some(why) if !settings.system_calls_only => {
            Err(format!("the bare loop has no ring, the product may have one: {why}").into())
        }
        _ => Ok(opened.io),
    }
}

/// As it is written on a command line
pub fn name_of(verify: Verify) -> String {
    verify.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn configured(bundle: &Bundle, tuning: &TuningArgs, role: Role) -> Result<quiche::Config, Failure> {
    let mut snapshot = bundle.snapshot()?;
    snapshot.transport = tuning.transport();
    quic::configure(role, &snapshot)
}

/// `stoq-bench bare-sink`: takes one connection and one stream, says what came, ends
pub fn sink(args: &BareSinkArgs) -> Result<(), Failure> {
    let mut input = BufReader::new(std::io::stdin());
    let mut text = String::new();
    input.read_line(&mut text)?;
    let config = configured(&serde_json::from_str(&text)?, &args.tuning, Role::Server)?;
    // Made before this thread is bound, so that the other one is not.
    let gone = Arc::new(AtomicBool::new(false));
    let (tell_waker, hear_waker) = std::sync::mpsc::channel::<stoq_udp::Waker>();
    std::thread::Builder::new().name("bench-stdin".into()).spawn({
        let gone = Arc::clone(&gone);
        move || {
            // Any outcome of the read means the same: nobody is there any more.
            let _ended = input.read_to_end(&mut Vec::new());
            gone.store(true, Ordering::Release);
            if let Ok(waker) = hear_waker.recv() {
                waker.wake();
            }
        }
    })?;
    let io = open(&args.tuning, &args.cores)?;
    // The thread that listens may have ended with the program that started this one.
    let _nobody_listens = tell_waker.send(io.waker());
    let address = io.local_address();
    let mut turns = Loop::new(io, config, None);
    line(&serde_json::json!({ "event": "ready", "address": address.to_string() }).to_string())?;
    let mut receiver = Receiver::new(args.verify, args.omit);
    turns.run(&mut receiver, || gone.load(Ordering::Acquire))?;
    line(&serde_json::to_string(&receiver.received(turns.io())?)?)?;
    Ok(())
}

/// A child that does not outlive this
struct Far(Child);

impl Drop for Far {
    fn drop(&mut self) {
        // Fails where it has ended already, which is what is wanted.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn next_line<T: for<'a> serde::Deserialize<'a>>(lines: &mut impl BufRead) -> Result<T, Failure> {
    let mut text = String::new();
    if lines.read_line(&mut text)? == 0 {
        return Err("the bare sink ended early; its reason is above".into());
    }
    Ok(serde_json::from_str(&text)?)
}

/// `stoq-bench bare-load`: starts the other end, sends for the time given, prints the report as JSON
pub fn load(args: &BareLoadArgs) -> Result<(), Failure> {
    let [sink, own] = identity::make()?;
    let mut far = Far(Command::new(std::env::current_exe()?)
        .arg("bare-sink")
        .arg(format!("--cores={}", args.sink_cores))
        .arg(format!("--omit={}s", args.omit.as_secs_f64()))
        .arg(format!("--verify={}", name_of(args.verify)))
        .args(args.tuning.arguments())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?);
    let (Some(mut input), Some(output)) = (far.0.stdin.take(), far.0.stdout.take()) else {
        return Err("the bare sink has no pipes".into());
    };
    writeln!(input, "{}", serde_json::to_string(&sink)?)?;
    let mut lines = BufReader::new(output);
    let ready: serde_json::Value = next_line(&mut lines)?;
    let to: SocketAddrV6 = ready["address"].as_str().unwrap_or_default().parse()?;
    let mut config = configured(&own, &args.tuning, Role::Client)?;
    let io = open(&args.tuning, &args.cores)?;
    let bare = Bare::new(quic::dial(&mut config, io.local_address(), to)?);
    let mut turns = Loop::new(io, config, Some(bare));
    let mut sender = Sender::new(args.verify, args.omit, args.duration);
    turns.run(&mut sender, || false)?;
    let near: Near = sender.sent(turns.io())?;
    let received: Received = next_line(&mut lines)?;
    let report = BareReport::of(args.tuning.payload, args.verify, near, received)?;
    line(&serde_json::to_string(&report)?)?;
    if report.is_sound() { Ok(()) } else { Err("bytes are missing or differ".into()) }
}
