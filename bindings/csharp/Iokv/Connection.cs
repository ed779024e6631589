// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using System.Threading;
using Iokv.Native;

namespace Iokv
{
    /// <summary>The C ABI call for call. What is placed becomes visible by <see cref="Submit"/>; completions come from
    /// <see cref="Reap"/>. One thread may be in the submitting calls and one in the reaping calls at a time; a second one gets an
    /// InvalidOperationException. After Dispose every call throws ObjectDisposedException.</summary>
    public sealed unsafe class Connection : IDisposable
    {
        private const int ReapAtOnce = 256;

        private readonly ClientHandle client;
        private readonly IntPtr completions; // ReapAtOnce of them, in C memory: one reap fills it, nothing is pinned
        private int submitting, reaping;     // 1: a thread is in such a call
        private int disposed;

        /// <summary>Facts about the model and limits of this client.</summary>
        public ClientInfo Info { get; }

        /// <summary>Connects, and blocks until the daemon is ready.</summary>
        public Connection(ConnectOptions? options = null)
        {
            if (options == null)
            {
                options = new ConnectOptions();
            }
            IntPtr raw;
            fixed (byte* path = Text.Terminated(options.SocketPath), name = Text.Terminated(options.Name))
            {
                var given = new Native.ConnectOptions
                {
                    struct_size = (uint)sizeof(Native.ConnectOptions),
                    socket_path = path,
                    name = name,
                    timeout_ns = Nanoseconds(options.Timeout, 1),
                    spin_ns = (ulong)Math.Max(0, Nanoseconds(options.Spin, 0)),
                    submission_entries = options.SubmissionEntries,
                    completion_entries = options.CompletionEntries,
                    arena_bytes = options.ArenaBytes,
                    result_bytes = options.ResultBytes,
                };
                var why = new ErrorDetail { struct_size = (uint)sizeof(ErrorDetail) };
                int code = Library.iokv_connect(&given, &raw, &why);
                if (code != 0)
                {
                    throw new IokvException(code, Text.Of(why.message, 504));
                }
            }
            client = new ClientHandle(raw);
            var info = new Info { struct_size = (uint)sizeof(Info) };
            IokvException.Check(Library.iokv_get_info(client, &info));
            Info = new ClientInfo(&info);
            completions = Marshal.AllocHGlobal(ReapAtOnce * sizeof(Completion));
        }

        /// <summary>Frees what the finalizer of the handle does not.</summary>
        ~Connection()
        {
            Marshal.FreeHGlobal(completions);
        }

        /// <summary>Ends the connection: what is outstanding is cancelled, every sequence closed, a wait of another thread ends with
        /// ObjectDisposedException. Calling it again does nothing.</summary>
        public void Dispose()
        {
            if (Interlocked.Exchange(ref disposed, 1) != 0)
            {
                return;
            }
            // The buffer is left to the finalizer: another thread may be filling it.
            Library.iokv_wake(client);
            client.Dispose();
        }

        /// <summary>Dispose was called.</summary>
        public bool IsDisposed { get { return Volatile.Read(ref disposed) != 0; } }

        private void Enter(ref int role, string what)
        {
            if (IsDisposed)
            {
                throw new ObjectDisposedException(nameof(Connection));
            }
            if (Interlocked.CompareExchange(ref role, 1, 0) != 0)
            {
                throw new InvalidOperationException("another thread is in a " + what + " call of this connection");
            }
        }

        private static void Leave(ref int role)
        {
            Volatile.Write(ref role, 0);
        }

        private void EnterBoth()
        {
            Enter(ref submitting, "submitting");
            try
            {
                Enter(ref reaping, "reaping");
            }
            catch
            {
                Leave(ref submitting);
                throw;
            }
        }

        private void LeaveBoth()
        {
            Leave(ref reaping);
            Leave(ref submitting);
        }

        private static long Nanoseconds(TimeSpan time, long zero)
        {
            if (time < TimeSpan.Zero)
            {
                return -1;
            }
            return time == TimeSpan.Zero ? zero : time.Ticks > long.MaxValue / 100 ? long.MaxValue : time.Ticks * 100;
        }

        private static Native.Sampling Raw(Sampling sampling)
        {
            return new Native.Sampling
            {
                struct_size = (uint)sizeof(Native.Sampling),
                temperature = sampling.Temperature,
                top_p = sampling.TopP,
                top_k = sampling.TopK,
                seed = sampling.Seed,
            };
        }

        private static Native.StepOptions Raw(StepOptions options, int* tokens, int* stopTokens, Native.Sampling* sampling,
            ulong userData)
        {
            return new Native.StepOptions
            {
                struct_size = (uint)sizeof(Native.StepOptions),
                flags = (options.Each ? (uint)Constants.IOKV_STEP_EACH : 0) | (options.Logits ? (uint)Constants.IOKV_STEP_LOGITS : 0),
                user_data = userData,
                tokens = tokens,
                token_count = (uint)options.Tokens.Length,
                max_tokens = options.MaxTokens,
                stop_tokens = stopTokens,
                stop_token_count = (uint)options.StopTokens.Length,
                priority = options.Priority,
                sampling = sampling,
                deadline_ns = options.DeadlineNs,
            };
        }

        /// <summary>Places OPEN. Submitting thread.</summary>
        public Opened Open(OpenOptions? options = null, ulong userData = 0)
        {
            if (options == null)
            {
                options = new OpenOptions();
            }
            var sampling = Raw(options.Sampling.GetValueOrDefault());
            var raw = new Native.OpenOptions
            {
                struct_size = (uint)sizeof(Native.OpenOptions),
                user_data = userData,
                sampling = options.Sampling.HasValue ? &sampling : null,
                model = options.Model,
                adapter = options.Adapter,
                priority = options.Priority,
            };
            var opened = default(Opened);
            Enter(ref submitting, "submitting");
            try
            {
                IokvException.Check(Library.iokv_open(client, &raw, &opened.Sequence, &opened.Operation));
            }
            finally
            {
                Leave(ref submitting);
            }
            return opened;
        }

        /// <summary>Places STEP: append, then sample. Submitting thread.</summary>
        public ulong Step(ulong sequence, StepOptions options, ulong userData = 0)
        {
            var sampling = Raw(options.Sampling.GetValueOrDefault());
            ulong operation;
            Enter(ref submitting, "submitting");
            try
            {
                fixed (int* tokens = options.Tokens, stopTokens = options.StopTokens)
                {
                    var raw = Raw(options, tokens, stopTokens, options.Sampling.HasValue ? &sampling : null, userData);
                    IokvException.Check(Library.iokv_step(client, sequence, &raw, &operation));
                }
            }
            finally
            {
                Leave(ref submitting);
            }
            return operation;
        }

        /// <summary>Places FORK of the parent's first <paramref name="tokens"/> tokens (null: all). Submitting thread.</summary>
        public Opened Fork(ulong parent, uint? tokens = null, ulong userData = 0)
        {
            var made = default(Opened);
            Enter(ref submitting, "submitting");
            try
            {
                uint count = tokens ?? uint.MaxValue;
                IokvException.Check(Library.iokv_fork(client, parent, count, userData, &made.Sequence, &made.Operation));
            }
            finally
            {
                Leave(ref submitting);
            }
            return made;
        }

        /// <summary>Places TRUNCATE: drop every token from position <paramref name="length"/> on. Submitting thread.</summary>
        public ulong Truncate(ulong sequence, uint length, ulong userData = 0)
        {
            ulong operation;
            Enter(ref submitting, "submitting");
            try
            {
                IokvException.Check(Library.iokv_truncate(client, sequence, length, userData, &operation));
            }
            finally
            {
                Leave(ref submitting);
            }
            return operation;
        }

        /// <summary>Places CANCEL of one operation (0: all of the sequence's). Submitting thread.</summary>
        public ulong Cancel(ulong sequence, ulong target = 0, ulong userData = 0)
        {
            ulong operation;
            Enter(ref submitting, "submitting");
            try
            {
                IokvException.Check(Library.iokv_cancel(client, sequence, target, userData, &operation));
            }
            finally
            {
                Leave(ref submitting);
            }
            return operation;
        }

        /// <summary>Places CLOSE. Submitting thread.</summary>
        public ulong CloseSequence(ulong sequence, ulong userData = 0)
        {
            ulong operation;
            Enter(ref submitting, "submitting");
            try
            {
                IokvException.Check(Library.iokv_close(client, sequence, userData, &operation));
            }
            finally
            {
                Leave(ref submitting);
            }
            return operation;
        }

        /// <summary>Places NOP. Submitting thread.</summary>
        public ulong Nop(ulong userData = 0)
        {
            ulong operation;
            Enter(ref submitting, "submitting");
            try
            {
                IokvException.Check(Library.iokv_nop(client, userData, &operation));
            }
            finally
            {
                Leave(ref submitting);
            }
            return operation;
        }

        /// <summary>Makes placed entries visible to the daemon; how many. Submitting thread.</summary>
        public int Submit()
        {
            Enter(ref submitting, "submitting");
            try
            {
                return IokvException.Check(Library.iokv_submit(client));
            }
            finally
            {
                Leave(ref submitting);
            }
        }

        /// <summary>Fills the front of <paramref name="into"/>, up to 256, and returns how many it has filled, waiting up to
        /// <paramref name="timeout"/> (negative: without limit) for the first; 0 only with a time-out of zero. Logits are copied
        /// out, and their space is given back. Reaping thread.</summary>
        public int Reap(Token[] into, TimeSpan timeout)
        {
            Enter(ref reaping, "reaping");
            try
            {
                var raw = (Completion*)completions;
                uint capacity = (uint)Math.Min(into.Length, ReapAtOnce);
                int count = Library.iokv_reap(client, raw, capacity, Nanoseconds(timeout, 0));
                if (count < 0 && IsDisposed)
                {
                    throw new ObjectDisposedException(nameof(Connection));
                }
                IokvException.Check(count);
                for (int i = 0; i < count; i++)
                {
                    Take(&raw[i], ref into[i]);
                }
                return count;
            }
            finally
            {
                Leave(ref reaping);
            }
        }

        private void Take(Completion* raw, ref Token token)
        {
            token.UserData = raw->user_data;
            token.OperationId = raw->operation;
            token.SequenceId = raw->sequence;
            token.Result = raw->result;
            token.Flags = raw->flags;
            token.Id = raw->token;
            token.Logprob = raw->logprob;
            token.Index = raw->index;
            token.Length = raw->length;
            token.PackedTimes = raw->times;
            token.Logits = (raw->flags & Constants.IOKV_COMPLETION_LOGITS) != 0 ? TakeLogits(raw) : null;
        }

        private float[] TakeLogits(Completion* completion)
        {
            var view = new LogitsView { struct_size = (uint)sizeof(LogitsView) };
            IokvException.Check(Library.iokv_logits(client, completion, &view));
            var logits = new float[view.dtype == Constants.IOKV_F32 ? (int)view.count : 0];
            if (logits.Length > 0)
            {
                Marshal.Copy((IntPtr)view.data, logits, 0, logits.Length);
            }
            IokvException.Check(Library.iokv_release(client, completion));
            if (logits.Length == 0)
            {
                throw new IokvException(Constants.IOKV_EUNSUPPORTED);
            }
            return logits;
        }

        /// <summary>The descriptor to poll for readability. Any thread.</summary>
        public int Descriptor
        {
            get
            {
                ThrowIfDisposed();
                return IokvException.Check(Library.iokv_fd(client));
            }
        }

        /// <summary>Ends a present or the next wait of Reap with Woken. Any thread.</summary>
        public void Wake()
        {
            ThrowIfDisposed();
            IokvException.Check(Library.iokv_wake(client));
        }

        /// <summary>How many operations have a final completion that was not reaped. Any thread.</summary>
        public int Outstanding
        {
            get
            {
                ThrowIfDisposed();
                return (int)Library.iokv_outstanding(client);
            }
        }

        /// <summary>Why the connection ended, once a call has thrown Closed. Any thread.</summary>
        public IokvException EndReason()
        {
            ThrowIfDisposed();
            var why = new ErrorDetail { struct_size = (uint)sizeof(ErrorDetail) };
            IokvException.Check(Library.iokv_end_reason(client, &why));
            return new IokvException(why.code, Text.Of(why.message, 504));
        }

        private void ThrowIfDisposed()
        {
            if (IsDisposed)
            {
                throw new ObjectDisposedException(nameof(Connection));
            }
        }

        /// <summary>One blocking step with nothing else outstanding; the sampled tokens. Both threads' role.</summary>
        public int[] Generate(ulong sequence, StepOptions options)
        {
            var sampling = Raw(options.Sampling.GetValueOrDefault());
            var sampled = new int[options.MaxTokens];
            uint count;
            EnterBoth();
            try
            {
                fixed (int* tokens = options.Tokens, stopTokens = options.StopTokens, into = sampled)
                {
                    var raw = Raw(options, tokens, stopTokens, options.Sampling.HasValue ? &sampling : null, 0);
                    IokvException.Check(Library.iokv_generate(client, sequence, &raw, into, options.MaxTokens, &count));
                }
            }
            finally
            {
                LeaveBoth();
            }
            Array.Resize(ref sampled, (int)count);
            return sampled;
        }

        /// <summary>The bytes of a token's text, maybe part of a UTF-8 character. The first call fetches all texts from the daemon.
        /// Both threads' role.</summary>
        public byte[] TokenBytes(int token)
        {
            EnterBoth();
            try
            {
                return FetchedTokenBytes(token);
            }
            finally
            {
                LeaveBoth();
            }
        }

        /// <summary>As TokenBytes, which must have succeeded once. Any thread.</summary>
        internal byte[] FetchedTokenBytes(int token)
        {
            ThrowIfDisposed();
            byte* bytes;
            uint size;
            bool held = false;
            try
            {
                // The bytes are the library's: they must stay until they are copied.
                client.DangerousAddRef(ref held);
                IokvException.Check(Library.iokv_token_bytes(client, token, &bytes, &size));
                return Text.Copy(bytes, size);
            }
            finally
            {
                if (held)
                {
                    client.DangerousRelease();
                }
            }
        }

        /// <summary>tokenizer.json as HF `tokenizers` reads it; empty when the model came without it. Both threads' role.</summary>
        public byte[] TokenizerFile()
        {
            return File(Constants.IOKV_TEXT_TOKENIZER);
        }

        /// <summary>The model's Jinja chat template; empty when it came without one. Both threads' role.</summary>
        public byte[] ChatTemplate()
        {
            return File(Constants.IOKV_TEXT_CHAT_TEMPLATE);
        }

        private byte[] File(int file)
        {
            byte* bytes;
            ulong size;
            bool held = false;
            EnterBoth();
            try
            {
                client.DangerousAddRef(ref held);
                IokvException.Check(Library.iokv_text(client, file, &bytes, &size));
                return Text.Copy(bytes, size);
            }
            finally
            {
                if (held)
                {
                    client.DangerousRelease();
                }
                LeaveBoth();
            }
        }

        /// <summary>The daemon's counters, from memory that it shares. Both threads' role.</summary>
        public IReadOnlyList<DaemonCounter> Counters()
        {
            var found = new List<DaemonCounter>();
            EnterBoth();
            try
            {
                while (true)
                {
                    Counter raw;
                    int code = Library.iokv_get_counter(client, (uint)found.Count, &raw);
                    if (code == Constants.IOKV_EINVAL && found.Count > 0)
                    {
                        return found;
                    }
                    IokvException.Check(code);
                    found.Add(new DaemonCounter
                    {
                        Name = Text.Of(raw.name, int.MaxValue),
                        Unit = Text.Of(raw.unit, int.MaxValue),
                        Meaning = Text.Of(raw.meaning, int.MaxValue),
                        Value = raw.value,
                    });
                }
            }
            finally
            {
                LeaveBoth();
            }
        }
    }
}
