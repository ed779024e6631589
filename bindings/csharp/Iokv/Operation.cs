// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.Threading;
using System.Threading.Tasks;

namespace Iokv
{
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
        private TaskCompletionSource<bool>? news; // done when something comes, if somebody waits

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
            lock (mutex)
            {
                if (token.IsSampled || token.IsPredicted)
                {
                    arrived.Enqueue(token);
                }
                if (token.IsFinal)
                {
                    hasEnded = true;
                    end = token;
                }
                asked = news;
                news = null;
            }
            if (asked != null)
            {
                asked.TrySetResult(true);
            }
        }

        internal void Lose(Exception failure)
        {
            TaskCompletionSource<bool>? asked;
            lock (mutex)
            {
                lost = failure;
                asked = news;
                news = null;
            }
            if (asked != null)
            {
                asked.TrySetResult(true);
            }
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

        // true: `token` is the next; false: the end, unless `wait` says what to wait for.
        private bool TryTake(out Token token, out Task? wait)
        {
            lock (mutex)
            {
                wait = null;
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
                wait = News();
                return false;
            }
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
                    Task? wait;
                    if (TryTake(out token, out wait))
                    {
                        yield return token;
                    }
                    else if (wait == null)
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
            while (await tokens.MoveNextAsync().ConfigureAwait(false))
            {
                if (tokens.Current.IsSampled)
                {
                    sampled.Add(tokens.Current.Id);
                }
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

        private sealed class Enumerator : IAsyncEnumerator<Token>
        {
            private readonly Operation operation;
            private readonly CancellationToken cancellation;
            private Token current;

            public Enumerator(Operation operation, CancellationToken cancellation)
            {
                this.operation = operation;
                this.cancellation = cancellation;
            }

            public Token Current { get { return current; } }

            public ValueTask<bool> MoveNextAsync()
            {
                Task? wait;
                if (operation.TryTake(out current, out wait))
                {
                    return new ValueTask<bool>(true);
                }
                return wait == null ? new ValueTask<bool>(false) : new ValueTask<bool>(MoveNextAsync(wait));
            }

            private async Task<bool> MoveNextAsync(Task wait)
            {
                Task? next = wait;
                while (next != null)
                {
                    await operation.Await(next, cancellation).ConfigureAwait(false);
                    if (operation.TryTake(out current, out next))
                    {
                        return true;
                    }
                }
                return false;
            }

            public ValueTask DisposeAsync()
            {
                operation.Cancel();
                return default(ValueTask);
            }
        }
    }
}
