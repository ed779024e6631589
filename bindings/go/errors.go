// SPDX-License-Identifier: Apache-2.0

package iokv

// #include <iokv/iokv.h>
import "C"

import (
	"context"
	"io/fs"
	"os"
)

// Error is a code of iokv.h, the failure of a call or of an operation. Compare with errors.Is; ErrAccessDenied is
// fs.ErrPermission as well, ErrTimedOut os.ErrDeadlineExceeded and ErrDeadlinePassed context.DeadlineExceeded.
type Error int32

// The codes.
const (
	ErrInvalidArgument Error = C.IOKV_EINVAL       // an argument is out of range
	ErrOutOfMemory     Error = C.IOKV_ENOMEM       // this process is out of memory, descriptors or address space
	ErrTryAgain        Error = C.IOKV_EAGAIN       // ring, arena or outstanding operations are full: reap, then retry
	ErrNoDaemon        Error = C.IOKV_ENODAEMON    // no daemon listens on the socket
	ErrAccessDenied    Error = C.IOKV_EACCES       // the socket's permissions: join its group
	ErrVersionMismatch Error = C.IOKV_EVERSION     // library and daemon have no protocol version in common
	ErrStillLoading    Error = C.IOKV_ELOADING     // the time-out passed while the daemon was loading its model
	ErrClosed          Error = C.IOKV_ECLOSED      // the daemon is gone, or the connection was ended on either side
	ErrProtocol        Error = C.IOKV_EPROTOCOL    // the peer broke the protocol
	ErrBusy            Error = C.IOKV_EBUSY        // operations are outstanding, or another goroutine is in such a call
	ErrForked          Error = C.IOKV_EFORK        // a connection of the parent process, used in a forked child
	ErrTimedOut        Error = C.IOKV_ETIMEDOUT    // the time-out passed
	ErrWoken           Error = C.IOKV_EWOKEN       // a wake ended the wait
	ErrContextFull     Error = C.IOKV_ECONTEXT     // the sequence would be longer than the model's context
	ErrPoolTooSmall    Error = C.IOKV_EPOOL        // the sequence could never fit the daemon's KV pool, even alone
	ErrLimit           Error = C.IOKV_ELIMIT       // a limit of this client: see Info
	ErrNoSuchSequence  Error = C.IOKV_ESEQUENCE    // never opened, closed, or of another generation
	ErrBadToken        Error = C.IOKV_ETOKEN       // a token is negative or not below the vocabulary
	ErrCanceled        Error = C.IOKV_ECANCELED    // cancelled, or an earlier operation of the sequence failed
	ErrDeadlinePassed  Error = C.IOKV_EDEADLINE    // the operation's deadline passed before it was done
	ErrShuttingDown    Error = C.IOKV_ESHUTDOWN    // the daemon is stopping
	ErrDevice          Error = C.IOKV_EDEVICE      // the compute device failed
	ErrUnsupported     Error = C.IOKV_EUNSUPPORTED // this daemon does not offer that (model, adapter or feature)
	ErrMask            Error = C.IOKV_EMASK        // a mask's length, what it permits, or how many there are
	ErrStop            Error = C.IOKV_ESTOP        // stop tokens and stop sequences are too many or too long: see Info
)

// Error is the library's sentence for the code.
func (e Error) Error() string { return "iokv: " + C.GoString(C.iokv_strerror(C.int(e))) }

// Is makes codes that the standard library has a word for equal to it.
func (e Error) Is(target error) bool {
	switch e {
	case ErrAccessDenied:
		return target == fs.ErrPermission
	case ErrTimedOut, ErrStillLoading:
		return target == os.ErrDeadlineExceeded
	case ErrDeadlinePassed:
		return target == context.DeadlineExceeded
	}
	return false
}

// DetailedError is an Error with the line that says what, where and what to do. It unwraps to the Error.
type DetailedError struct {
	Code    Error
	Message string
}

func (e *DetailedError) Error() string { return "iokv: " + e.Message }

// Unwrap is the code.
func (e *DetailedError) Unwrap() error { return e.Code }

// check makes a call's result a count or an error.
func check(result C.int) (int, error) {
	if result < 0 {
		return 0, Error(result)
	}
	return int(result), nil
}
