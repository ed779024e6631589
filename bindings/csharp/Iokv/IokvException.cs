// SPDX-License-Identifier: Apache-2.0
using System;
using System.Text;
using Iokv.Native;

namespace Iokv
{
    /// <summary>The codes of iokv.h.</summary>
    public enum ErrorCode
    {
        /// <summary>An argument is out of range.</summary>
        InvalidArgument = Constants.IOKV_EINVAL,
        /// <summary>This process is out of memory, descriptors or address space.</summary>
        OutOfMemory = Constants.IOKV_ENOMEM,
        /// <summary>The submission ring, the arena or the outstanding operations are full: reap, then retry.</summary>
        TryAgain = Constants.IOKV_EAGAIN,
        /// <summary>No daemon listens on the socket.</summary>
        NoDaemon = Constants.IOKV_ENODAEMON,
        /// <summary>The socket's permissions: join its group.</summary>
        AccessDenied = Constants.IOKV_EACCES,
        /// <summary>Library and daemon have no protocol version in common.</summary>
        VersionMismatch = Constants.IOKV_EVERSION,
        /// <summary>The time-out passed while the daemon was loading its model.</summary>
        StillLoading = Constants.IOKV_ELOADING,
        /// <summary>The daemon is gone or ended the connection.</summary>
        Closed = Constants.IOKV_ECLOSED,
        /// <summary>The peer broke the protocol.</summary>
        Protocol = Constants.IOKV_EPROTOCOL,
        /// <summary>Not possible while operations are outstanding.</summary>
        Busy = Constants.IOKV_EBUSY,
        /// <summary>A connection of the parent process, used in a forked child.</summary>
        Forked = Constants.IOKV_EFORK,
        /// <summary>The time-out passed.</summary>
        TimedOut = Constants.IOKV_ETIMEDOUT,
        /// <summary>A wake ended the wait.</summary>
        Woken = Constants.IOKV_EWOKEN,
        /// <summary>The sequence would be longer than the model's context.</summary>
        ContextFull = Constants.IOKV_ECONTEXT,
        /// <summary>The sequence could never fit the daemon's KV pool, even alone.</summary>
        PoolTooSmall = Constants.IOKV_EPOOL,
        /// <summary>A limit of this client: see <see cref="ClientInfo"/>.</summary>
        Limit = Constants.IOKV_ELIMIT,
        /// <summary>No such sequence: never opened, closed, or of another generation.</summary>
        NoSuchSequence = Constants.IOKV_ESEQUENCE,
        /// <summary>A token is negative or not below the vocabulary.</summary>
        BadToken = Constants.IOKV_ETOKEN,
        /// <summary>Cancelled, or an earlier operation of the sequence failed.</summary>
        Canceled = Constants.IOKV_ECANCELED,
        /// <summary>The operation's deadline passed before it was done.</summary>
        DeadlinePassed = Constants.IOKV_EDEADLINE,
        /// <summary>The daemon is stopping.</summary>
        ShuttingDown = Constants.IOKV_ESHUTDOWN,
        /// <summary>The compute device failed.</summary>
        Device = Constants.IOKV_EDEVICE,
        /// <summary>This daemon does not offer that (model, adapter or feature).</summary>
        Unsupported = Constants.IOKV_EUNSUPPORTED,
        /// <summary>A mask has another length than the vocabulary, or permits nothing, or there are not as many as the step
        /// draws.</summary>
        Mask = Constants.IOKV_EMASK,
        /// <summary>A step's stop tokens and stop sequences are too many or too long: see <see cref="ClientInfo"/>.</summary>
        Stop = Constants.IOKV_ESTOP,
    }

    /// <summary>The failure of a call, which then has had no effect, or of an operation.</summary>
    public sealed class IokvException : Exception
    {
        /// <summary>Which of iokv.h's codes.</summary>
        public ErrorCode Code { get; }

        internal IokvException(int code) : base(Sentence(code))
        {
            Code = (ErrorCode)code;
        }

        internal IokvException(int code, string message) : base(message.Length == 0 ? Sentence(code) : message)
        {
            Code = (ErrorCode)code;
        }

        internal static int Check(int result)
        {
            if (result < 0)
            {
                throw new IokvException(result);
            }
            return result;
        }

        private static unsafe string Sentence(int code)
        {
            return Text.Of(Library.iokv_strerror(code), int.MaxValue);
        }
    }

    /// <summary>NUL-terminated UTF-8 in C memory, and back.</summary>
    internal static unsafe class Text
    {
        public static string Of(byte* bytes, int capacity)
        {
            int length = 0;
            while (length < capacity && bytes[length] != 0)
            {
                length++;
            }
            return length == 0 ? "" : Encoding.UTF8.GetString(bytes, length);
        }

        public static byte[]? Terminated(string? text)
        {
            if (text == null)
            {
                return null;
            }
            if (text.IndexOf('\0') >= 0)
            {
                throw new ArgumentException("the text contains a NUL");
            }
            return Encoding.UTF8.GetBytes(text + "\0");
        }

        public static byte[] Copy(byte* bytes, ulong size)
        {
            var copy = new byte[checked((int)size)];
            if (copy.Length > 0)
            {
                System.Runtime.InteropServices.Marshal.Copy((IntPtr)bytes, copy, 0, copy.Length);
            }
            return copy;
        }
    }
}
