// SPDX-License-Identifier: Apache-2.0
using System;
using System.Runtime.InteropServices;
using Iokv.Native;

namespace Iokv
{
    /// <summary>How tokens are drawn; its default takes the most probable one. What each does is in iokv_sampling.</summary>
    public struct Sampling
    {
        /// <summary>0 is greedy; otherwise logits are divided by it.</summary>
        public float Temperature;
        /// <summary>The smallest set of tokens whose probability reaches this is drawn from; 0 or 1: all.</summary>
        public float TopP;
        /// <summary>So many most probable tokens are drawn from; 0: all.</summary>
        public uint TopK;
        /// <summary>The same seed gives the same text, alone or under load.</summary>
        public ulong Seed;
        /// <summary>What is less probable than this share of the most probable is not drawn; 0: all.</summary>
        public float MinP;
        /// <summary>Of the tokens whose -log p is nearest to the entropy, as many as have this probability; 0 or 1: all.</summary>
        public float TypicalP;
        /// <summary>Divides the logits of tokens that the sequence holds, from RepetitionFrom on; 0 or 1: none.</summary>
        public float RepetitionPenalty;
        /// <summary>Taken from the logits of tokens that the sequence holds, from FrequencyFrom on.</summary>
        public float PresencePenalty;
        /// <summary>Taken as often as the sequence holds the token, from FrequencyFrom on.</summary>
        public float FrequencyPenalty;
        /// <summary>Position of the first token that RepetitionPenalty is about.</summary>
        public uint RepetitionFrom;
        /// <summary>Position of the first token that the other two penalties count.</summary>
        public uint FrequencyFrom;
        /// <summary>Added to the logits of these tokens, each of which comes once; null: none.</summary>
        public LogitBias[]? LogitBias;
    }

    /// <summary>What is added to the logit of one token.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct LogitBias
    {
        /// <summary>The token.</summary>
        public int Token;
        /// <summary>-10000 to 10000.</summary>
        public float Bias;
    }

    /// <summary>One of the most probable tokens.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct TokenLogprob
    {
        /// <summary>The token.</summary>
        public int Token;
        /// <summary>Natural logarithm, of the unmodified distribution.</summary>
        public float Logprob;
    }

    /// <summary>Options of a connection, as iokv_connect_options.</summary>
    public sealed class ConnectOptions
    {
        /// <summary>null: $IOKV_SOCKET, $XDG_RUNTIME_DIR/iokv.sock, /run/iokv/iokv.sock.</summary>
        public string? SocketPath { get; set; }
        /// <summary>Shown to the administrator, up to 31 bytes; null: the program's name.</summary>
        public string? Name { get; set; }
        /// <summary>Of the whole handshake, loading included; negative (Timeout.InfiniteTimeSpan): no limit.</summary>
        public TimeSpan Timeout { get; set; } = TimeSpan.FromSeconds(60);
        /// <summary>A wait may busy-wait so long before it sleeps.</summary>
        public TimeSpan Spin { get; set; }
        /// <summary>Power of two; 0: 256.</summary>
        public uint SubmissionEntries { get; set; }
        /// <summary>Power of two; 0: 1024.</summary>
        public uint CompletionEntries { get; set; }
        /// <summary>For prompts on their way, power of two; 0: 1 MiB.</summary>
        public uint ArenaBytes { get; set; }
        /// <summary>For logits on their way, power of two; 0: 8 MiB, or two rows of logits if that is more.</summary>
        public uint ResultBytes { get; set; }
    }

    /// <summary>Options of a new sequence, as iokv_open_options.</summary>
    public sealed class OpenOptions
    {
        /// <summary>For every step of the sequence; null: greedy.</summary>
        public Sampling? Sampling { get; set; }
        /// <summary>-100 to 100, higher first among this client's sequences.</summary>
        public int Priority { get; set; }
        /// <summary>0.</summary>
        public uint Model { get; set; }
        /// <summary>0.</summary>
        public uint Adapter { get; set; }
    }

    /// <summary>Options of a step, as iokv_step_options. Arrays are copied by the call.</summary>
    public sealed class StepOptions
    {
        private static readonly int[] None = new int[0];

        /// <summary>To append.</summary>
        public int[] Tokens { get; set; } = None;
        /// <summary>To sample at the most; 0: append only.</summary>
        public uint MaxTokens { get; set; }
        /// <summary>Sampling one of these ends the step; it is appended and reported.</summary>
        public int[] StopTokens { get; set; } = None;
        /// <summary>When the tokens that this step has sampled end with one of these, it ends as with a stop token.</summary>
        public int[][] StopSequences { get; set; } = new int[0][];
        /// <summary>So many most probable tokens come with each token.</summary>
        public uint TopLogprobs { get; set; }
        /// <summary>One for each draw: token t may be drawn where bit t % 32 of word t / 32 is set.</summary>
        public uint[][] Masks { get; set; } = new uint[0][];
        /// <summary>For this step only; null: the sequence's.</summary>
        public Sampling? Sampling { get; set; }
        /// <summary>A prediction also for each appended token but the last: verifies drafts.</summary>
        public bool Each { get; set; }
        /// <summary>Each token comes with the logits that it was drawn from.</summary>
        public bool Logits { get; set; }
        /// <summary>Added to the sequence's.</summary>
        public int Priority { get; set; }
        /// <summary>CLOCK_MONOTONIC; past it the step ends with DeadlinePassed; 0: none.</summary>
        public ulong DeadlineNs { get; set; }
    }

    /// <summary>Facts about the model and limits of this client, constant for the life of a connection; as iokv_info.</summary>
    public sealed class ClientInfo
    {
#pragma warning disable CS1591 // the names are iokv_info's
        public uint ProtocolVersion { get; }
        public ulong DaemonInstance { get; }
        public ulong ClientId { get; }
        public uint Vocabulary { get; }
        public uint MaxContext { get; }
        public uint Layers { get; }
        public uint Hidden { get; }
        public uint Heads { get; }
        public uint KvHeads { get; }
        public uint HeadDim { get; }
        /// <summary>To put before a prompt; null: none.</summary>
        public int? BeginToken { get; }
        /// <summary>Where generation usually stops.</summary>
        public int[] EndTokens { get; }
        public uint MaxSequences { get; }
        public uint MaxOperations { get; }
        public uint MaxStepTokens { get; }
        public uint MaxStopTokens { get; }
        public uint SubmissionEntries { get; }
        public uint CompletionEntries { get; }
        public ulong PoolTokens { get; }
        public byte[] ModelDigest { get; }
        public byte[] TokenizerDigest { get; }
        public string ModelName { get; }
        public string DaemonVersion { get; }
        /// <summary>iokv_feature: what this daemon offers.</summary>
        public ulong Features { get; }
#pragma warning restore CS1591

        internal unsafe ClientInfo(Info* raw)
        {
            ProtocolVersion = raw->protocol_version;
            DaemonInstance = raw->daemon_instance;
            ClientId = raw->client_id;
            Vocabulary = raw->vocabulary;
            MaxContext = raw->max_context;
            Layers = raw->layers;
            Hidden = raw->hidden;
            Heads = raw->heads;
            KvHeads = raw->kv_heads;
            HeadDim = raw->head_dim;
            BeginToken = raw->begin_token >= 0 ? raw->begin_token : (int?)null;
            EndTokens = new int[Math.Min(raw->end_token_count, 8)];
            for (int i = 0; i < EndTokens.Length; i++)
            {
                EndTokens[i] = raw->end_tokens[i];
            }
            MaxSequences = raw->max_sequences;
            MaxOperations = raw->max_operations;
            MaxStepTokens = raw->max_step_tokens;
            MaxStopTokens = raw->max_stop_tokens;
            SubmissionEntries = raw->submission_entries;
            CompletionEntries = raw->completion_entries;
            PoolTokens = raw->pool_tokens;
            ModelDigest = Text.Copy(raw->model_digest, 32);
            TokenizerDigest = Text.Copy(raw->tokenizer_digest, 32);
            ModelName = Text.Of(raw->model_name, 64);
            DaemonVersion = Text.Of(raw->daemon_version, 32);
            Features = raw->features;
        }
    }

    /// <summary>What the time of a completion's step went to, in nanoseconds; see iokv_times.</summary>
    public struct StepTimes
    {
#pragma warning disable CS1591 // the names are iokv_times'
        public ulong QueuedNs;
        public ulong LinkNs;
        public ulong RecomputeNs;
        public ulong DenseNs;
#pragma warning restore CS1591
    }

    /// <summary>An operation's token, prediction or end.</summary>
    public struct Token
    {
        /// <summary>As given when the operation was placed.</summary>
        public ulong UserData;
        /// <summary>The operation that it is about.</summary>
        public ulong OperationId;
        /// <summary>The operation's sequence.</summary>
        public ulong SequenceId;
        /// <summary>0, a count (of a cancellation) or a negative <see cref="ErrorCode"/>.</summary>
        public int Result;
        /// <summary>iokv_completion_flags.</summary>
        public uint Flags;
        /// <summary>The token, where there is one.</summary>
        public int Id;
        /// <summary>Natural logarithm of the token's probability in the unmodified distribution.</summary>
        public float Logprob;
        /// <summary>Of the sampled token in its step, or of the appended one that a prediction follows.</summary>
        public uint Index;
        /// <summary>Tokens in the sequence after this.</summary>
        public uint Length;
        /// <summary>A copy of the logits that the token was drawn from, if the step asked for them.</summary>
        public float[]? Logits;
        /// <summary>The most probable tokens, the most probable first, as many as the step asked for.</summary>
        public TokenLogprob[]? Top;
        internal ulong PackedTimes;

        /// <summary>The operation has ended with this.</summary>
        public bool IsFinal { get { return (Flags & Constants.IOKV_COMPLETION_MORE) == 0; } }
        /// <summary>Id was drawn and appended.</summary>
        public bool IsSampled { get { return (Flags & Constants.IOKV_COMPLETION_TOKEN) != 0; } }
        /// <summary>Id is what would follow appended token Index; it was not appended.</summary>
        public bool IsPredicted { get { return (Flags & Constants.IOKV_COMPLETION_PREDICTED) != 0; } }
        /// <summary>Id is one of the step's stop tokens, or ends one of its stop sequences.</summary>
        public bool IsStopped { get { return (Flags & Constants.IOKV_COMPLETION_STOPPED) != 0; } }

        /// <summary>null when it comes from no step, or the daemon does not say.</summary>
        public unsafe StepTimes? Times
        {
            get
            {
                var completion = new Completion { times = PackedTimes };
                var times = new Times { struct_size = (uint)sizeof(Times) };
                if (Library.iokv_completion_times(&completion, &times) != 0)
                {
                    return null;
                }
                return new StepTimes
                {
                    QueuedNs = times.queued_ns,
                    LinkNs = times.link_ns,
                    RecomputeNs = times.recompute_ns,
                    DenseNs = times.dense_ns,
                };
            }
        }
    }

    /// <summary>A sequence that has just been given its id, and the operation that opens it.</summary>
    public struct Opened
    {
        /// <summary>Usable at once, in the same submission.</summary>
        public ulong Sequence;
        /// <summary>Ends when the sequence is open.</summary>
        public ulong Operation;
    }

    /// <summary>One of the daemon's counters.</summary>
    public struct DaemonCounter
    {
        /// <summary>"steps", "pool_units_free" ...</summary>
        public string Name;
        /// <summary>"1", "bytes", "ns", "tokens" ...</summary>
        public string Unit;
        /// <summary>One line.</summary>
        public string Meaning;
        /// <summary>Now.</summary>
        public ulong Value;
    }
}
