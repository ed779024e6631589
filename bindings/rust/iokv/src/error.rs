// SPDX-License-Identifier: Apache-2.0
//! [`Error`] and [`ConnectError`].

use std::ffi::{CStr, c_int};
use std::fmt;

use iokv_sys as sys;

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:ident,)*) => {
        /// The failure of a call or of an operation: a code of `iokv.h`.
        ///
        /// A call that fails has had no effect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Error {
            $($(#[$doc])* $name,)*
            /// A code that this crate does not know: library or daemon are newer.
            Other(i32),
        }

        impl Error {
            /// The code as `iokv.h` has it, negative.
            pub fn code(self) -> i32 {
                match self {
                    $(Error::$name => sys::$code,)*
                    Error::Other(code) => code,
                }
            }

            pub(crate) fn from_code(code: c_int) -> Self {
                match code {
                    $(sys::$code => Error::$name,)*
                    other => Error::Other(other),
                }
            }
        }
    };
}

errors! {
    /// An argument is out of range.
    InvalidArgument = IOKV_EINVAL,
    /// This process is out of memory, descriptors or address space.
    OutOfMemory = IOKV_ENOMEM,
    /// The submission ring, the arena or the outstanding operations are full: reap, then retry.
    TryAgain = IOKV_EAGAIN,
    /// No daemon listens on the socket.
    NoDaemon = IOKV_ENODAEMON,
    /// The socket's permissions: join its group.
    AccessDenied = IOKV_EACCES,
    /// Library and daemon have no protocol version in common.
    VersionMismatch = IOKV_EVERSION,
    /// The time-out passed while the daemon was loading its model.
    StillLoading = IOKV_ELOADING,
    /// The daemon is gone or ended the connection; `end_reason` says why.
    Closed = IOKV_ECLOSED,
    /// The peer broke the protocol.
    Protocol = IOKV_EPROTOCOL,
    /// Not possible while operations are outstanding.
    Busy = IOKV_EBUSY,
    /// A connection of the parent process, used in a forked child.
    Forked = IOKV_EFORK,
    /// The time-out passed.
    TimedOut = IOKV_ETIMEDOUT,
    /// A wake ended the wait.
    Woken = IOKV_EWOKEN,
    /// The sequence would be longer than the model's context.
    ContextFull = IOKV_ECONTEXT,
    /// The sequence could never fit the daemon's KV pool, even alone.
    PoolTooSmall = IOKV_EPOOL,
    /// A limit of this client: see [`Info`](crate::Info).
    Limit = IOKV_ELIMIT,
    /// No such sequence: never opened, closed, or of another generation.
    NoSuchSequence = IOKV_ESEQUENCE,
    /// A token is negative or not below the vocabulary.
    BadToken = IOKV_ETOKEN,
    /// Cancelled, or an earlier operation of the sequence failed.
    Canceled = IOKV_ECANCELED,
    /// The operation's deadline passed before it was done.
    DeadlinePassed = IOKV_EDEADLINE,
    /// The daemon is stopping.
    ShuttingDown = IOKV_ESHUTDOWN,
    /// The compute device failed.
    Device = IOKV_EDEVICE,
    /// This daemon does not offer that (model, adapter or feature).
    Unsupported = IOKV_EUNSUPPORTED,
    /// A mask has another length than the vocabulary, or permits nothing, or there are not as many as the step draws.
    Mask = IOKV_EMASK,
    /// A step's stop tokens and stop sequences are too many or too long: see [`Info`](crate::Info).
    Stop = IOKV_ESTOP,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: any code may be asked for; the answer is never NULL, NUL-terminated and static.
        let text = unsafe { CStr::from_ptr(sys::iokv_strerror(self.code())) };
        f.write_str(&text.to_string_lossy())
    }
}

impl std::error::Error for Error {}

/// A connection that could not be made, with the line that says what, where and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// What went wrong.
    pub error: Error,
    /// One line for a person.
    pub message: String,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

pub(crate) fn check(result: c_int) -> Result<u32> {
    u32::try_from(result).map_err(|_| Error::from_code(result))
}
