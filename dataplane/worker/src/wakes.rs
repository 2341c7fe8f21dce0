//! What a worker owes to programs: tasks to wake, answers to deliver, calls to hand over. The worker only queues
//! them and rings once a turn, through its ring; a thread of the program does the rest, so that no system call
//! of somebody's runtime is made on a worker. Nothing here knows that runtime.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use crossbeam::queue::SegQueue;
use futures_util::task::AtomicWaker;
use stoq_udp::Waker as Bell;

enum Due {
    Wake(Waker),
    Run(Box<dyn FnOnce() + Send>),
}

impl Due {
    fn act(self) {
        match self {
            Self::Wake(waker) => waker.wake(),
            Self::Run(action) => action(),
        }
    }
}

/// The queue between one worker and whoever acts for it. Each flow is in it at most twice (reader and writer:
/// their wakers are taken out when queued) and each command at most once, so both limits bound it.
pub(crate) struct Wakes {
    due: SegQueue<Due>,
    bell: Bell,
    /// The bell was rung and nobody has looked since
    rung: AtomicBool,
    /// Nobody listens: the worker acts itself
    direct: AtomicBool,
    /// The worker has ended
    closed: AtomicBool,
}

impl Wakes {
    pub(crate) fn new(bell: Bell) -> Self {
        Self {
            due: SegQueue::new(),
            bell,
            rung: AtomicBool::new(false),
            direct: AtomicBool::new(true),
            closed: AtomicBool::new(false),
        }
    }

    /// Wakes whoever is registered, soon
    pub(crate) fn wake(&self, waker: &AtomicWaker) {
        if let Some(waker) = waker.take() {
            self.push(Due::Wake(waker));
        }
    }

    /// Runs `action` on a thread of the program, soon
    pub(crate) fn run(&self, action: impl FnOnce() + Send + 'static) {
        self.push(Due::Run(Box::new(action)));
    }

    fn push(&self, due: Due) {
        if self.direct.load(Ordering::SeqCst) {
            due.act();
        } else {
            self.due.push(due);
        }
    }

    /// The bell to ring before the worker goes on, if it must be rung
    pub(crate) fn to_ring(&self) -> Option<&Bell> {
        if self.due.is_empty() {
            return None;
        }
        // The listener says that it goes and then empties the queue: what it did not see is seen here.
        if self.direct.load(Ordering::SeqCst) {
            self.act();
            return None;
        }
        (!self.rung.swap(true, Ordering::SeqCst)).then_some(&self.bell)
    }

    /// The worker has ended: nothing will be queued any more
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        if self.direct.load(Ordering::SeqCst) {
            self.act();
        } else {
            self.bell.wake();
        }
    }

    fn act(&self) {
        while let Some(due) = self.due.pop() {
            due.act();
        }
    }
}

impl fmt::Debug for Wakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wakes").field("due", &self.due.len()).finish_non_exhaustive()
    }
}

/// Acts for one worker while it lives: when the descriptor is readable, [`Self::act`]. Dropped, it leaves the
/// worker to wake programs by itself.
#[derive(Debug)]
pub struct WakeListener(Arc<Wakes>);

impl WakeListener {
    pub(crate) fn new(wakes: Arc<Wakes>) -> Self {
        wakes.direct.store(false, Ordering::SeqCst);
        Self(wakes)
    }

    /// Wakes and answers whoever is due; whether there may be more one day
    pub fn act(&self) -> bool {
        // Closed is read first: what was queued before it was set is acted on below.
        let closed = self.0.closed.load(Ordering::SeqCst);
        self.0.bell.drain();
        self.0.rung.store(false, Ordering::SeqCst);
        self.0.act();
        !closed
    }
}

impl AsRawFd for WakeListener {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for WakeListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

impl Drop for WakeListener {
    fn drop(&mut self) {
        self.0.direct.store(true, Ordering::SeqCst);
        self.0.act();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Scene {
        wakes: Arc<Wakes>,
        count: Arc<Count>,
        task: AtomicWaker,
    }

    impl Scene {
        fn new() -> Self {
            let wakes = Arc::new(Wakes::new(Bell::new().unwrap()));
            Self { wakes, count: Arc::default(), task: AtomicWaker::new() }
        }

        fn wake(&self) {
            self.task.register(&Waker::from(Arc::clone(&self.count)));
            self.wakes.wake(&self.task);
        }

        fn woken(&self) -> usize {
            self.count.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn without_a_listener_the_worker_wakes() {
        let scene = Scene::new();
        scene.wake();
        assert_eq!(scene.woken(), 1);
        assert!(scene.wakes.to_ring().is_none());
    }

    #[test]
    fn a_listener_wakes_after_one_ring() {
        let scene = Scene::new();
        let listener = WakeListener::new(Arc::clone(&scene.wakes));
        scene.wake();
        scene.wake();
        assert_eq!(scene.woken(), 0);
        assert!(scene.wakes.to_ring().is_some());
        scene.wake();
        assert!(scene.wakes.to_ring().is_none(), "rung already");
        assert!(listener.act());
        assert_eq!(scene.woken(), 3);
        scene.wake();
        assert!(scene.wakes.to_ring().is_some(), "looked at, so to be rung again");
    }

    #[test]
    fn a_listener_that_goes_leaves_nobody_asleep() {
        let scene = Scene::new();
        let listener = WakeListener::new(Arc::clone(&scene.wakes));
        scene.wake();
        drop(listener);
        assert_eq!(scene.woken(), 1);
        // Queued by a worker that had not seen it go.
        let late = Waker::from(Arc::clone(&scene.count));
        scene.wakes.due.push(Due::Wake(late));
        assert!(scene.wakes.to_ring().is_none());
        assert_eq!(scene.woken(), 2);
    }

    #[test]
    fn the_last_words_are_heard() {
        let scene = Scene::new();
        let listener = WakeListener::new(Arc::clone(&scene.wakes));
        let count = Arc::clone(&scene.count);
        scene.wakes.run(move || {
            count.0.fetch_add(1, Ordering::SeqCst);
        });
        scene.wakes.close();
        assert!(!listener.act(), "nothing comes after the end");
        assert_eq!(scene.woken(), 1);
    }
}
