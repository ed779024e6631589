// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Threading;
using System.Threading.Tasks;

namespace Iokv
{
    /// <summary>A connection whose operations look after themselves. All of its methods, and those of what came from it, are for any
    /// thread at any time. One thread of the client reaps for all, in one call for each time that it is woken.</summary>
    public sealed class Client : IDisposable
    {
        private const int ReapAtOnce = 256;

        private readonly Connection connection;
        private readonly object submitting = new object(); // whoever places; makes an operation known before the daemon sees it
        private readonly object mutex = new object();      // what follows
        private readonly Dictionary<ulong, Operation> waiting = new Dictionary<ulong, Operation>();
        private readonly Queue<Action> errands = new Queue<Action>(); // for the reaping thread, between two waits
        private TaskCompletionSource<bool>? room;          // done at the next reap, if somebody asked
        private Exception? ended;                          // why nothing more will come
        private bool hasTexts;
        private readonly Resumption resumption = new Resumption();

        /// <summary>Connects, and blocks until the daemon is ready.</summary>
        public Client(ConnectOptions? options = null)
        {
            connection = new Connection(options);
            new Thread(Reap) { IsBackground = true, Name = "iokv" }.Start();
        }

        /// <summary>Connects, without blocking the caller while the daemon loads its model.</summary>
        public static Task<Client> ConnectAsync(ConnectOptions? options = null)
        {
            return Task.Run(() => new Client(options));
        }

        /// <summary>Facts about the model and limits of this client.</summary>
        public ClientInfo Info { get { return connection.Info; } }

        /// <summary>How many operations have not ended.</summary>
        public int Outstanding { get { return connection.Outstanding; } }

        /// <summary>Ends the connection: what is outstanding fails with ObjectDisposedException, every sequence is closed. Calling
        /// it again does nothing.</summary>
        public void Dispose()
        {
            connection.Dispose();
        }

        /// <summary>Opens an empty sequence and waits for it.</summary>
        public Sequence Open(OpenOptions? options = null)
        {
            return OpenAsync(options).GetAwaiter().GetResult();
        }

        /// <summary>Opens an empty sequence.</summary>
        public Task<Sequence> OpenAsync(OpenOptions? options = null, CancellationToken cancellation = default(CancellationToken))
        {
            return SequenceAsync(() => connection.Open(options), cancellation);
        }

        /// <summary>A round trip through the daemon that does nothing.</summary>
        public async Task NopAsync(CancellationToken cancellation = default(CancellationToken))
        {
            Operation operation = await PlaceAsync(0, c => c.Nop(), cancellation).ConfigureAwait(false);
            await operation.ResultAsync(cancellation).ConfigureAwait(false);
        }

        /// <summary>The bytes of a token's text, maybe part of a UTF-8 character (System.Text.Decoder puts them together). The first
        /// call fetches all texts from the daemon. Throws BadToken, Unsupported (the model has none).</summary>
        public byte[] TokenBytes(int token)
        {
            if (!Volatile.Read(ref hasTexts))
            {
                Exclusively(() => connection.TokenBytes(0));
                Volatile.Write(ref hasTexts, true);
            }
            return connection.FetchedTokenBytes(token);
        }

        /// <summary>tokenizer.json as HF `tokenizers` reads it; empty when the model came without it.</summary>
        public byte[] TokenizerFile()
        {
            return Exclusively(() => connection.TokenizerFile());
        }

        /// <summary>The model's Jinja chat template; empty when it came without one.</summary>
        public byte[] ChatTemplate()
        {
            return Exclusively(() => connection.ChatTemplate());
        }

        /// <summary>The daemon's counters, from memory that it shares.</summary>
        public IReadOnlyList<DaemonCounter> Counters()
        {
            return Exclusively(() => connection.Counters());
        }

        // Runs the call with both roles: this thread has the submitting one, and lets the reaping thread run it.
        private T Exclusively<T>(Func<T> call)
        {
            var done = new TaskCompletionSource<T>();
            lock (submitting)
            {
                lock (mutex)
                {
                    ThrowIfEnded();
                    errands.Enqueue(() => Run(call, done));
                }
                connection.Wake();
                return done.Task.GetAwaiter().GetResult();
            }
        }

        private static void Run<T>(Func<T> call, TaskCompletionSource<T> done)
        {
            try
            {
                done.SetResult(call());
            }
            catch (Exception failure)
            {
                done.SetException(failure);
            }
        }

        private void ThrowIfEnded()
        {
            if (ended is ObjectDisposedException || connection.IsDisposed)
            {
                throw new ObjectDisposedException(nameof(Client));
            }
            if (ended != null)
            {
                throw new IokvException((int)ErrorCode.Closed, ended.Message);
            }
        }

        // ---- the reaping thread ----

        private void Reap()
        {
            var tokens = new Token[ReapAtOnce];
            while (true)
            {
                try
                {
                    Deliver(tokens, connection.Reap(tokens, Timeout.InfiniteTimeSpan));
                }
                catch (IokvException failure)
                {
                    if (failure.Code != ErrorCode.Woken)
                    {
                        End(failure);
                        return;
                    }
                }
                catch (ObjectDisposedException failure)
                {
                    End(failure);
                    return;
                }
                RunErrands();
            }
        }

        private void RunErrands()
        {
            while (true)
            {
                Action errand;
                lock (mutex)
                {
                    if (errands.Count == 0)
                    {
                        return;
                    }
                    errand = errands.Dequeue();
                }
                errand();
            }
        }

        private void Deliver(Token[] tokens, int count)
        {
            TaskCompletionSource<bool>? asked;
            lock (mutex)
            {
                for (int i = 0; i < count; i++)
                {
                    Operation? operation;
                    if (!waiting.TryGetValue(tokens[i].OperationId, out operation))
                    {
                        continue;
                    }
                    if (tokens[i].IsFinal)
                    {
                        waiting.Remove(tokens[i].OperationId);
                    }
                    operation.Deliver(ref tokens[i]);
                }
                asked = room;
                room = null;
            }
            resumption.Call();
            if (asked != null)
            {
                asked.TrySetResult(true);
            }
        }

        private void End(Exception failure)
        {
            var known = failure as IokvException;
            if (known != null && known.Code == ErrorCode.Closed)
            {
                try
                {
                    failure = new IokvException((int)ErrorCode.Closed, connection.EndReason().Message);
                }
                catch (ObjectDisposedException disposed)
                {
                    failure = disposed;
                }
            }
            TaskCompletionSource<bool>? asked;
            List<Operation> lost;
            lock (mutex)
            {
                ended = failure;
                lost = new List<Operation>(waiting.Values);
                waiting.Clear();
                asked = room;
                room = null;
            }
            foreach (Operation operation in lost)
            {
                operation.Lose(failure);
            }
            resumption.Call();
            if (asked != null)
            {
                asked.TrySetResult(true);
            }
            // Each throws, as its call does on what has ended.
            RunErrands();
        }

        // Called by Deliver and End, which then call the pool, and by who is cancelled, who does so by itself.
        internal Resumption Resumption { get { return resumption; } }

        // ---- placing ----

        internal Operation Place(ulong sequence, Func<Connection, ulong> place)
        {
            return PlaceAsync(sequence, place, CancellationToken.None).GetAwaiter().GetResult();
        }

        // Places, waiting for room where there is none; submits.
        internal async Task<Operation> PlaceAsync(ulong sequence, Func<Connection, ulong> place, CancellationToken cancellation)
        {
            while (true)
            {
                cancellation.ThrowIfCancellationRequested();
                Task<bool> full;
                Operation? operation = TryPlace(sequence, place, out full);
                if (operation != null)
                {
                    return operation;
                }
                if (!cancellation.CanBeCanceled)
                {
                    await full.ConfigureAwait(false);
                    continue;
                }
                var canceled = new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
                using (cancellation.Register(() => canceled.TrySetResult(true)))
                {
                    await Task.WhenAny(full, canceled.Task).ConfigureAwait(false);
                }
            }
        }

        private Operation? TryPlace(ulong sequence, Func<Connection, ulong> place, out Task<bool> full)
        {
            lock (submitting)
            {
                lock (mutex)
                {
                    ThrowIfEnded();
                    if (room == null)
                    {
                        room = new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
                    }
                    // Asked for before the call, so that what is reaped after it is not missed.
                    full = room.Task;
                }
                ulong id;
                try
                {
                    id = place(connection);
                }
                catch (IokvException failure)
                {
                    if (failure.Code != ErrorCode.TryAgain)
                    {
                        throw;
                    }
                    connection.Submit();
                    return null;
                }
                var operation = new Operation(this, sequence, id);
                lock (mutex)
                {
                    // The daemon may have gone since.
                    if (ended != null)
                    {
                        operation.Lose(ended); // nobody waits for it yet
                    }
                    else
                    {
                        waiting.Add(id, operation);
                    }
                }
                connection.Submit();
                return operation;
            }
        }

        internal async Task<Sequence> SequenceAsync(Func<Opened> place, CancellationToken cancellation)
        {
            ulong id = 0;
            Operation operation = await PlaceAsync(0, c =>
            {
                Opened opened = place();
                id = opened.Sequence;
                return opened.Operation;
            }, cancellation).ConfigureAwait(false);
            await operation.ResultAsync(cancellation).ConfigureAwait(false);
            return new Sequence(this, id);
        }

        internal Connection Connection { get { return connection; } }
    }

    /// <summary>Runs continuations on threads of the pool: those that come together, one after the other in one item of the pool's
    /// work, since an item for each token would cost several times what the token does. While there are more, another
    /// thread is called to help, so that one that blocks holds up none behind it.</summary>
    internal sealed class Resumption
    {
        private readonly ConcurrentQueue<IResumable> ready = new ConcurrentQueue<IResumable>();
        private readonly WaitCallback run;
        private int called; // 1: a thread has been called and has not come yet

        public Resumption()
        {
            run = Run;
        }

        public void Add(IResumable waiter)
        {
            ready.Enqueue(waiter);
        }

        /// <summary>After what was added together.</summary>
        public void Call()
        {
            if (!ready.IsEmpty && Interlocked.Exchange(ref called, 1) == 0)
            {
                ThreadPool.UnsafeQueueUserWorkItem(run, null);
            }
        }

        private void Run(object? state)
        {
            Interlocked.Exchange(ref called, 0);
            IResumable? next;
            while (ready.TryDequeue(out next))
            {
                Call();
                next.Run();
            }
        }
    }

    /// <summary>A growing list of tokens that the daemon keeps. Dispose closes it.</summary>
    public sealed class Sequence : IDisposable
    {
        private readonly Client client;
        private int disposed;

        /// <summary>Its id, as in completions.</summary>
        public ulong Id { get; }

        internal Sequence(Client client, ulong id)
        {
            this.client = client;
            Id = id;
        }

        private Task<Operation> PlaceAsync(Func<Connection, ulong> place, CancellationToken cancellation)
        {
            ThrowIfDisposed();
            return client.PlaceAsync(Id, place, cancellation);
        }

        private void ThrowIfDisposed()
        {
            if (Volatile.Read(ref disposed) != 0)
            {
                throw new ObjectDisposedException(nameof(Sequence));
            }
        }

        /// <summary>Appends tokens, then samples; blocks only for room in the ring.</summary>
        public Operation Step(StepOptions options)
        {
            ThrowIfDisposed();
            return client.Place(Id, c => c.Step(Id, options));
        }

        /// <summary>Appends tokens, then samples up to <paramref name="maxTokens"/>; blocks only for room in the ring.</summary>
        public Operation Step(int[] tokens, uint maxTokens)
        {
            return Step(new StepOptions { Tokens = tokens, MaxTokens = maxTokens });
        }

        /// <summary>As Step, without blocking.</summary>
        public Task<Operation> StepAsync(StepOptions options, CancellationToken cancellation = default(CancellationToken))
        {
            return PlaceAsync(c => c.Step(Id, options), cancellation);
        }

        /// <summary>Appends without sampling; the new length.</summary>
        public async Task<uint> AppendAsync(int[] tokens, CancellationToken cancellation = default(CancellationToken))
        {
            Operation operation = await StepAsync(new StepOptions { Tokens = tokens }, cancellation).ConfigureAwait(false);
            return (await operation.ResultAsync(cancellation).ConfigureAwait(false)).Length;
        }

        /// <summary>Appends, and samples up to <paramref name="maxTokens"/>; the sampled tokens.</summary>
        public async Task<int[]> GenerateAsync(int[] tokens, uint maxTokens,
            CancellationToken cancellation = default(CancellationToken))
        {
            var options = new StepOptions { Tokens = tokens, MaxTokens = maxTokens };
            Operation operation = await StepAsync(options, cancellation).ConfigureAwait(false);
            return await operation.TokensAsync(cancellation).ConfigureAwait(false);
        }

        /// <summary>As GenerateAsync, blocking.</summary>
        public int[] Generate(int[] tokens, uint maxTokens)
        {
            return GenerateAsync(tokens, maxTokens).GetAwaiter().GetResult();
        }

        /// <summary>A new sequence that begins with the first <paramref name="tokens"/> tokens of this one (null: all).</summary>
        public Task<Sequence> ForkAsync(uint? tokens = null, CancellationToken cancellation = default(CancellationToken))
        {
            ThrowIfDisposed();
            return client.SequenceAsync(() => client.Connection.Fork(Id, tokens), cancellation);
        }

        /// <summary>Drops every token from position <paramref name="length"/> on.</summary>
        public async Task TruncateAsync(uint length, CancellationToken cancellation = default(CancellationToken))
        {
            Operation operation = await PlaceAsync(c => c.Truncate(Id, length), cancellation).ConfigureAwait(false);
            await operation.ResultAsync(cancellation).ConfigureAwait(false);
        }

        /// <summary>Cancels all of the sequence's operations; how many.</summary>
        public async Task<int> CancelAsync(CancellationToken cancellation = default(CancellationToken))
        {
            Operation operation = await PlaceAsync(c => c.Cancel(Id), cancellation).ConfigureAwait(false);
            return (await operation.ResultAsync(cancellation).ConfigureAwait(false)).Result;
        }

        /// <summary>Cancels what is outstanding and frees the sequence; does not wait. Calling it again does nothing.</summary>
        public void Dispose()
        {
            if (Interlocked.Exchange(ref disposed, 1) != 0)
            {
                return;
            }
            try
            {
                client.Place(Id, c => c.CloseSequence(Id));
            }
            catch (IokvException)
            {
                // With the connection gone, the sequence is gone.
            }
            catch (ObjectDisposedException)
            {
            }
        }
    }
}
