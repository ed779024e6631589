// SPDX-License-Identifier: Apache-2.0
//! The C ABI of libiokv as it is in `iokv.h`, whose comments are the documentation here. The crate `iokv` is the safe way
//! to use it.
//!
//! The declarations are generated from the header, and their layout is asserted against the C compiler's when this
//! crate is compiled.
#![no_std]
#![allow(non_camel_case_types)]

include!("declarations.rs");
