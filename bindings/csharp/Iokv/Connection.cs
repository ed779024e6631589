// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Linq;
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

        private static Native.Sampling Raw(Sampling sampling, LogitBias* biases)
        {
            return new Native.Sampling
            {
                struct_size = (uint)sizeof(Native.Sampling),
                temperature = sampling.Temperature,
                top_p = sampling.TopP,
                top_k = sampling.TopK,
                seed = sampling.Seed,
                min_p = sampling.MinP,
                typical_p = sampling.TypicalP,
                repetition_penalty = sampling.RepetitionPenalty,
                presence_penalty = sampling.PresencePenalty,
                frequency_penalty = sampling.FrequencyPenalty,
                repetition_from = sampling.RepetitionFrom,
                frequency_from = sampling.FrequencyFrom,
                logit_bias_count = sampling.LogitBias == null ? 0 : (uint)sampling.LogitBias.Length,
                logit_bias = (Native.LogitBias*)biases,
            };
        }

        // Places STEP; or generates into `sampled`, and returns how many it has sampled.
        private ulong Step(ulong sequence, StepOptions options, ulong userData, int[]? sampled)
        {
            uint maskWords = options.Masks.Length == 0 ? 0 : (uint)options.Masks[0].Length;
            foreach (uint[] mask in options.Masks)
            {
                if (mask.Length != maskWords)
                {
                    throw new IokvException(Constants.IOKV_EMASK, "the masks of a step have different lengths");
                }
            }
            int[] stopSequences = options.StopSequences.SelectMany(stop => stop).ToArray();
            uint[] stopLengths = options.StopSequences.Select(stop => (uint)stop.Length).ToArray();
            uint[] words = options.Masks.SelectMany(mask => mask).ToArray();
            Sampling given = options.Sampling.GetValueOrDefault();
            fixed (LogitBias* biases = given.LogitBias)
            fixed (int* tokens = options.Tokens, stopTokens = options.StopTokens, stops = stopSequences, into = sampled)
            fixed (uint* lengths = stopLengths, masks = words)
            {
                Native.Sampling sampling = Raw(given, biases);
                var raw = new Native.StepOptions
                {
                    struct_size = (uint)sizeof(Native.StepOptions),
                    flags = (options.Each ? (uint)Constants.IOKV_STEP_EACH : 0) |
                        (options.Logits ? (uint)Constants.IOKV_STEP_LOGITS : 0),
                    user_data = userData,
                    tokens = tokens,
                    token_count = (uint)options.Tokens.Length,
                    max_tokens = options.MaxTokens,
                    stop_tokens = stopTokens,
                    stop_token_count = (uint)options.StopTokens.Length,
                    priority = options.Priority,
                    sampling = options.Sampling.HasValue ? &sampling : null,
                    deadline_ns = options.DeadlineNs,
                    stop_sequences = stops,
                    stop_sequence_lengths = lengths,
                    stop_sequence_count = (uint)stopLengths.Length,
                    top_logprobs = options.TopLogprobs,
                    masks = masks,
                    mask_words = maskWords,
                    mask_count = (uint)options.Masks.Length,
                };
                if (sampled != null)
                {
                    uint count = 0;
                    CheckPlaced(Library.iokv_generate(client, sequence, &raw, into, options.MaxTokens, &count));
                    return count;
                }
                ulong operation = 0;
                CheckPlaced(Library.iokv_step(client, sequence, &raw, &operation));
                return operation;
            }
        }

        // Throws what an open or step returned, with the line that names the argument and its range.
        private void CheckPlaced(int result)
        {
            if (result >= 0)
            {
                return;
            }
            var why = new ErrorDetail { struct_size = (uint)sizeof(ErrorDetail) };
            bool known = Library.iokv_last_failure(client, &why) == 0 && why.code == result;
            throw new IokvException(result, known ? Text.Of(why.message, 504) : "");
        }

        /// <summary>Places OPEN. Submitting thread.</summary>
        public Opened Open(OpenOptions? options = null, ulong userData = 0)
        {
            if (options == null)
            {
                options = new OpenOptions();
            }
            Sampling given = options.Sampling.GetValueOrDefault();
            var opened = default(Opened);
            Enter(ref submitting, "submitting");
            try
            {
                fixed (LogitBias* biases = given.LogitBias)
                {
                    Native.Sampling sampling = Raw(given, biases);
                    var raw = new Native.OpenOptions
                    {
                        struct_size = (uint)sizeof(Native.OpenOptions),
                        user_data = userData,
                        sampling = options.Sampling.HasValue ? &sampling : null,
                        model = options.Model,
                        adapter = options.Adapter,
                        priority = options.Priority,
                    };
                    CheckPlaced(Library.iokv_open(client, &raw, &opened.Sequence, &opened.Operation));
                }
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
            Enter(ref submitting, "submitting");
            try
            {
                return Step(sequence, options, userData, null);
            }
            finally
            {
                Leave(ref submitting);
            }
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
            token.Logits = null;
            token.Top = null;
            if ((raw->flags & (Constants.IOKV_COMPLETION_LOGITS | Constants.IOKV_COMPLETION_TOP)) != 0)
            {
                TakeResults(raw, ref token);
            }
        }

        // Copies what came beside a completion, and gives its space back.
        private void TakeResults(Completion* raw, ref Token token)
        {
            try
            {
                if ((raw->flags & Constants.IOKV_COMPLETION_LOGITS) != 0)
                {
                    token.Logits = CopyLogits(raw);
                }
                if ((raw->flags & Constants.IOKV_COMPLETION_TOP) != 0)
                {
                    token.Top = CopyTop(raw);
                }
            }
            finally
            {
                IokvException.Check(Library.iokv_release(client, raw));
            }
        }

        private float[] CopyLogits(Completion* raw)
        {
            var view = new LogitsView { struct_size = (uint)sizeof(LogitsView) };
            IokvException.Check(Library.iokv_logits(client, raw, &view));
            if (view.dtype != Constants.IOKV_F32)
            {
                throw new IokvException(Constants.IOKV_EUNSUPPORTED);
            }
            var logits = new float[view.count];
            Marshal.Copy((IntPtr)view.data, logits, 0, logits.Length);
            return logits;
        }

        private TokenLogprob[] CopyTop(Completion* raw)
        {
            Native.TokenLogprob* entries;
            uint count;
            IokvException.Check(Library.iokv_top_logprobs(client, raw, &entries, &count));
            var top = new TokenLogprob[count];
            for (uint i = 0; i < count; i++)
            {
                top[i].Token = entries[i].token;
                top[i].Logprob = entries[i].logprob;
            }
            return top;
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
            var sampled = new int[options.MaxTokens];
            ulong count;
            EnterBoth();
            try
            {
                count = Step(sequence, options, 0, sampled);
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
