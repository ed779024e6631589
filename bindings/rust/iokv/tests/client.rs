// SPDX-License-Identifier: Apache-2.0
//! The crate as its users see it, beside the daemon that `$IOKV_SOCKET` names (tests/conformance/with_daemon.py).

use std::ffi::{c_int, c_short, c_ulong};
use std::future::poll_fn;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use iokv::{Client, ConnectOptions, Connection, Error, OpenOptions, Sequence, StepOptions};

const PROMPT: [i32; 4] = [5, 6, 7, 8];

fn client() -> Client {
    Client::connect(&ConnectOptions::default()).expect("the daemon of $IOKV_SOCKET")
}

fn open(client: &Client) -> Sequence<'_> {
    client.open(&OpenOptions::default()).expect("a sequence")
}

fn step(tokens: &[i32], max_tokens: u32) -> StepOptions<'_> {
    StepOptions { tokens, max_tokens, ..Default::default() }
}

fn is_send<T: Send>() {}
fn is_sync<T: Sync>() {}

#[test]
fn types_are_send_and_sync_as_the_header_has_it() {
    is_send::<Client>();
    is_send::<iokv::Submitter>();
    is_send::<iokv::Reaper>();
    is_send::<iokv::Waker>();
    is_sync::<iokv::Waker>();
    is_send::<iokv::Vocabulary>();
    is_sync::<iokv::Vocabulary>();
    is_send::<Error>();
    is_sync::<Error>();
}

#[test]
fn a_sequence_streams_what_it_generates_and_tokens_have_texts() -> Result<(), Error> {
    let client = client();
    let vocabulary = client.vocabulary()?;
    let (mut tokens, mut text) = (Vec::new(), String::new());
    for token in open(&client).step(&step(&PROMPT, 8))? {
        let token = token?.token;
        tokens.push(token);
        text += std::str::from_utf8(vocabulary.bytes(token)?).expect("the model's texts are UTF-8");
    }
    assert_eq!(tokens, open(&client).generate(&PROMPT, 8)?);
    assert_eq!(text, tokens.iter().map(|token| format!("<{token}> ")).collect::<String>());
    assert_eq!(vocabulary.bytes(-1), Err(Error::BadToken));
    Ok(())
}

#[test]
fn operations_may_be_awaited_in_any_order() -> Result<(), Error> {
    let client = client();
    let sequences: Vec<_> = (0..8).map(|_| open(&client)).collect();
    let operations: Result<Vec<_>, _> =
        sequences.iter().zip(0..).map(|(sequence, i)| sequence.step(&step(&[i, 2, 3], 10))).collect();
    for (i, operation) in operations?.into_iter().enumerate().rev() {
        assert_eq!(operation.tokens()?, open(&client).generate(&[i as i32, 2, 3], 10)?);
    }
    Ok(())
}

#[test]
fn a_full_ring_is_waited_out_or_said() -> Result<(), Error> {
    let options = ConnectOptions { submission_entries: 4, completion_entries: 8, ..Default::default() };
    let client = Client::connect(&options).expect("the daemon");
    let sequence = open(&client);
    let operations: Result<Vec<_>, _> = (0..40).map(|_| sequence.step(&step(&[1, 2], 0))).collect();
    assert_eq!(operations?.pop().expect("there are 40").result()?.length, 80);
    let mut running = Vec::new();
    let full = loop {
        match sequence.try_step(&step(&[1], 0)) {
            Ok(operation) => running.push(operation),
            Err(error) => break error,
        }
    };
    assert_eq!(full, Error::TryAgain);
    Ok(())
}

#[test]
fn logits_are_copied_out_so_that_untaken_ones_hold_up_nobody() -> Result<(), Error> {
    let options = ConnectOptions { result_bytes: 4096, ..Default::default() };
    let client = Client::connect(&options).expect("the daemon");
    let (first, second) = (open(&client), open(&client));
    let wanted = StepOptions { logits: true, ..step(&PROMPT, 20) };
    let lying = first.step(&wanted)?;
    let mut rows = 0;
    for token in second.step(&wanted)? {
        let token = token?;
        let logits = token.logits.expect("the step asked for them");
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!(logits.len(), client.info().vocabulary as usize);
        assert_eq!(logits[token.token as usize], largest);
        rows += 1;
    }
    assert_eq!(rows, 20);
    assert_eq!(lying.tokens()?.len(), 20);
    Ok(())
}

#[test]
fn a_failure_is_the_last_item_and_the_sequence_goes_on() -> Result<(), Error> {
    let client = client();
    let sequence = open(&client);
    let items: Vec<_> = sequence.step(&step(&[-1], 1))?.map(|token| token.map(|token| token.token)).collect();
    assert_eq!(items, [Err(Error::BadToken)]);
    assert_eq!(sequence.generate(&[1], client.info().max_context), Err(Error::ContextFull));
    sequence.truncate(0)?;
    assert_eq!(sequence.generate(&[1], 3)?.len(), 3);
    let child = sequence.fork(Some(2))?;
    assert_eq!(child.append(&[])?, 2);
    let endless = child.step(&step(&[], client.info().max_context - 2))?;
    assert_eq!(child.cancel(Some(&endless))?, 1);
    assert_eq!(endless.result().map(|end| end.length), Err(Error::Canceled));
    sequence.close()
}

#[test]
fn a_dropped_operation_runs_on_and_a_dropped_sequence_is_closed() -> Result<(), Error> {
    let client = client();
    let sequence = open(&client);
    drop(sequence.step(&step(&PROMPT, 6))?);
    assert_eq!(sequence.step(&step(&[], 1))?.result()?.length, 11);
    drop(sequence);
    // More than may be open at once.
    for _ in 0..=client.info().max_sequences {
        open(&client);
    }
    Ok(())
}

#[test]
fn a_client_may_move_to_another_thread() -> Result<(), Error> {
    let client = client();
    let there = std::thread::spawn(move || open(&client).generate(&PROMPT, 4));
    assert_eq!(there.join().expect("no panic")?.len(), 4);
    Ok(())
}

#[test]
fn one_thread_submits_and_another_reaps_and_a_third_wakes() -> Result<(), Error> {
    let connection = Connection::connect(&ConnectOptions::default()).expect("the daemon");
    let waker = connection.waker();
    let (mut submitter, mut reaper) = connection.split();
    let reaping = std::thread::spawn(move || {
        let mut seen = 0;
        while seen < 100 {
            seen += reaper.reap(256, None, |completion| assert_eq!(completion.user_data, 7))?;
        }
        reaper.reap(1, None, |_| panic!("nothing is outstanding")).map(drop)
    });
    for _ in 0..100 {
        submitter.nop(7)?;
        submitter.submit()?;
    }
    while waker.outstanding() > 0 {
        std::thread::yield_now();
    }
    waker.wake()?;
    assert_eq!(reaping.join().expect("no panic"), Err(Error::Woken));
    Ok(())
}

#[test]
fn sides_of_two_connections_do_not_make_one() {
    let connect = || Connection::connect(&ConnectOptions::default()).expect("the daemon");
    let (mut one, mut other) = (connect(), connect());
    std::mem::swap(&mut one.submitter, &mut other.submitter);
    assert_eq!(one.generate(1, &step(&PROMPT, 1)), Err(Error::InvalidArgument));
    assert_eq!(one.counters(), Err(Error::InvalidArgument));
}

#[test]
fn an_absent_daemon_says_where_it_was_looked_for() {
    let options = ConnectOptions { socket_path: Some("/nonexistent/iokv.sock".into()), ..Default::default() };
    let failed = Client::connect(&options).err().expect("nobody listens there");
    assert_eq!(failed.error, Error::NoDaemon);
    assert!(failed.to_string().contains("/nonexistent/iokv.sock"), "{failed}");
}

// ---- an event loop of a few lines, as a runtime would be ----

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: c_short,
    revents: c_short,
}

unsafe extern "C" {
    fn poll(fds: *mut PollFd, count: c_ulong, timeout_ms: c_int) -> c_int;
}

fn readable(client: &Client) -> bool {
    let mut entry = PollFd { fd: client.as_raw_fd(), events: 1, revents: 0 };
    // SAFETY: one entry, which lives here.
    unsafe { poll(&mut entry, 1, 60_000) > 0 }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Runs tasks that are woken by nobody but the client's descriptor.
fn run_all(client: &Client, mut tasks: Vec<Pin<&mut dyn Future<Output = Result<(), Error>>>>) -> Result<(), Error> {
    let flags: Vec<_> = tasks.iter().map(|_| Arc::new(Flag(AtomicBool::new(true)))).collect();
    let mut left = tasks.len();
    while left > 0 {
        for (task, flag) in tasks.iter_mut().zip(&flags) {
            if flag.0.swap(false, Ordering::Acquire)
                && let Poll::Ready(done) = task.as_mut().poll(&mut Context::from_waker(&flag.clone().into()))
            {
                done?;
                left -= 1;
            }
        }
        if left > 0 && !flags.iter().any(|flag| flag.0.load(Ordering::Acquire)) {
            assert!(readable(client), "the descriptor did not become readable");
            client.turn()?;
        }
    }
    Ok(())
}

#[test]
fn tasks_stream_at_once_woken_by_the_descriptor_alone() -> Result<(), Error> {
    let client = client();
    let stream = async |tokens: &[i32], max_tokens: u32, into: &mut Vec<i32>| -> Result<(), Error> {
        let sequence = open(&client);
        let mut operation = sequence.step(&step(tokens, max_tokens))?;
        while let Some(token) = poll_fn(|context| operation.poll_next(context)).await {
            into.push(token?.token);
        }
        Ok(())
    };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    {
        let one = pin!(stream(&PROMPT, 20, &mut first));
        let other = pin!(stream(&[1, 2], 30, &mut second));
        run_all(&client, vec![one, other])?;
    }
    assert_eq!(first, open(&client).generate(&PROMPT, 20)?);
    assert_eq!(second, open(&client).generate(&[1, 2], 30)?);
    Ok(())
}

#[test]
fn times_say_what_a_token_took() -> Result<(), Error> {
    let client = client();
    for token in open(&client).step(&step(&PROMPT, 2))? {
        assert!(token?.times().expect("it comes from a step").dense > Duration::ZERO);
    }
    assert!(client.counters()?.iter().any(|counter| counter.name == "sampled_tokens" && counter.value >= 2));
    Ok(())
}
