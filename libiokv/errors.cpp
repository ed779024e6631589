// SPDX-License-Identifier: Apache-2.0
// One fixed sentence for each code. No state: any thread.
#include "include/iokv/iokv.h"

const char* iokv_strerror(int code) {
  switch (code) {
    case IOKV_OK: return "success";
    case IOKV_EINVAL: return "an argument is out of range";
    case IOKV_ENOMEM: return "this process is out of memory, descriptors or address space";
    case IOKV_EAGAIN: return "no room for another operation: submit, reap, then try again";
    case IOKV_ENODAEMON: return "no daemon listens on the socket";
    case IOKV_EACCES: return "the permissions of the socket forbid it: join its group";
    case IOKV_EVERSION: return "library and daemon have no protocol version in common";
    case IOKV_ELOADING: return "the daemon is still loading its model";
    case IOKV_ECLOSED: return "the daemon is gone or has ended the connection";
    case IOKV_EPROTOCOL: return "the peer broke the protocol";
    case IOKV_EBUSY: return "not possible while operations are outstanding";
    case IOKV_EFORK: return "the handle belongs to the parent process";
    case IOKV_ETIMEDOUT: return "the time-out passed";
    case IOKV_EWOKEN: return "iokv_wake ended the wait";
    case IOKV_ECONTEXT: return "the sequence would be longer than the model's context";
    case IOKV_EPOOL: return "the sequence could never fit the daemon's KV pool";
    case IOKV_ELIMIT: return "a limit of this client is reached";
    case IOKV_ESEQUENCE: return "no such sequence";
    case IOKV_ETOKEN: return "a token is outside the vocabulary";
    case IOKV_ECANCELED: return "the operation was cancelled";
    case IOKV_EDEADLINE: return "the operation's deadline passed";
    case IOKV_ESHUTDOWN: return "the daemon is stopping";
    case IOKV_EDEVICE: return "the compute device failed";
    case IOKV_EUNSUPPORTED: return "this daemon does not offer that";
    case IOKV_EMASK: return "a mask does not fit the vocabulary or the step, or permits nothing";
    case IOKV_ESTOP: return "the stop tokens and stop sequences are too many or too long";
    default: return "unknown error code";
  }
}
