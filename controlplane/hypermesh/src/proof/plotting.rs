//! Making plots. Chia's plotter is a C++ library without progress or cancellation of its own, so it runs on a thread
//! that is watched, into an unfinished file that gets its name when it was looked at. Finished plots are `plot`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::operation::{NetworkId, RequesterId};

use super::plot::{Memo, Plot, PlotError, check_path, io_error};
use super::policy::{SPACE_K_CEILING, SPACE_K_FLOOR, SPACE_STRENGTH_CEILING, SPACE_STRENGTH_FLOOR};
use super::space::{META_GROUP, PLOT_INDEX, plot_group};

/// How often whoever waits for a plot is told that it waits
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// From this size on, how long a plot takes is estimated first
const ESTIMATED_FROM_K: u8 = 24;

/// The size of the plot by which it is estimated
const ESTIMATED_BY_K: u8 = 20;

/// A plot that shall be made
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlotOrder {
    /// Where; nothing may be there yet
    pub path: PathBuf,
    /// The network its proofs are for
    pub network: NetworkId,
    /// The requester its proofs are for
    pub requester: RequesterId,
    /// Tells the requester's plots apart; drawn at random
    pub salt: [u8; 32],
    /// The size; even, 18 to 28
    pub k: u8,
    /// The strength; 2 to 6
    pub strength: u8,
}

/// What making a plot is at
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PlotStage {
    /// One that was given up earlier, at the same path, is still being computed
    Waiting,
    /// A small plot is made, to know how fast this host is
    Estimating,
    /// The plot is computed
    Computing,
    /// The file is made durable and looked at
    Checking,
}

/// How far making a plot has come
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlotProgress {
    /// At what it is
    pub stage: PlotStage,
    /// For how long it has been at that
    pub elapsed: Duration,
    /// How long computing will take, as far as a small plot tells; none for small ones
    pub estimated: Option<Duration>,
}

impl PlotProgress {
    /// The part that is done by the estimate, below 1 while there is work left; none without an estimate
    pub fn fraction(&self) -> Option<f64> {
        let estimated = self.estimated?.as_secs_f64();
        match self.stage {
            PlotStage::Waiting | PlotStage::Estimating => Some(0.0),
            PlotStage::Computing => Some((self.elapsed.as_secs_f64() / estimated).min(0.99)),
            PlotStage::Checking => Some(0.99),
        }
    }
}

impl PlotOrder {
    fn memo(&self) -> Memo {
        Memo { network: self.network, requester: self.requester, salt: self.salt }
    }
}

impl Plot {
    /// Computes a plot and blocks until it is there; seconds for a small one, minutes and many gigabytes of memory
    /// for the largest.
    ///
    /// `watch` is told some times a second, and gives up by breaking. The library cannot be stopped, so a thread of
    /// its own finishes what it is at and then removes the file.
    pub fn make(
        order: &PlotOrder,
        watch: &mut dyn FnMut(PlotProgress) -> ControlFlow<()>,
    ) -> Result<Self, PlotError> {
        if !(SPACE_K_FLOOR..=SPACE_K_CEILING).contains(&order.k) || !order.k.is_multiple_of(2) {
            return Err(PlotError::Size(order.k));
        }
        if !(SPACE_STRENGTH_FLOOR..=SPACE_STRENGTH_CEILING).contains(&order.strength) {
            return Err(PlotError::Strength(order.strength));
        }
        check_path(&order.path)?;
        if order.path.try_exists().map_err(|source| io_error(&order.path, source))? {
            return Err(PlotError::Exists(order.path.clone()));
        }
        let cancelled = || PlotError::Cancelled(order.path.clone());
        let waiting =
            |elapsed| watch(PlotProgress { stage: PlotStage::Waiting, elapsed, estimated: None });
        let claim = Claim::take(beside(&order.path, "partial"), waiting).ok_or_else(cancelled)?;
        // Left by a process that was killed
        remove_if_there(&claim.partial)?;
        let estimated =
            if order.k < ESTIMATED_FROM_K { None } else { Some(estimate(order, &claim, watch)?) };
        let computing =
            |elapsed| watch(PlotProgress { stage: PlotStage::Computing, elapsed, estimated });
        compute(order, &claim, computing)?;

        let (stage, elapsed) = (PlotStage::Checking, Duration::ZERO);
        let plot = if watch(PlotProgress { stage, elapsed, estimated }).is_break() {
            Err(cancelled())
        } else {
            publish(order, &claim.partial)
        };
        if plot.is_err() {
            remove_if_there(&claim.partial)?;
        }
        plot
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn remove_if_there(path: &Path) -> Result<(), PlotError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path, error)),
        _ => Ok(()),
    }
}

/// Unfinished files that this process writes. The library cannot be stopped, so one that was given up may still be
/// among them.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static ONE_LESS: Condvar = Condvar::new();

/// The right to write one unfinished file, until the last holder lets go
struct Claim {
    partial: PathBuf,
}

impl Claim {
    /// Waits until nobody writes the file; none if `watch` breaks
    fn take(
        partial: PathBuf,
        mut watch: impl FnMut(Duration) -> ControlFlow<()>,
    ) -> Option<Arc<Self>> {
        let begun = Instant::now();
        let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
        while !unfinished.insert(partial.clone()) {
            drop(unfinished);
            if watch(begun.elapsed()).is_break() {
                return None;
            }
            let again = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = |unfinished: &mut BTreeSet<PathBuf>| unfinished.contains(&partial);
            unfinished = ONE_LESS
                .wait_timeout_while(again, LOOK_INTERVAL, taken)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Some(Arc::new(Self { partial }))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.partial);
        ONE_LESS.notify_all();
    }
}

/// Runs the library on a thread of its own and watches; the file is there if it succeeds, and only then
fn compute(
    order: &PlotOrder,
    claim: &Arc<Claim>,
    mut watch: impl FnMut(Duration) -> ControlFlow<()>,
) -> Result<(), PlotError> {
    let memo = order.memo().encode();
    let group = plot_group(&order.network, &order.requester, &order.salt);
    let (k, strength) = (order.k, order.strength);
    let held = Arc::clone(claim);
    // Without room in between: what is handed over was taken, so whoever is left with the file removes it.
    let (made, outcome) = mpsc::sync_channel(0);
    let begun = Instant::now();
    thread::Builder::new()
        .name("plot".to_owned())
        .spawn(move || {
            let result = chia_pos2::create_v2_single_plot_group(
                &held.partial,
                k,
                strength,
                &group,
                PLOT_INDEX,
                META_GROUP,
                &memo,
            );
            if made.send(result).is_err()
                && let Err(error) = remove_if_there(&held.partial)
            {
                tracing::warn!(%error, "an unfinished plot could not be removed");
            }
        })
        .map_err(|source| io_error(&claim.partial, source))?;
    loop {
        if watch(begun.elapsed()).is_break() {
            return Err(PlotError::Cancelled(order.path.clone()));
        }
        match outcome.recv_timeout(LOOK_INTERVAL) {
            Ok(Ok(())) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => {
                remove_if_there(&claim.partial)?;
                return Err(PlotError::Make { path: order.path.clone(), k });
            }
        }
    }
}

/// How long a plot will take: a small one shows how fast this host is, and each step has four times the entries
fn estimate(
    order: &PlotOrder,
    claim: &Arc<Claim>,
    watch: &mut dyn FnMut(PlotProgress) -> ControlFlow<()>,
) -> Result<Duration, PlotError> {
    let small = PlotOrder { k: ESTIMATED_BY_K, ..order.clone() };
    let begun = Instant::now();
    compute(&small, claim, |elapsed| {
        watch(PlotProgress { stage: PlotStage::Estimating, elapsed, estimated: None })
    })?;
    let took = begun.elapsed();
    remove_if_there(&claim.partial)?;
    let entries_bits = u32::from(order.k.saturating_sub(ESTIMATED_BY_K));
    Ok(took * (1 << entries_bits))
}

/// Makes the file durable, looks whether it is what was asked for, and gives it its name
fn publish(order: &PlotOrder, partial: &Path) -> Result<Plot, PlotError> {
    File::open(partial)
        .and_then(|file| file.sync_all())
        .map_err(|source| io_error(partial, source))?;
    let made = Plot::open(partial)?;
    if *made.memo() != order.memo() || made.k() != order.k || made.strength() != order.strength {
        return Err(PlotError::Differs(order.path.clone()));
    }
    fs::rename(partial, &order.path).map_err(|source| io_error(&order.path, source))?;
    // The library opens the file anew for each look-up, by the name it was given.
    Plot::open(&order.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(directory: &Path, k: u8) -> PlotOrder {
        PlotOrder {
            path: directory.join("one.plot"),
            network: [1; 32],
            requester: [2; 32],
            salt: [3; 32],
            k,
            strength: 2,
        }
    }

    fn patient(_: PlotProgress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_plot_is_made_told_of_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let order = order(directory.path(), 18);
        let mut stages = Vec::new();
        let made = Plot::make(&order, &mut |progress| {
            assert_eq!(progress.fraction(), None);
            stages.push(progress.stage);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(stages.last(), Some(&PlotStage::Checking));
        assert_eq!(names(directory.path()), ["one.plot"]);
        let found = Plot::open(&order.path).unwrap();
        for plot in [&made, &found] {
            assert_eq!((plot.k(), plot.strength(), plot.path()), (18, 2, &*order.path));
            assert_eq!((plot.network(), plot.requester()), (&[1; 32], &[2; 32]));
            assert_eq!(plot.salt(), &[3; 32]);
        }
        assert!(matches!(Plot::make(&order, &mut patient), Err(PlotError::Exists(_))));
    }

    #[test]
    fn orders_that_cannot_be_met_say_why() {
        let directory = tempfile::tempdir().unwrap();
        let make = |order: &PlotOrder| Plot::make(order, &mut patient);
        for k in [0, 16, 19, 30, 255] {
            assert!(
                matches!(make(&order(directory.path(), k)), Err(PlotError::Size(size)) if size == k)
            );
        }
        for strength in [0, 1, 7, 255] {
            let weird = PlotOrder { strength, ..order(directory.path(), 18) };
            assert!(matches!(make(&weird), Err(PlotError::Strength(_))));
        }
        let nowhere = PlotOrder {
            path: directory.path().join("no").join("such").join("place"),
            ..order(directory.path(), 18)
        };
        assert!(matches!(make(&nowhere), Err(PlotError::Make { k: 18, .. })));
        let nul = PlotOrder { path: PathBuf::from("a\0b"), ..order(directory.path(), 18) };
        assert!(matches!(make(&nul), Err(PlotError::BadPath(_))));
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind_and_may_begin_again() {
        let directory = tempfile::tempdir().unwrap();
        let order = order(directory.path(), 18);
        let give_up_at = |stage| {
            let given_up = Plot::make(&order, &mut |progress: PlotProgress| {
                if progress.stage == stage { ControlFlow::Break(()) } else { patient(progress) }
            });
            assert!(matches!(given_up, Err(PlotError::Cancelled(_))), "{stage:?}");
            assert!(!order.path.exists());
        };
        // What was given up while it was computed goes on; the next waits for it, and finds nothing of it.
        give_up_at(PlotStage::Computing);
        give_up_at(PlotStage::Checking);
        assert!(names(directory.path()).is_empty());
        give_up_at(PlotStage::Computing);
        Plot::make(&order, &mut patient).unwrap();
        assert_eq!(names(directory.path()), ["one.plot"]);
    }

    #[test]
    fn what_a_killed_process_left_is_in_nobodys_way() {
        let directory = tempfile::tempdir().unwrap();
        let order = order(directory.path(), 18);
        fs::write(beside(&order.path, "partial"), b"half of a plot").unwrap();
        Plot::make(&order, &mut patient).unwrap();
        assert_eq!(names(directory.path()), ["one.plot"]);
    }

    #[test]
    fn an_estimate_comes_from_a_small_plot_and_leaves_none() {
        let directory = tempfile::tempdir().unwrap();
        let claim = Claim::take(directory.path().join("estimate"), |_| unreachable!()).unwrap();
        let mut looks = 0;
        let mut guess = |k| {
            estimate(&order(directory.path(), k), &claim, &mut |progress| {
                assert_eq!((progress.stage, progress.estimated), (PlotStage::Estimating, None));
                looks += 1;
                ControlFlow::Continue(())
            })
            .unwrap()
        };
        assert!(guess(ESTIMATED_FROM_K) > Duration::ZERO);
        assert!(looks >= 1);
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn an_estimate_never_says_that_all_is_done() {
        let progress = |stage, elapsed_ms| {
            PlotProgress {
                stage,
                elapsed: Duration::from_millis(elapsed_ms),
                estimated: Some(Duration::from_secs(1)),
            }
            .fraction()
        };
        assert_eq!(progress(PlotStage::Computing, 250), Some(0.25));
        assert_eq!(progress(PlotStage::Computing, 5_000), Some(0.99));
        assert_eq!(progress(PlotStage::Checking, 0), Some(0.99));
    }
}
