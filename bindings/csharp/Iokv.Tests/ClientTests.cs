// SPDX-License-Identifier: Apache-2.0
// The binding as its users see it, beside the daemon that $IOKV_SOCKET names (tests/conformance/with_daemon.py).
using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using System.Threading;
using System.Threading.Tasks;
using Xunit;

namespace Iokv.Tests
{
    public class ClientTests
    {
        private static readonly int[] Prompt = { 5, 6, 7, 8 };

        private static Client Small()
        {
            return new Client(new ConnectOptions { SubmissionEntries = 4, CompletionEntries = 16 });
        }

        private static ErrorCode CodeOf(Action call)
        {
            return Assert.Throws<IokvException>(call).Code;
        }

        [Fact]
        public void ASequenceStreamsWhatItGeneratesAndTokensHaveTexts()
        {
            using (var client = new Client())
            {
                var tokens = new List<int>();
                var text = new StringBuilder();
                foreach (Token token in client.Open().Step(Prompt, 8).Tokens())
                {
                    tokens.Add(token.Id);
                    text.Append(Encoding.UTF8.GetString(client.TokenBytes(token.Id)));
                }
                Assert.Equal(client.Open().Generate(Prompt, 8), tokens.ToArray());
                Assert.Equal(string.Concat(tokens.Select(token => "<" + token + "> ")), text.ToString());
                Assert.Equal(ErrorCode.BadToken, CodeOf(() => client.TokenBytes(-1)));
            }
        }

        private static async Task<int[]> Stream(Client client, int[] prompt)
        {
            Sequence sequence = await client.OpenAsync();
            Operation operation = await sequence.StepAsync(new StepOptions { Tokens = prompt, MaxTokens = 20 });
            var tokens = new List<int>();
            IAsyncEnumerator<Token> stream = operation.GetAsyncEnumerator();
            while (await stream.MoveNextAsync())
            {
                tokens.Add(stream.Current.Id);
            }
            client.TokenBytes(tokens[0]);
            client.Counters();
            return tokens.ToArray();
        }

        [Fact]
        public void ManyTasksHaveTheTokensOfOne()
        {
            using (Client client = Small())
            {
                int[][] together = Task.WhenAll(Enumerable.Range(0, 16).Select(i => Stream(client, new[] { i, 2, 3 }))).Result;
                for (int i = 0; i < together.Length; i++)
                {
                    Assert.Equal(client.Open().Generate(new[] { i, 2, 3 }, 20), together[i]);
                }
            }
        }

        [Fact]
        public void ManyThreadsMaySubmitToOneClient()
        {
            using (Client client = Small())
            {
                Sequence sequence = client.Open();
                Parallel.For(0, 64, _ => sequence.Step(Prompt, 0).Result());
                Assert.Equal(64u * 4 + 1, sequence.AppendAsync(new[] { 1 }).Result);
            }
        }

        private static async Task<Exception> ExceptionOf(Func<Task> call)
        {
            try
            {
                await call();
                return null;
            }
            catch (Exception thrown)
            {
                return thrown;
            }
        }

        [Fact]
        public void ACancelledTokenCancelsTheOperation()
        {
            using (Client client = Small())
            using (var source = new CancellationTokenSource())
            {
                Sequence sequence = client.Open();
                Operation operation = sequence.Step(Prompt, client.Info.MaxContext - 4);
                IAsyncEnumerator<Token> stream = operation.GetAsyncEnumerator(source.Token);
                Assert.True(stream.MoveNextAsync().AsTask().Result);
                source.Cancel();
                Exception thrown = ExceptionOf(async () =>
                {
                    while (await stream.MoveNextAsync())
                    {
                    }
                }).Result;
                // What had arrived may still be taken; then either the token or the cancelled operation ends it.
                Assert.True(thrown is OperationCanceledException || ((IokvException)thrown).Code == ErrorCode.Canceled);
                operation.Cancel();
                Assert.Equal(ErrorCode.Canceled, CodeOf(() => operation.Result()));
                sequence.TruncateAsync(4).Wait();
                Assert.Equal(3, sequence.Generate(new int[0], 3).Length);
                Assert.True(ExceptionOf(() => client.NopAsync(source.Token)).Result is OperationCanceledException);
            }
        }

        [Fact]
        public void LeavingAnEnumerationCancelsTheOperation()
        {
            using (Client client = Small())
            {
                Operation operation = client.Open().Step(Prompt, client.Info.MaxContext - 4);
                foreach (Token token in operation.Tokens())
                {
                    Assert.True(token.IsSampled);
                    break;
                }
                Assert.Equal(ErrorCode.Canceled, CodeOf(() => operation.Result()));
            }
        }

        [Fact]
        public void LogitsAreCopiedOutSoThatUntakenOnesHoldUpNobody()
        {
            using (var client = new Client(new ConnectOptions { ResultBytes = 4096 }))
            {
                var options = new StepOptions { Tokens = Prompt, MaxTokens = 20, Logits = true };
                Operation lying = client.Open().Step(options);
                int rows = 0;
                foreach (Token token in client.Open().Step(options).Tokens())
                {
                    Assert.Equal((int)client.Info.Vocabulary, token.Logits.Length);
                    Assert.Equal(token.Logits.Max(), token.Logits[token.Id]);
                    Assert.True(token.Times.Value.DenseNs > 0);
                    rows++;
                }
                Assert.Equal(20, rows);
                Assert.Equal(20, lying.TokensAsync().Result.Length);
            }
        }

        [Fact]
        public void AFailureThrowsItsCodeAndTheSequenceGoesOn()
        {
            using (var client = new Client())
            {
                Sequence sequence = client.Open();
                Assert.Equal(ErrorCode.BadToken, CodeOf(() => sequence.Generate(new[] { -1 }, 1)));
                Assert.Equal(ErrorCode.ContextFull, CodeOf(() => sequence.Generate(new[] { 1 }, client.Info.MaxContext)));
                sequence.TruncateAsync(0).Wait();
                Assert.Equal(3, sequence.Generate(new[] { 1 }, 3).Length);
                Sequence child = sequence.ForkAsync(2).Result;
                Assert.Equal(3u, child.AppendAsync(new[] { 1 }).Result);
                Assert.Equal(0, child.CancelAsync().Result);
            }
        }

        [Fact]
        public void AnAbsentDaemonSaysWhereItWasLookedFor()
        {
            var failure = Assert.Throws<IokvException>(() => new Client(new ConnectOptions { SocketPath = "/nonexistent/iokv" }));
            Assert.Equal(ErrorCode.NoDaemon, failure.Code);
            Assert.True(failure.Message.Contains("/nonexistent/iokv"));
        }

        [Fact]
        public void WhateverWasDisposedSaysSo()
        {
            Client client = Small();
            Sequence sequence = client.Open(), open = client.Open();
            Operation running = sequence.Step(Prompt, client.Info.MaxContext - 4);
            sequence.Dispose();
            sequence.Dispose();
            Assert.Throws<ObjectDisposedException>(() => sequence.Step(Prompt, 1));
            Assert.Equal(ErrorCode.Canceled, CodeOf(() => running.Result()));
            Operation lost = open.Step(Prompt, client.Info.MaxContext - 4);
            Parallel.For(0, 4, _ => client.Dispose());
            Assert.Throws<ObjectDisposedException>(() => lost.Result());
            Assert.Throws<ObjectDisposedException>(() => open.Generate(Prompt, 1));
            Assert.Throws<ObjectDisposedException>(() => client.TokenBytes(1));
            Assert.Throws<ObjectDisposedException>(() => client.Counters());
            Assert.Throws<ObjectDisposedException>(() => client.Open());
            open.Dispose();
        }

        [Fact]
        public void ASecondThreadInARoleIsRefusedAndDisposeEndsTheFirst()
        {
            var connection = new Connection();
            Task<Exception> first = Task.Run(() => ExceptionOf(() => Task.Run(() =>
            {
                while (true)
                {
                    try
                    {
                        connection.Reap(new Token[1], Timeout.InfiniteTimeSpan);
                    }
                    catch (InvalidOperationException refused)
                    {
                        if (refused is ObjectDisposedException)
                        {
                            throw;
                        }
                    }
                }
            })));
            // Either may be the one that is refused, until the other sleeps in its call.
            bool refusedHere = false;
            while (!refusedHere)
            {
                try
                {
                    connection.Reap(new Token[1], TimeSpan.FromTicks(1));
                }
                catch (InvalidOperationException)
                {
                    refusedHere = true;
                }
                catch (IokvException timeout)
                {
                    Assert.Equal(ErrorCode.TimedOut, timeout.Code);
                }
            }
            Assert.Throws<InvalidOperationException>(() => connection.Counters());
            connection.Nop();
            connection.Dispose();
            connection.Dispose();
            Assert.True(first.Result is ObjectDisposedException);
            Assert.Throws<ObjectDisposedException>(() => connection.Nop());
            Assert.Throws<ObjectDisposedException>(() => connection.Wake());
        }

        [Fact]
        public void AConnectionThatNobodyHoldsIsEndedByItsFinalizer()
        {
            using (var client = new Client())
            {
                // Several times as many as the daemon serves at once.
                for (int i = 0; i < 20; i++)
                {
                    for (int j = 0; j < 10; j++)
                    {
                        new Connection().Nop();
                    }
                    GC.Collect();
                    GC.WaitForPendingFinalizers();
                }
                Assert.Equal(3, client.Open().Generate(Prompt, 3).Length);
            }
        }
    }
}
