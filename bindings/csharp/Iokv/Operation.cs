// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Threading;
using System.Threading.Tasks;
using System.Threading.Tasks.Sources;

namespace Iokv
{
    /// <summary>What Resumption runs.</summary>
    internal interface IResumable
    {
        void Run();
    }

    /// <summary>A submitted operation. Enumerated, it gives its tokens as they come and then throws the operation's failure, if it
    /// failed: by `await foreach`, or blocking, by <see cref="Tokens"/>. One enumeration at a time. Leaving it before the end, or
    /// cancelling its token, cancels the operation in the daemon.</summary>
    public sealed class Operation : IAsyncEnumerable<Token>
    {
        private readonly Client client;
        private readonly ulong sequence;
        private readonly object mutex = new object(); // what follows
        private readonly Queue<Token> arrived = new Queue<Token>();
        private bool hasEnded;
        private Token end;
        private Exception? lost;
        private TaskCompletionSource<bool>? news; // done when something comes, if somebody waits for the end
        private Enumerator? streaming;            // told when something comes, if it waits

        /// <summary>Its id, as in completions.</summary>
        public ulong Id { get; }

        internal Operation(Client client, ulong sequence, ulong id)
        {
            this.client = client;
            this.sequence = sequence;
            Id = id;
        }

        internal void Deliver(ref Token token)
        {
            TaskCompletionSource<bool>? asked;
            Enumerator? stream;
            lock (mutex)
            {
                if ((token.Flags & WithToken) != 0)
                {
                    arrived.Enqueue(token);
                }
                if (token.IsFinal)
                {
                    hasEnded = true;
                    end = token;
                }
                asked = TakeWaiters(out stream);
            }
            Tell(asked, stream);
        }

        private const uint WithToken = Native.Constants.IOKV_COMPLETION_TOKEN | Native.Constants.IOKV_COMPLETION_PREDICTED;

        private TaskCompletionSource<bool>? TakeWaiters(out Enumerator? stream)
        {
            TaskCompletionSource<bool>? asked = news;
            stream = streaming;
            news = null;
            streaming = null;
            return asked;
        }

        private static void Tell(TaskCompletionSource<bool>? asked, Enumerator? stream)
        {
            if (asked != null)
            {
                asked.TrySetResult(true);
            }
            if (stream != null)
            {
                stream.Tell();
            }
        }

        internal void Lose(Exception failure)
        {
            TaskCompletionSource<bool>? asked;
            Enumerator? stream;
            lock (mutex)
            {
                lost = failure;
                asked = TakeWaiters(out stream);
            }
            Tell(asked, stream);
        }

        // A failure is thrown anew for each who asks.
        private Exception Lost()
        {
            if (lost is ObjectDisposedException)
            {
                return new ObjectDisposedException(nameof(Client));
            }
            return new IokvException((int)ErrorCode.Closed, lost == null ? "" : lost.Message);
        }

        // true: `token` is the next; false: the end; null: not yet. Within `mutex`.
        private bool? TryTake(out Token token)
        {
            token = default(Token);
            if (arrived.Count > 0)
            {
                token = arrived.Dequeue();
                return true;
            }
            if (hasEnded)
            {
                IokvException.Check(end.Result);
                return false;
            }
            if (lost != null)
            {
                throw Lost();
            }
            return null;
        }

        private Task News()
        {
            if (news == null)
            {
                news = new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
            }
            return news.Task;
        }

        private bool Ended
        {
            get
            {
                lock (mutex)
                {
                    return hasEnded || lost != null;
                }
            }
        }

        /// <summary>The tokens; blocks for each.</summary>
        public IEnumerable<Token> Tokens()
        {
            try
            {
                while (true)
                {
                    Token token;
                    bool? taken;
                    Task wait = Task.CompletedTask;
                    lock (mutex)
                    {
                        taken = TryTake(out token);
                        if (taken == null)
                        {
                            wait = News();
                        }
                    }
                    if (taken == true)
                    {
                        yield return token;
                    }
                    else if (taken == false)
                    {
                        yield break;
                    }
                    else
                    {
                        wait.GetAwaiter().GetResult();
                    }
                }
            }
            finally
            {
                Cancel();
            }
        }

        /// <summary>The tokens, as they come.</summary>
        public IAsyncEnumerator<Token> GetAsyncEnumerator(CancellationToken cancellationToken = default(CancellationToken))
        {
            return new Enumerator(this, cancellationToken);
        }

        /// <summary>Waits for the end; the sampled tokens, or throws the operation's failure.</summary>
        public async Task<int[]> TokensAsync(CancellationToken cancellation = default(CancellationToken))
        {
            var sampled = new List<int>();
            IAsyncEnumerator<Token> tokens = GetAsyncEnumerator(cancellation);
            try
            {
                while (await tokens.MoveNextAsync().ConfigureAwait(false))
                {
                    if (tokens.Current.IsSampled)
                    {
                        sampled.Add(tokens.Current.Id);
                    }
                }
            }
            finally
            {
                await tokens.DisposeAsync().ConfigureAwait(false);
            }
            return sampled.ToArray();
        }

        /// <summary>Waits for the end; the final completion, or throws the operation's failure. Tokens can be taken afterwards.</summary>
        public async Task<Token> ResultAsync(CancellationToken cancellation = default(CancellationToken))
        {
            while (true)
            {
                Task wait;
                lock (mutex)
                {
                    if (hasEnded)
                    {
                        IokvException.Check(end.Result);
                        return end;
                    }
                    if (lost != null)
                    {
                        throw Lost();
                    }
                    wait = News();
                }
                await Await(wait, cancellation).ConfigureAwait(false);
            }
        }

        /// <summary>As ResultAsync, blocking.</summary>
        public Token Result()
        {
            return ResultAsync().GetAwaiter().GetResult();
        }

        /// <summary>Cancels the operation, which then ends with Canceled; does not wait. Of an ended one it does nothing.</summary>
        public void Cancel()
        {
            if (sequence == 0 || Ended)
            {
                return;
            }
            try
            {
                client.Place(sequence, c => c.Cancel(sequence, Id));
            }
            catch (IokvException)
            {
                // With the connection gone there is nothing to cancel.
            }
            catch (ObjectDisposedException)
            {
            }
        }

        // Waits for news. When the token is cancelled before, cancels the operation and throws.
        private async Task Await(Task wait, CancellationToken cancellation)
        {
            if (!cancellation.CanBeCanceled)
            {
                await wait.ConfigureAwait(false);
                return;
            }
            var canceled = new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
            using (cancellation.Register(() => canceled.TrySetResult(true)))
            {
                await Task.WhenAny(wait, canceled.Task).ConfigureAwait(false);
            }
            if (cancellation.IsCancellationRequested)
            {
                Cancel();
                cancellation.ThrowIfCancellationRequested();
            }
        }

        // One object for the whole stream: what it waits with is used again for each token.
        private sealed class Enumerator : IAsyncEnumerator<Token>, IValueTaskSource<bool>, IResumable
        {
            private readonly Operation operation;
            private readonly CancellationToken cancellation;
            private readonly CancellationTokenRegistration registration;
            private ManualResetValueTaskSourceCore<bool> source;
            private Exception? failure;
            private Token current;

            public Enumerator(Operation operation, CancellationToken cancellation)
            {
                this.operation = operation;
                this.cancellation = cancellation;
                registration = cancellation.Register(Canceled);
            }

            public Token Current { get { return current; } }

            public ValueTask<bool> MoveNextAsync()
            {
                lock (operation.mutex)
                {
                    bool? taken = operation.TryTake(out current);
                    if (taken != null)
                    {
                        return new ValueTask<bool>(taken.Value);
                    }
                    cancellation.ThrowIfCancellationRequested();
                    if (operation.streaming != null)
                    {
                        throw new InvalidOperationException("another enumeration waits for this operation's tokens");
                    }
                    source.Reset();
                    operation.streaming = this;
                    return new ValueTask<bool>(this, source.Version);
                }
            }

            // Whoever has taken this from `streaming` calls it, so it is called once for each wait.
            public void Tell()
            {
                operation.client.Resumption.Add(this);
            }

            // Goes on with what awaits; on a thread of the pool.
            public void Run()
            {
                if (failure != null)
                {
                    source.SetException(failure);
                }
                else
                {
                    source.SetResult(true);
                }
            }

            private void Canceled()
            {
                bool waits;
                lock (operation.mutex)
                {
                    waits = operation.streaming == this;
                    if (waits)
                    {
                        operation.streaming = null;
                    }
                }
                operation.Cancel();
                if (waits)
                {
                    failure = new OperationCanceledException(cancellation);
                    Tell();
                    operation.client.Resumption.Call();
                }
            }

            public bool GetResult(short token)
            {
                source.GetResult(token);
                lock (operation.mutex)
                {
                    return operation.TryTake(out current) == true;
                }
            }

            public ValueTaskSourceStatus GetStatus(short token)
            {
                return source.GetStatus(token);
            }

            public void OnCompleted(Action<object?> continuation, object? state, short token, ValueTaskSourceOnCompletedFlags flags)
            {
                source.OnCompleted(continuation, state, token, flags);
            }

            public ValueTask DisposeAsync()
            {
                registration.Dispose();
                operation.Cancel();
                return default(ValueTask);
            }
        }
    }
}
