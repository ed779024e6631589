// SPDX-License-Identifier: Apache-2.0
//! Client of `iokvd`, a daemon that decodes language models for any number of local processes.
//!
//! Two layers, each whole:
//!
//! - [`Client`], [`Sequence`] and [`Operation`] submit what they place and hand each completion to whom it belongs; tokens
//!   come as an iterator or, for event loops and async runtimes, by [`Operation::poll_next`].
//! - [`Connection`] with its [`Submitter`] and [`Reaper`] is the C ABI call for call.
//!
//! # Threads
//!
//! `iokv.h` lets one thread submit and one reap at a time. Here the compiler sees to it: a [`Client`] is `Send` and not
//! `Sync`; a [`Submitter`] and a [`Reaper`] may go to two threads and cannot be cloned; a [`Waker`] and a [`Vocabulary`] are
//! for any thread.
//!
//! # Errors
//!
//! Every call and every operation fails with an [`Error`]; a call that fails has had no effect. Nothing panics but what
//! would be a bug of this crate. After `fork` the child gets [`Error::Forked`].
#![deny(clippy::undocumented_unsafe_blocks)]

mod client;
mod connection;
mod error;
mod values;

pub use client::{Client, Operation, Sequence, Token};
pub use connection::{Connection, Opened, Reaper, Submitter, Vocabulary, Waker};
pub use error::{ConnectError, Error, Result};
pub use iokv_sys as sys;
pub use values::{
    Completion, ConnectOptions, Counter, Info, LogitBias, OpenOptions, Sampling, StepOptions, Times, TokenLogprob,
};
