# SPDX-License-Identifier: Apache-2.0
"""One exception class for each IOKV_E... code, so that callers catch what they can handle."""

from __future__ import annotations


class Error(Exception):
    """Any failure reported by libiokv or the daemon. `code` is the negative IOKV_E... code."""

    code: int = 0
    name: str = ""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or self.name)


class InvalidArgumentError(Error, ValueError):
    code, name = -1, "EINVAL"


class OutOfMemoryError(Error, MemoryError):
    code, name = -2, "ENOMEM"


class TryAgainError(Error, BlockingIOError):
    code, name = -3, "EAGAIN"


class NoDaemonError(Error, ConnectionError):
    code, name = -4, "ENODAEMON"


class AccessDeniedError(Error, PermissionError):
    code, name = -5, "EACCES"


class VersionMismatchError(Error):
    code, name = -6, "EVERSION"


class StillLoadingError(Error, TimeoutError):
    code, name = -7, "ELOADING"


class ConnectionClosedError(Error, ConnectionError):
    code, name = -8, "ECLOSED"


class ProtocolError(Error):
    code, name = -9, "EPROTOCOL"


class BusyError(Error):
    code, name = -10, "EBUSY"


class ForkedError(Error):
    code, name = -11, "EFORK"


class WaitTimeoutError(Error, TimeoutError):
    code, name = -12, "ETIMEDOUT"


class WokenError(Error, InterruptedError):
    code, name = -13, "EWOKEN"


class ContextFullError(Error):
    code, name = -14, "ECONTEXT"


class PoolTooSmallError(Error):
    code, name = -15, "EPOOL"


class LimitError(Error):
    code, name = -16, "ELIMIT"


class NoSuchSequenceError(Error, LookupError):
    code, name = -17, "ESEQUENCE"


class BadTokenError(Error, ValueError):
    code, name = -18, "ETOKEN"


class CanceledError(Error):
    code, name = -19, "ECANCELED"


class DeadlinePassedError(Error, TimeoutError):
    code, name = -20, "EDEADLINE"


class ShuttingDownError(Error):
    code, name = -21, "ESHUTDOWN"


class DeviceError(Error):
    code, name = -22, "EDEVICE"


class UnsupportedError(Error):
    code, name = -23, "EUNSUPPORTED"


class MaskError(Error, ValueError):
    code, name = -24, "EMASK"


class StopError(Error, ValueError):
    code, name = -25, "ESTOP"


BY_CODE: dict[int, type[Error]] = {
    cls.code: cls
    for cls in list(globals().values())
    if isinstance(cls, type) and issubclass(cls, Error) and cls is not Error
}
BY_NAME: dict[str, type[Error]] = {cls.name: cls for cls in BY_CODE.values()}


def error_for(code: int, message: str = "") -> Error:
    """The exception for a code; an unknown code (a newer daemon's) is a plain Error."""
    cls = BY_CODE.get(code)
    if cls is not None:
        return cls(message)
    error = Error(message or f"unknown error {code}")
    error.code = code
    return error
