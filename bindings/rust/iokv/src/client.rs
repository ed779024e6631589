// SPDX-License-Identifier: Apache-2.0
//! [`Client`], [`Sequence`] and [`Operation`]: completions find the operation that they belong to. No `unsafe`.
//!
//! Invariants
//!  1. A call that places an entry also submits it.
//!  2. A completion goes to its operation when it is reaped, whoever waits, so operations may be awaited in any order.
//!  3. The `RefCell`s are borrowed within one function here and never across a call of the user's code, but for wakers,
//!     which are called with none borrowed.

use std::cell::{RefCell, RefMut};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::task::{self, Poll};
use std::time::Duration;

use crate::connection::{Connection, Opened, Submitter, Vocabulary, Waker};
use crate::error::{ConnectError, Error, Result};
use crate::values::{Completion, ConnectOptions, Counter, Info, OpenOptions, StepOptions};

/// A completion that carries a token: sampled, or predicted where the step asked for `each`.
pub type Token = Completion;

#[derive(Default)]
struct Progress {
    arrived: VecDeque<Token>,
    end: Option<Completion>,
    waker: Option<task::Waker>,
}

/// A connection whose sequences and operations look after themselves.
///
/// `Send`, so that it may move to another thread, and not `Sync`: what came from it is used by the thread that has it.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = iokv::Client::connect(&iokv::ConnectOptions::default())?;
/// let vocabulary = client.vocabulary()?;
/// let sequence = client.open(&iokv::OpenOptions::default())?;
/// let prompt = [5, 6, 7];
/// for token in sequence.step(&iokv::StepOptions { tokens: &prompt, max_tokens: 16, ..Default::default() })? {
///     print!("{}", String::from_utf8_lossy(vocabulary.bytes(token?.token)?));
/// }
/// # Ok(())
/// # }
/// ```
///
/// A client cannot be used by two threads at once:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<iokv::Client>();
/// ```
///
/// and what came from it cannot outlive it:
///
/// ```compile_fail
/// # let options = iokv::ConnectOptions::default();
/// let client = iokv::Client::connect(&options).unwrap();
/// let sequence = client.open(&iokv::OpenOptions::default()).unwrap();
/// drop(client);
/// sequence.append(&[1]).unwrap();
/// ```
pub struct Client {
    connection: RefCell<Connection>,
    waiting: RefCell<HashMap<u64, Progress>>,
    info: Info,
}

impl Client {
    /// Connects, and waits until the daemon is ready.
    pub fn connect(options: &ConnectOptions) -> std::result::Result<Self, ConnectError> {
        let connection = Connection::connect(options)?;
        let info = connection.info().clone();
        Ok(Self { connection: RefCell::new(connection), waiting: RefCell::default(), info })
    }

    /// Facts and limits.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Opens an empty sequence.
    pub fn open(&self, options: &OpenOptions<'_>) -> Result<Sequence<'_>> {
        self.sequence(|submitter| submitter.open(options, 0))
    }

    /// A round trip through the daemon that does nothing.
    pub fn nop(&self) -> Result<()> {
        self.run(|submitter| submitter.nop(0))?.result().map(drop)
    }

    /// The texts of tokens; the first call fetches them from the daemon. [`Error::Unsupported`]: the model has none.
    pub fn vocabulary(&self) -> Result<Vocabulary> {
        self.connection().vocabulary()
    }

    /// tokenizer.json as HF `tokenizers` reads it; empty when the model came without it.
    pub fn tokenizer_file(&self) -> Result<Vec<u8>> {
        self.connection().tokenizer_file().map(<[u8]>::to_vec)
    }

    /// The model's Jinja chat template; empty when it came without one.
    pub fn chat_template(&self) -> Result<Vec<u8>> {
        self.connection().chat_template().map(<[u8]>::to_vec)
    }

    /// The daemon's counters, from memory that it shares.
    pub fn counters(&self) -> Result<Vec<Counter>> {
        self.connection().counters()
    }

    /// Why the connection ended, once a call has returned [`Error::Closed`].
    pub fn end_reason(&self) -> Result<(Error, String)> {
        self.connection().end_reason()
    }

    /// Why the latest `open` or `step` failed: the line names the argument and its range. `None` when it has not.
    pub fn last_failure(&self) -> Result<Option<(Error, String)>> {
        self.connection().submitter.last_failure()
    }

    /// What ends waits of this client from another thread.
    pub fn waker(&self) -> Waker {
        self.connection().waker()
    }

    /// Operations that have not ended, those included that nobody waits for any more.
    pub fn outstanding(&self) -> u32 {
        self.connection().outstanding()
    }

    /// Reaps whatever is there without waiting, hands it to its operations and wakes the tasks that wait for them.
    ///
    /// For event loops: watch the client's descriptor for readability and call this each time.
    pub fn turn(&self) -> Result<()> {
        self.reap_all(Some(Duration::ZERO))
    }

    fn connection(&self) -> RefMut<'_, Connection> {
        self.connection.borrow_mut()
    }

    /// Reaps until there is nothing more, so that the descriptor is armed; waits up to `timeout` for the first.
    fn reap_all(&self, timeout: Option<Duration>) -> Result<()> {
        let mut woken = Vec::new();
        let reaped = self.reap_into(timeout, &mut woken);
        if reaped.is_err() {
            woken.extend(self.waiting.borrow_mut().values_mut().filter_map(|progress| progress.waker.take()));
        }
        woken.into_iter().for_each(task::Waker::wake);
        reaped
    }

    fn reap_into(&self, timeout: Option<Duration>, woken: &mut Vec<task::Waker>) -> Result<()> {
        const AT_ONCE: usize = 256;
        let mut connection = self.connection.borrow_mut();
        let mut waiting = self.waiting.borrow_mut();
        connection.submitter.submit()?;
        let mut timeout = timeout;
        loop {
            let count = connection.reaper.reap(AT_ONCE, timeout, |completion| {
                // Nobody waits any more for an operation that was dropped.
                let Some(progress) = waiting.get_mut(&completion.operation) else { return };
                woken.extend(progress.waker.take());
                let token = completion.sampled() || completion.predicted();
                if completion.is_final() {
                    progress.end = Some(Completion { logits: None, top: None, ..completion.clone() });
                }
                if token {
                    progress.arrived.push_back(completion);
                }
            })?;
            if count < AT_ONCE {
                return Ok(());
            }
            timeout = Some(Duration::ZERO);
        }
    }

    /// Places by `place`, waiting for room where there is none; submits.
    fn run(&self, mut place: impl FnMut(&mut Submitter) -> Result<u64>) -> Result<Operation<'_>> {
        loop {
            match self.try_run(&mut place) {
                Err(Error::TryAgain) => self.reap_all(None)?,
                done => return done,
            }
        }
    }

    fn try_run(&self, place: impl FnOnce(&mut Submitter) -> Result<u64>) -> Result<Operation<'_>> {
        let mut connection = self.connection.borrow_mut();
        let id = place(&mut connection.submitter)?;
        self.waiting.borrow_mut().insert(id, Progress::default());
        let operation = Operation { client: self, id, lost: false };
        connection.submitter.submit()?;
        Ok(operation)
    }

    fn sequence(&self, mut place: impl FnMut(&mut Submitter) -> Result<Opened>) -> Result<Sequence<'_>> {
        let mut id = 0;
        let opened = self.run(|submitter| {
            let opened = place(submitter)?;
            id = opened.sequence;
            Ok(opened.operation)
        })?;
        opened.result()?;
        Ok(Sequence { client: self, id, open: true })
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.connection().reaper.as_raw_fd()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // The borrow of the RefCell ends here, the connection lives as long as self: so does its descriptor.
        crate::connection::borrowed_for(self, &self.connection())
    }
}

/// A growing list of tokens that the daemon keeps. Closed by [`close`](Self::close) or when it is dropped.
pub struct Sequence<'c> {
    client: &'c Client,
    id: u64,
    open: bool,
}

impl<'c> Sequence<'c> {
    /// Its id, as in completions.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Appends tokens, then samples; does not wait but for room in the ring.
    pub fn step(&self, options: &StepOptions<'_>) -> Result<Operation<'c>> {
        self.client.run(|submitter| submitter.step(self.id, options, 0))
    }

    /// As [`step`](Self::step), and [`Error::TryAgain`] where there is no room: never waits.
    pub fn try_step(&self, options: &StepOptions<'_>) -> Result<Operation<'c>> {
        self.client.try_run(|submitter| submitter.step(self.id, options, 0))
    }

    /// Appends without sampling and waits; the new length.
    pub fn append(&self, tokens: &[i32]) -> Result<u32> {
        Ok(self.step(&StepOptions { tokens, ..Default::default() })?.result()?.length)
    }

    /// Appends, samples up to `max_tokens` and waits; the sampled tokens.
    pub fn generate(&self, tokens: &[i32], max_tokens: u32) -> Result<Vec<i32>> {
        self.step(&StepOptions { tokens, max_tokens, ..Default::default() })?.tokens()
    }

    /// A new sequence that begins with the first `tokens` tokens of this one (`None`: all). Waits.
    pub fn fork(&self, tokens: Option<u32>) -> Result<Sequence<'c>> {
        self.client.sequence(|submitter| submitter.fork(self.id, tokens, 0))
    }

    /// Drops every token from position `length` on. Waits.
    pub fn truncate(&self, length: u32) -> Result<()> {
        self.client.run(|submitter| submitter.truncate(self.id, length, 0))?.result().map(drop)
    }

    /// Cancels one operation, or all of the sequence's; waits; how many were cancelled.
    pub fn cancel(&self, operation: Option<&Operation<'_>>) -> Result<u32> {
        let target = operation.map(|operation| operation.id);
        self.client.run(|submitter| submitter.cancel(self.id, target, 0))?.result()?.outcome()
    }

    /// Cancels what is outstanding and frees the sequence. Waits, which dropping does not.
    pub fn close(mut self) -> Result<()> {
        self.open = false;
        self.client.run(|submitter| submitter.close(self.id, 0))?.result().map(drop)
    }
}

impl Drop for Sequence<'_> {
    fn drop(&mut self) {
        if self.open {
            // With the connection gone, the sequence is gone.
            let _ = self.client.run(|submitter| submitter.close(self.id, 0));
        }
    }
}

/// A submitted operation. As an iterator it gives its tokens as they come, and the operation's failure, if it fails, as the
/// last item. Dropped before its end it runs on, and what it draws is dropped.
pub struct Operation<'c> {
    client: &'c Client,
    id: u64,
    lost: bool,
}

impl Operation<'_> {
    /// Its id, as in completions.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The operation has ended; its tokens may still be there to be taken.
    pub fn ended(&self) -> bool {
        self.look(|progress| progress.end.is_some())
    }

    /// Waits for the end; the final completion, or the operation's failure.
    pub fn result(self) -> Result<Completion> {
        while !self.ended() {
            self.client.reap_all(None)?;
        }
        let end = self.look(|progress| progress.end.take()).expect("it has ended");
        end.outcome()?;
        Ok(end)
    }

    /// Waits for the end; the sampled tokens.
    pub fn tokens(self) -> Result<Vec<i32>> {
        self.filter(|token| token.as_ref().map_or(true, Completion::sampled)).map(|token| Ok(token?.token)).collect()
    }

    /// The next token if it is there; else the task is woken when [`Client::turn`] has found it.
    ///
    /// What `futures::Stream::poll_next` is, without the crate. Under tokio: `AsyncFd::new(&client)`, one task that calls
    /// [`Client::turn`] whenever that is readable, and `std::future::poll_fn` around this in the others.
    pub fn poll_next(&mut self, context: &mut task::Context<'_>) -> Poll<Option<Result<Token>>> {
        if let Some(ready) = self.arrived() {
            return Poll::Ready(ready);
        }
        if let Err(error) = self.client.turn() {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(ready) = self.arrived() {
            return Poll::Ready(ready);
        }
        self.look(|progress| progress.waker = Some(context.waker().clone()));
        Poll::Pending
    }

    fn look<T>(&self, at: impl FnOnce(&mut Progress) -> T) -> T {
        at(self.client.waiting.borrow_mut().get_mut(&self.id).expect("it is there until the operation is dropped"))
    }

    /// The next item of what has arrived, if that says what it is.
    fn arrived(&self) -> Option<Option<Result<Token>>> {
        self.look(|progress| match (progress.arrived.pop_front(), &mut progress.end) {
            (Some(token), _) => Some(Some(Ok(token))),
            (None, None) => None,
            // A failure is said once.
            (None, Some(end)) => Some(end.outcome().err().map(|error| {
                end.result = 0;
                Err(error)
            })),
        })
    }
}

impl Iterator for Operation<'_> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Result<Token>> {
        loop {
            if let Some(item) = self.arrived() {
                return item;
            }
            match self.client.reap_all(None) {
                Ok(()) => {}
                // Nothing more will come; that is said once.
                Err(Error::Closed) if self.lost => return None,
                Err(error) => {
                    self.lost = error == Error::Closed;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        self.client.waiting.borrow_mut().remove(&self.id);
    }
}
