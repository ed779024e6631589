// SPDX-License-Identifier: Apache-2.0
//! The C ABI call for call, with the thread rules of `iokv.h` as types. Every `unsafe` of the crate that touches a
//! connection is here.
//!
//! Invariants
//!  1. A `Handle` is made by `iokv_connect` and ended by `iokv_disconnect` when its last `Arc` goes: nobody is in a call
//!     then, as calls borrow what holds the `Arc`.
//!  2. Of one `Handle` there is one `Submitter` and one `Reaper`, neither of which can be cloned, and their calls take
//!     `&mut self`: so one thread is in the submitting calls and one in the reaping calls at a time.
//!  3. Calls that need both roles take both, of the same `Handle`.

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use iokv_sys as sys;

use crate::error::{ConnectError, Error, Result, check};
use crate::values::{
    Completion, ConnectOptions, Counter, Info, LogitBias, OpenOptions, Sampling, StepOptions, Times, TokenLogprob,
    length, text_of, timeout_ns,
};

struct Handle {
    raw: NonNull<sys::iokv_client>,
    info: Info,
}

// SAFETY: iokv.h, convention 7: a client may be used by any thread, with one at a time in the submitting and one in the
// reaping calls, which the types of this module see to; what a shared Handle offers itself is for any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle came from iokv_connect, and nobody is in a call (invariant 1).
        unsafe { sys::iokv_disconnect(self.raw.as_ptr()) }
    }
}

impl Handle {
    fn end_reason(&self) -> Result<(Error, String)> {
        let mut detail = empty_detail();
        // SAFETY: the handle is open; the detail is writable and says its size. Any thread.
        check(unsafe { sys::iokv_end_reason(self.raw.as_ptr(), &mut detail) })?;
        Ok((Error::from_code(detail.code), text_of(&detail.message)))
    }
    fn wake(&self) -> Result<()> {
        // SAFETY: the handle is open. Any thread.
        check(unsafe { sys::iokv_wake(self.raw.as_ptr()) }).map(drop)
    }
    fn outstanding(&self) -> u32 {
        // SAFETY: the handle is open. Any thread.
        unsafe { sys::iokv_outstanding(self.raw.as_ptr()) }
    }
    fn fd(&self) -> RawFd {
        // SAFETY: the handle is open. Any thread.
        unsafe { sys::iokv_fd(self.raw.as_ptr()) }
    }
}

fn size_of<T>() -> u32 {
    size_of_val_u32(std::mem::size_of::<T>())
}

fn size_of_val_u32(size: usize) -> u32 {
    u32::try_from(size).expect("a structure of the ABI is small")
}

fn empty_detail() -> sys::iokv_error_detail {
    sys::iokv_error_detail { struct_size: size_of::<sys::iokv_error_detail>(), code: 0, message: [0; 504] }
}

fn raw_sampling(sampling: &Sampling<'_>) -> Result<sys::iokv_sampling> {
    Ok(sys::iokv_sampling {
        struct_size: size_of::<sys::iokv_sampling>(),
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        seed: sampling.seed,
        min_p: sampling.min_p,
        typical_p: sampling.typical_p,
        repetition_penalty: sampling.repetition_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        repetition_from: sampling.repetition_from,
        frequency_from: sampling.frequency_from,
        logit_bias_count: length(sampling.logit_bias)?,
        logit_bias: sampling.logit_bias.as_ptr().cast(),
    })
}

// The slice is passed as it is.
const _: () = assert!(
    std::mem::size_of::<LogitBias>() == std::mem::size_of::<sys::iokv_logit_bias>()
        && std::mem::offset_of!(LogitBias, bias) == std::mem::offset_of!(sys::iokv_logit_bias, bias)
);

/// Calls `use_it` with what the C ABI takes a sampling as: a pointer that is valid until it returns, or NULL.
fn with_sampling<T>(
    sampling: Option<&Sampling<'_>>,
    use_it: impl FnOnce(*const sys::iokv_sampling) -> Result<T>,
) -> Result<T> {
    let raw = sampling.map(raw_sampling).transpose()?;
    use_it(raw.as_ref().map_or(ptr::null(), ptr::from_ref))
}

/// Calls `use_it` with a step's options; what they point to is valid until it returns.
fn with_step<T>(
    options: &StepOptions<'_>,
    user_data: u64,
    use_it: impl FnOnce(&sys::iokv_step_options) -> Result<T>,
) -> Result<T> {
    let flag = |wanted: bool, flag: c_int| if wanted { flag as u32 } else { 0 };
    let stop_sequences = options.stop_sequences.concat();
    let stop_sequence_lengths = options.stop_sequences.iter().map(|one| length(one)).collect::<Result<Vec<_>>>()?;
    let mask_words = options.masks.first().map_or(0, |mask| mask.len());
    if options.masks.iter().any(|mask| mask.len() != mask_words) {
        return Err(Error::Mask);
    }
    let masks = options.masks.concat();
    with_sampling(options.sampling.as_ref(), |sampling| {
        use_it(&sys::iokv_step_options {
            struct_size: size_of::<sys::iokv_step_options>(),
            flags: flag(options.each, sys::IOKV_STEP_EACH) | flag(options.logits, sys::IOKV_STEP_LOGITS),
            user_data,
            tokens: options.tokens.as_ptr(),
            token_count: length(options.tokens)?,
            max_tokens: options.max_tokens,
            stop_tokens: options.stop_tokens.as_ptr(),
            stop_token_count: length(options.stop_tokens)?,
            priority: options.priority,
            sampling,
            deadline_ns: options.deadline_ns,
            stop_sequences: stop_sequences.as_ptr(),
            stop_sequence_lengths: stop_sequence_lengths.as_ptr(),
            stop_sequence_count: length(&stop_sequence_lengths)?,
            top_logprobs: options.top_logprobs,
            masks: masks.as_ptr(),
            mask_words: u32::try_from(mask_words).map_err(|_| Error::Mask)?,
            mask_count: length(options.masks)?,
        })
    })
}

/// Connects, and waits until the daemon is ready.
fn connect(options: &ConnectOptions) -> std::result::Result<Arc<Handle>, ConnectError> {
    let c_string = |bytes: &[u8], what: &str| {
        CString::new(bytes)
            .map_err(|_| ConnectError { error: Error::InvalidArgument, message: format!("{what} contains a NUL") })
    };
    let path = options.socket_path.as_ref().map(|path| c_string(path.as_os_str().as_bytes(), "the socket's path"));
    let path = path.transpose()?;
    let name = options.name.as_ref().map(|name| c_string(name.as_bytes(), "the name")).transpose()?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
    let raw = sys::iokv_connect_options {
        struct_size: size_of::<sys::iokv_connect_options>(),
        flags: 0,
        socket_path: pointer(&path),
        name: pointer(&name),
        // 0 would be the default.
        timeout_ns: match timeout_ns(options.timeout) {
            0 => 1,
            limit => limit,
        },
        spin_ns: u64::try_from(options.spin.as_nanos()).unwrap_or(u64::MAX),
        submission_entries: options.submission_entries,
        completion_entries: options.completion_entries,
        arena_bytes: options.arena_bytes,
        result_bytes: options.result_bytes,
    };
    let mut detail = empty_detail();
    let mut client = ptr::null_mut();
    // SAFETY: what the options point to lives until the end of this function; the others are writable.
    let code = unsafe { sys::iokv_connect(&raw, &mut client, &mut detail) };
    check(code).map_err(|error| ConnectError { error, message: text_of(&detail.message) })?;
    let raw = NonNull::new(client).expect("iokv_connect gives a handle when it succeeds");
    // SAFETY: all-zero is a value of iokv_info: numbers and arrays of them.
    let mut info: sys::iokv_info = unsafe { std::mem::zeroed() };
    info.struct_size = size_of::<sys::iokv_info>();
    // SAFETY: the handle is open; info is writable and says its size.
    let code = unsafe { sys::iokv_get_info(raw.as_ptr(), &mut info) };
    let handle = Arc::new(Handle { raw, info: Info::from_raw(&info) });
    check(code).map_err(|error| ConnectError { error, message: error.to_string() })?;
    Ok(handle)
}

/// A sequence that has just been given its id, and the operation that opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Usable at once, in the same submission.
    pub sequence: u64,
    /// Ends when the sequence is open.
    pub operation: u64,
}

/// The submitting side of a connection. Each call but [`submit`](Self::submit) places one entry.
pub struct Submitter {
    handle: Arc<Handle>,
}

impl Submitter {
    /// Places OPEN.
    pub fn open(&mut self, options: &OpenOptions<'_>, user_data: u64) -> Result<Opened> {
        let mut opened = Opened { sequence: 0, operation: 0 };
        let code = with_sampling(options.sampling.as_ref(), |sampling| {
            let raw = sys::iokv_open_options {
                struct_size: size_of::<sys::iokv_open_options>(),
                flags: 0,
                user_data,
                sampling,
                model: options.model,
                adapter: options.adapter,
                priority: options.priority,
                reserved: 0,
            };
            // SAFETY: the handle is open, the options are valid until the call returns, and nobody else submits.
            check(unsafe {
                sys::iokv_open(self.handle.raw.as_ptr(), &raw, &mut opened.sequence, &mut opened.operation)
            })
        });
        code.map(|_| opened)
    }

    /// Why the latest `open` or `step` failed: the line names the argument and its range. `None` when it has not.
    pub fn last_failure(&self) -> Result<Option<(Error, String)>> {
        let mut detail = empty_detail();
        // SAFETY: the handle is open; the detail is writable and says its size. The submitting thread, which has self.
        check(unsafe { sys::iokv_last_failure(self.handle.raw.as_ptr(), &mut detail) })?;
        Ok((detail.code != 0).then(|| (Error::from_code(detail.code), text_of(&detail.message))))
    }

    /// Places STEP: append, then sample.
    pub fn step(&mut self, sequence: u64, options: &StepOptions<'_>, user_data: u64) -> Result<u64> {
        with_step(options, user_data, |raw| {
            let mut operation = 0;
            // SAFETY: as in `open`.
            check(unsafe { sys::iokv_step(self.handle.raw.as_ptr(), sequence, raw, &mut operation) })?;
            Ok(operation)
        })
    }

    /// Places FORK of the parent's first `tokens` tokens (`None`: all).
    pub fn fork(&mut self, parent: u64, tokens: Option<u32>, user_data: u64) -> Result<Opened> {
        let mut made = Opened { sequence: 0, operation: 0 };
        let tokens = tokens.unwrap_or(u32::MAX);
        let client = self.handle.raw.as_ptr();
        // SAFETY: as in `open`.
        let code =
            unsafe { sys::iokv_fork(client, parent, tokens, user_data, &mut made.sequence, &mut made.operation) };
        check(code).map(|_| made)
    }

    /// Places TRUNCATE: drop every token from position `length` on.
    pub fn truncate(&mut self, sequence: u64, length: u32, user_data: u64) -> Result<u64> {
        let mut operation = 0;
        let client = self.handle.raw.as_ptr();
        // SAFETY: as in `open`.
        check(unsafe { sys::iokv_truncate(client, sequence, length, user_data, &mut operation) })?;
        Ok(operation)
    }

    /// Places CANCEL of one operation (`None`: all of the sequence's).
    pub fn cancel(&mut self, sequence: u64, target: Option<u64>, user_data: u64) -> Result<u64> {
        let mut operation = 0;
        let client = self.handle.raw.as_ptr();
        // SAFETY: as in `open`.
        check(unsafe { sys::iokv_cancel(client, sequence, target.unwrap_or(0), user_data, &mut operation) })?;
        Ok(operation)
    }

    /// Places CLOSE.
    pub fn close(&mut self, sequence: u64, user_data: u64) -> Result<u64> {
        let mut operation = 0;
        // SAFETY: as in `open`.
        check(unsafe { sys::iokv_close(self.handle.raw.as_ptr(), sequence, user_data, &mut operation) })?;
        Ok(operation)
    }

    /// Places NOP.
    pub fn nop(&mut self, user_data: u64) -> Result<u64> {
        let mut operation = 0;
        // SAFETY: as in `open`.
        check(unsafe { sys::iokv_nop(self.handle.raw.as_ptr(), user_data, &mut operation) })?;
        Ok(operation)
    }

    /// Makes placed entries visible to the daemon; how many. A system call only if the daemon sleeps.
    pub fn submit(&mut self) -> Result<u32> {
        // SAFETY: the handle is open, and nobody else submits.
        check(unsafe { sys::iokv_submit(self.handle.raw.as_ptr()) })
    }

    /// Operations whose final completion has not been reaped.
    pub fn outstanding(&self) -> u32 {
        self.handle.outstanding()
    }
}

const REAP_AT_ONCE: usize = 256;

/// Copies of what came beside a completion: logits and top tokens.
type Results = (Option<Box<[f32]>>, Option<Box<[TokenLogprob]>>);

/// The reaping side of a connection.
pub struct Reaper {
    handle: Arc<Handle>,
    buffer: Box<[sys::iokv_completion]>,
}

impl Reaper {
    /// Hands up to `capacity` (at most 256) completions to `take`, waiting up to `timeout` (`None`: without limit) for the
    /// first; how many. 0 only with a time-out of 0. When it is less than `capacity`, the descriptor is armed.
    ///
    /// Logits are copied out, and their space is given back.
    pub fn reap(
        &mut self,
        capacity: usize,
        timeout: Option<Duration>,
        mut take: impl FnMut(Completion),
    ) -> Result<usize> {
        let (client, wanted) = (self.handle.raw.as_ptr(), capacity.min(self.buffer.len()));
        let limit = size_of_val_u32(wanted);
        // SAFETY: the handle is open, the buffer has room for `limit`, and nobody else reaps.
        let code = unsafe { sys::iokv_reap(client, self.buffer.as_mut_ptr(), limit, timeout_ns(timeout)) };
        let count = check(code)? as usize;
        for raw in &self.buffer[..count] {
            let (logits, top) = self.take_results(raw)?;
            take(Completion {
                user_data: raw.user_data,
                operation: raw.operation,
                sequence: raw.sequence,
                result: raw.result,
                token: raw.token,
                logprob: raw.logprob,
                index: raw.index,
                length: raw.length,
                flags: raw.flags,
                logits,
                top,
                times: raw.times,
            });
        }
        Ok(count)
    }

    fn take_results(&self, raw: &sys::iokv_completion) -> Result<Results> {
        let has = |flag: c_int| raw.flags & flag as u32 != 0;
        if !has(sys::IOKV_COMPLETION_LOGITS) && !has(sys::IOKV_COMPLETION_TOP) {
            return Ok((None, None));
        }
        let logits = has(sys::IOKV_COMPLETION_LOGITS).then(|| self.copy_logits(raw));
        let top = has(sys::IOKV_COMPLETION_TOP).then(|| self.copy_top(raw));
        // SAFETY: the handle is open, the completion came from it, and nobody else reaps; both views have been copied.
        check(unsafe { sys::iokv_release(self.handle.raw.as_ptr(), raw) })?;
        Ok((logits.transpose()?, top.transpose()?))
    }

    fn copy_logits(&self, raw: &sys::iokv_completion) -> Result<Box<[f32]>> {
        let mut view = sys::iokv_logits_view {
            struct_size: size_of::<sys::iokv_logits_view>(),
            dtype: 0,
            count: 0,
            reserved: 0,
            data: ptr::null(),
        };
        // SAFETY: the handle is open, the completion came from it, and nobody else reaps: `reap` has `&mut self`.
        check(unsafe { sys::iokv_logits(self.handle.raw.as_ptr(), raw, &mut view) })?;
        if view.dtype != sys::IOKV_F32 as u32 {
            return Err(Error::Unsupported);
        }
        // SAFETY: the view is `count` floats, aligned, which nobody writes until it is released.
        Ok(unsafe { std::slice::from_raw_parts(view.data.cast::<f32>(), view.count as usize) }.into())
    }

    fn copy_top(&self, raw: &sys::iokv_completion) -> Result<Box<[TokenLogprob]>> {
        let (mut entries, mut count) = (ptr::null(), 0);
        // SAFETY: as in `copy_logits`.
        check(unsafe { sys::iokv_top_logprobs(self.handle.raw.as_ptr(), raw, &mut entries, &mut count) })?;
        if count == 0 {
            return Ok(Box::default());
        }
        // SAFETY: the view is `count` entries, aligned, which nobody writes until it is released.
        let entries = unsafe { std::slice::from_raw_parts(entries, count as usize) };
        Ok(entries.iter().map(|entry| TokenLogprob { token: entry.token, logprob: entry.logprob }).collect())
    }

    /// Operations whose final completion has not been reaped.
    pub fn outstanding(&self) -> u32 {
        self.handle.outstanding()
    }

    /// Why the connection ended, once a call has returned [`Error::Closed`].
    pub fn end_reason(&self) -> Result<(Error, String)> {
        self.handle.end_reason()
    }
}

impl AsRawFd for Reaper {
    fn as_raw_fd(&self) -> RawFd {
        self.handle.fd()
    }
}

impl AsFd for Reaper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the handle, which self holds.
        unsafe { BorrowedFd::borrow_raw(self.handle.fd()) }
    }
}

/// The connection's descriptor, for as long as `owner`, which must be what keeps the connection.
pub(crate) fn borrowed_for<'a, T>(owner: &'a T, connection: &Connection) -> BorrowedFd<'a> {
    let _ = owner;
    // SAFETY: the descriptor is open as long as the connection, which `owner` keeps for 'a.
    unsafe { BorrowedFd::borrow_raw(connection.reaper.handle.fd()) }
}

/// Ends waits of another thread. Keeps the connection open while it lives.
#[derive(Clone)]
pub struct Waker {
    handle: Arc<Handle>,
}

impl Waker {
    /// Ends a present or the next blocking reap with [`Error::Woken`].
    pub fn wake(&self) -> Result<()> {
        self.handle.wake()
    }
    /// Operations whose final completion has not been reaped.
    pub fn outstanding(&self) -> u32 {
        self.handle.outstanding()
    }
}

/// The bytes of every token's text, in memory that the daemon shares. For any thread; keeps the connection open while it
/// lives.
#[derive(Clone)]
pub struct Vocabulary {
    handle: Arc<Handle>,
}

impl Vocabulary {
    /// The bytes of a token's text, which may be part of a UTF-8 character. [`Error::BadToken`].
    pub fn bytes(&self, token: i32) -> Result<&[u8]> {
        let (mut bytes, mut size) = (ptr::null(), 0);
        // SAFETY: the handle is open; the table was fetched before this Vocabulary was made, so any thread may call.
        check(unsafe { sys::iokv_token_bytes(self.handle.raw.as_ptr(), token, &mut bytes, &mut size) })?;
        // SAFETY: so many bytes, which nobody writes, until the handle ends, which self holds.
        Ok(unsafe { shared_bytes(bytes, size as usize) })
    }
}

/// # Safety
/// `bytes` is NULL with `size` 0, or points to so many bytes that are valid and constant for `'a`.
unsafe fn shared_bytes<'a>(bytes: *const u8, size: usize) -> &'a [u8] {
    if size == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(bytes, size) }
}

/// A connection to a daemon, with both sides; [`split`](Self::split) gives them to two threads.
///
/// The connection ends when everything that came from it has been dropped.
pub struct Connection {
    /// Places operations.
    pub submitter: Submitter,
    /// Takes completions.
    pub reaper: Reaper,
}

impl Connection {
    /// Connects, and waits until the daemon is ready.
    pub fn connect(options: &ConnectOptions) -> std::result::Result<Self, ConnectError> {
        let handle = connect(options)?;
        // SAFETY: all-zero is a value of iokv_completion: numbers.
        let empty: sys::iokv_completion = unsafe { std::mem::zeroed() };
        let reaper = Reaper { handle: handle.clone(), buffer: vec![empty; REAP_AT_ONCE].into() };
        Ok(Self { submitter: Submitter { handle }, reaper })
    }

    /// The two sides, which may go to different threads.
    pub fn split(self) -> (Submitter, Reaper) {
        (self.submitter, self.reaper)
    }

    /// Facts and limits.
    pub fn info(&self) -> &Info {
        &self.submitter.handle.info
    }

    /// Why the connection ended, once a call has returned [`Error::Closed`].
    pub fn end_reason(&self) -> Result<(Error, String)> {
        self.reaper.end_reason()
    }

    /// What ends waits from another thread.
    pub fn waker(&self) -> Waker {
        Waker { handle: self.submitter.handle.clone() }
    }

    /// Operations whose final completion has not been reaped.
    pub fn outstanding(&self) -> u32 {
        self.submitter.outstanding()
    }

    /// One blocking step with nothing else outstanding; the sampled tokens.
    ///
    /// [`Error::Busy`] while operations are outstanding; `each` and `logits` are [`Error::InvalidArgument`].
    pub fn generate(&mut self, sequence: u64, options: &StepOptions<'_>) -> Result<Vec<i32>> {
        let client = self.both()?;
        with_step(options, 0, |raw| {
            let mut tokens = vec![0; options.max_tokens as usize];
            let (room, mut count) = (options.max_tokens, 0);
            // SAFETY: the handle is open, the options are valid until the call returns, `tokens` has `room` elements, and
            // nobody else submits or reaps: `&mut self` is both sides.
            check(unsafe { sys::iokv_generate(client, sequence, raw, tokens.as_mut_ptr(), room, &mut count) })?;
            tokens.truncate(count as usize);
            Ok(tokens)
        })
    }

    /// The texts of tokens; the first call fetches them from the daemon. [`Error::Unsupported`]: the model has none.
    pub fn vocabulary(&mut self) -> Result<Vocabulary> {
        self.both()?;
        let vocabulary = Vocabulary { handle: self.submitter.handle.clone() };
        vocabulary.bytes(0)?;
        Ok(vocabulary)
    }

    /// tokenizer.json as HF `tokenizers` reads it; empty when the model came without it.
    pub fn tokenizer_file(&mut self) -> Result<&[u8]> {
        self.text(sys::IOKV_TEXT_TOKENIZER)
    }

    /// The model's Jinja chat template; empty when it came without one.
    pub fn chat_template(&mut self) -> Result<&[u8]> {
        self.text(sys::IOKV_TEXT_CHAT_TEMPLATE)
    }

    fn text(&mut self, file: c_int) -> Result<&[u8]> {
        let client = self.both()?;
        let (mut bytes, mut size) = (ptr::null(), 0);
        // SAFETY: the handle is open, and nobody else submits or reaps: `&mut self` is both sides.
        check(unsafe { sys::iokv_text(client, file, &mut bytes, &mut size) })?;
        let size = usize::try_from(size).map_err(|_| Error::OutOfMemory)?;
        // SAFETY: so many bytes, which nobody writes, until the handle ends, which self holds.
        Ok(unsafe { shared_bytes(bytes, size) })
    }

    /// The daemon's counters, from memory that it shares.
    pub fn counters(&mut self) -> Result<Vec<Counter>> {
        let client = self.both()?;
        let mut found = Vec::new();
        loop {
            let mut raw = sys::iokv_counter { name: ptr::null(), unit: ptr::null(), meaning: ptr::null(), value: 0 };
            let index = size_of_val_u32(found.len());
            // SAFETY: the handle is open, and nobody else submits or reaps: `&mut self` is both sides.
            match check(unsafe { sys::iokv_get_counter(client, index, &mut raw) }) {
                Ok(_) => {}
                Err(Error::InvalidArgument) if !found.is_empty() => return Ok(found),
                Err(error) => return Err(error),
            }
            found.push(Counter {
                name: static_text(raw.name),
                unit: static_text(raw.unit),
                meaning: static_text(raw.meaning),
                value: raw.value,
            });
        }
    }

    /// For calls that need both sides, which `&mut self` is: unless somebody has swapped one with another connection's.
    fn both(&mut self) -> Result<*mut sys::iokv_client> {
        let same = Arc::ptr_eq(&self.submitter.handle, &self.reaper.handle);
        same.then(|| self.submitter.handle.raw.as_ptr()).ok_or(Error::InvalidArgument)
    }
}

/// A text that the library keeps for ever.
fn static_text(text: *const c_char) -> &'static str {
    // SAFETY: iokv.h promises static, NUL-terminated texts, and the only caller passes what iokv_get_counter has filled.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("?")
}

pub(crate) fn times_of(packed: u64) -> Option<Times> {
    // SAFETY: all-zero is a value of both: numbers.
    let (mut completion, mut raw): (sys::iokv_completion, sys::iokv_times) = unsafe { std::mem::zeroed() };
    completion.times = packed;
    raw.struct_size = size_of::<sys::iokv_times>();
    // SAFETY: both live here, and raw says its size. Any thread.
    check(unsafe { sys::iokv_completion_times(&completion, &mut raw) }).ok()?;
    Some(Times {
        queued: Duration::from_nanos(raw.queued_ns),
        link: Duration::from_nanos(raw.link_ns),
        recompute: Duration::from_nanos(raw.recompute_ns),
        dense: Duration::from_nanos(raw.dense_ns),
    })
}
