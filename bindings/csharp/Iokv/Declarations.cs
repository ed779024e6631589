// SPDX-License-Identifier: Apache-2.0
// Written by bindings/abi/generate from include/iokv/iokv.h: edit neither this nor its order.
using System;
using System.Runtime.InteropServices;

namespace Iokv.Native
{
#pragma warning disable CS1591, CS0649, IDE1006 // the names and comments are the header's

    internal static class Constants
    {
        public const int IOKV_VERSION_MAJOR = 1;
        /// <summary>what is marked "1.1" below has come with it</summary>
        public const int IOKV_VERSION_MINOR = 1;
        public const int IOKV_OK = 0;
        /// <summary>an argument is out of range; the detail or the function's comment says which</summary>
        public const int IOKV_EINVAL = -1;
        /// <summary>this process is out of memory, descriptors or address space</summary>
        public const int IOKV_ENOMEM = -2;
        /// <summary>the submission ring, the arena or the outstanding operations are full: reap, then retry</summary>
        public const int IOKV_EAGAIN = -3;
        /// <summary>no daemon listens on the socket</summary>
        public const int IOKV_ENODAEMON = -4;
        /// <summary>the socket's permissions: join its group (the detail names it)</summary>
        public const int IOKV_EACCES = -5;
        /// <summary>library and daemon have no protocol version in common</summary>
        public const int IOKV_EVERSION = -6;
        /// <summary>the time-out passed while the daemon was loading its model</summary>
        public const int IOKV_ELOADING = -7;
        /// <summary>the daemon is gone or ended the connection; iokv_end_reason says why</summary>
        public const int IOKV_ECLOSED = -8;
        /// <summary>the peer broke the protocol</summary>
        public const int IOKV_EPROTOCOL = -9;
        /// <summary>not possible while operations are outstanding</summary>
        public const int IOKV_EBUSY = -10;
        /// <summary>a handle of the parent process, used in a forked child</summary>
        public const int IOKV_EFORK = -11;
        /// <summary>the time-out passed</summary>
        public const int IOKV_ETIMEDOUT = -12;
        /// <summary>iokv_wake ended the wait</summary>
        public const int IOKV_EWOKEN = -13;
        /// <summary>the sequence would be longer than the model's context</summary>
        public const int IOKV_ECONTEXT = -14;
        /// <summary>the sequence could never fit the daemon's KV pool, or its user's share of it, even alone</summary>
        public const int IOKV_EPOOL = -15;
        /// <summary>a limit of this client or its user: see iokv_info, and enum iokv_limit</summary>
        public const int IOKV_ELIMIT = -16;
        /// <summary>no such sequence: never opened, closed, or of another generation</summary>
        public const int IOKV_ESEQUENCE = -17;
        /// <summary>a token is negative or not below the vocabulary</summary>
        public const int IOKV_ETOKEN = -18;
        /// <summary>cancelled by CANCEL or CLOSE, or an earlier operation of the sequence failed</summary>
        public const int IOKV_ECANCELED = -19;
        /// <summary>the operation's deadline passed before it was done</summary>
        public const int IOKV_EDEADLINE = -20;
        /// <summary>the daemon is stopping</summary>
        public const int IOKV_ESHUTDOWN = -21;
        /// <summary>the compute device failed</summary>
        public const int IOKV_EDEVICE = -22;
        /// <summary>this daemon does not offer that (model, adapter or feature)</summary>
        public const int IOKV_EUNSUPPORTED = -23;
        /// <summary>1.1: a mask has another length than the vocabulary, or permits nothing, or there are not as many as the step draws</summary>
        public const int IOKV_EMASK = -24;
        /// <summary>1.1: a step's stop tokens and stop sequences are too many or too long: iokv_info</summary>
        public const int IOKV_ESTOP = -25;
        /// <summary>1.1: all that is marked 1.1 in iokv_sampling and iokv_step_options; without it EUNSUPPORTED</summary>
        public const int IOKV_FEATURE_SAMPLING = 1;
        /// <summary>1.1: tokens with a bias</summary>
        public const int IOKV_MAX_LOGIT_BIAS = 1024;
        /// <summary>1.1</summary>
        public const int IOKV_MAX_TOP_LOGPROBS = 64;
        /// <summary>1.1</summary>
        public const int IOKV_MAX_STOP_SEQUENCES = 64;
        /// <summary>1.1: of a step</summary>
        public const int IOKV_MAX_MASKS = 64;
        /// <summary>a completion also for each appended token but the last (with max_tokens 0: for the last as well), with the token that would be drawn after it (IOKV_COMPLETION_PREDICTED). Not with tokens beyond max_step_tokens. Verifies drafts.</summary>
        public const int IOKV_STEP_EACH = 1;
        /// <summary>each completion that carries a token also carries the model's logits there, before anything that iokv_sampling says</summary>
        public const int IOKV_STEP_LOGITS = 2;
        /// <summary>the operation goes on: not its final completion</summary>
        public const int IOKV_COMPLETION_MORE = 1;
        /// <summary>`token` was sampled and appended, `logprob` is its log-probability</summary>
        public const int IOKV_COMPLETION_TOKEN = 2;
        /// <summary>`token` is what would follow appended token `index`; it was not appended</summary>
        public const int IOKV_COMPLETION_PREDICTED = 4;
        /// <summary>iokv_logits gives a view, which must be released</summary>
        public const int IOKV_COMPLETION_LOGITS = 8;
        /// <summary>`token` is one of the step's stop tokens, or (1.1) ends one of its stop sequences</summary>
        public const int IOKV_COMPLETION_STOPPED = 16;
        /// <summary>1.1: iokv_top_logprobs gives a view, which must be released</summary>
        public const int IOKV_COMPLETION_TOP = 32;
        /// <summary>none of these: what the daemon could not do</summary>
        public const int IOKV_LIMIT_NONE = 0;
        /// <summary>max_sequences of a client are open</summary>
        public const int IOKV_LIMIT_SEQUENCES = 1;
        /// <summary>more tokens would wait in operations of this client that have not started</summary>
        public const int IOKV_LIMIT_QUEUED_TOKENS = 2;
        /// <summary>user_sequences are open</summary>
        public const int IOKV_LIMIT_USER_SEQUENCES = 3;
        /// <summary>user_queued_tokens would wait in operations that have not started</summary>
        public const int IOKV_LIMIT_USER_QUEUED_TOKENS = 4;
        public const int IOKV_F32 = 0;
        public const int IOKV_F16 = 1;
        public const int IOKV_BF16 = 2;
        /// <summary>tokenizer.json as HF `tokenizers` reads it</summary>
        public const int IOKV_TEXT_TOKENIZER = 1;
        /// <summary>Jinja</summary>
        public const int IOKV_TEXT_CHAT_TEMPLATE = 2;
    }

    /// <summary>Caller-owned detail of a failed call: one line that says what, where and what to do.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct ErrorDetail
    {
        public uint struct_size;
        public int code;
        /// <summary>NUL-terminated</summary>
        public fixed byte message[504];
    }

    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct ConnectOptions
    {
        public uint struct_size;
        /// <summary>0</summary>
        public uint flags;
        /// <summary>NULL: see the top of this file</summary>
        public byte* socket_path;
        /// <summary>shown to the administrator, up to 31 bytes; NULL: the program's name</summary>
        public byte* name;
        /// <summary>of the whole handshake, loading included; 0: 60 s; negative: no limit</summary>
        public long timeout_ns;
        /// <summary>iokv_reap may busy-wait so long before it sleeps; 0: never</summary>
        public ulong spin_ns;
        /// <summary>power of two, 0: 256</summary>
        public uint submission_entries;
        /// <summary>power of two, 0: 1024</summary>
        public uint completion_entries;
        /// <summary>for prompts on their way, power of two; 0: 1 MiB</summary>
        public uint arena_bytes;
        /// <summary>for logits on their way, power of two; 0: 8 MiB, or two rows of logits if that is more</summary>
        public uint result_bytes;
    }

    /// <summary>Facts and limits, constant for the life of a connection.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct Info
    {
        /// <summary>in: sizeof(iokv_info); out: bytes filled</summary>
        public uint struct_size;
        public uint protocol_version;
        /// <summary>random at each start of the daemon</summary>
        public ulong daemon_instance;
        /// <summary>as in `iokv status`</summary>
        public ulong client_id;
        /// <summary>tokens</summary>
        public uint vocabulary;
        /// <summary>tokens a sequence may hold</summary>
        public uint max_context;
        public uint layers;
        public uint hidden;
        public uint heads;
        public uint kv_heads;
        public uint head_dim;
        /// <summary>to put before a prompt, or -1</summary>
        public int begin_token;
        /// <summary>of end_tokens that are set</summary>
        public uint end_token_count;
        /// <summary>where generation usually stops</summary>
        public fixed int end_tokens[8];
        /// <summary>open at once by this client</summary>
        public uint max_sequences;
        /// <summary>outstanding at once: submitted and final completion not yet reaped</summary>
        public uint max_operations;
        /// <summary>appended by one iokv_step call</summary>
        public uint max_step_tokens;
        public uint max_stop_tokens;
        public uint submission_entries;
        public uint completion_entries;
        /// <summary>tokens that the daemon's whole KV pool can hold</summary>
        public ulong pool_tokens;
        public fixed byte model_digest[32];
        public fixed byte tokenizer_digest[32];
        public fixed byte model_name[64];
        public fixed byte daemon_version[32];
        /// <summary>1.1: enum iokv_feature, what this daemon offers</summary>
        public ulong features;
    }

    /// <summary>1.1: what is added to the logit of one token.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct LogitBias
    {
        public int token;
        /// <summary>-10000..10000; OpenAI's -100 all but forbids a token, 100 all but forces it</summary>
        public float bias;
    }

    /// <summary>How tokens are drawn. temperature 0 takes the most probable token (the smallest id among equals). Otherwise logits are divided by temperature, cut to the top_k most probable (0: all) and then to the smallest set whose probability reaches top_p (0 or 1: all), and one is drawn by a counter-based generator from (seed, position): the same seed gives the same text, alone or under load. 1.1: before that, in this order: logit_bias is added; the logit of a token that the sequence holds from position repetition_from on is divided by repetition_penalty if it is positive, else multiplied; from the logit of one that it holds n &gt; 0 times from position frequency_from on presence_penalty + n * frequency_penalty is taken; the step's mask forbids tokens. Temperature 0 then takes the largest. After top_p, min_p drops what is less probable than min_p times the most probable, and typical_p keeps those whose -log p is nearest to the entropy, until they have that probability. Each is what the logits processor of that name in Hugging Face transformers computes; presence and frequency are OpenAI's (with frequency_from the length of the prompt, as there). Values out of range: IOKV_EINVAL, and iokv_last_failure names them.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct Sampling
    {
        public uint struct_size;
        /// <summary>&gt;= 0, finite</summary>
        public float temperature;
        /// <summary>0..1</summary>
        public float top_p;
        public uint top_k;
        public ulong seed;
        /// <summary>0..1; 0: all</summary>
        public float min_p;
        /// <summary>0..1; 0 or 1: all</summary>
        public float typical_p;
        /// <summary>0.01..100; 0 or 1: none</summary>
        public float repetition_penalty;
        /// <summary>-100..100</summary>
        public float presence_penalty;
        /// <summary>-100..100</summary>
        public float frequency_penalty;
        /// <summary>position of the first token that repetition_penalty is about</summary>
        public uint repetition_from;
        /// <summary>position of the first token that presence_penalty and frequency_penalty count</summary>
        public uint frequency_from;
        /// <summary>0..IOKV_MAX_LOGIT_BIAS</summary>
        public uint logit_bias_count;
        /// <summary>each token once; copied before the call returns</summary>
        public LogitBias* logit_bias;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct OpenOptions
    {
        public uint struct_size;
        /// <summary>0</summary>
        public uint flags;
        /// <summary>comes back in the completion</summary>
        public ulong user_data;
        /// <summary>for every step of the sequence; NULL: greedy</summary>
        public Sampling* sampling;
        /// <summary>0</summary>
        public uint model;
        /// <summary>0</summary>
        public uint adapter;
        /// <summary>-100..100, higher first among the sequences of this client; 0</summary>
        public int priority;
        public uint reserved;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct StepOptions
    {
        public uint struct_size;
        /// <summary>iokv_step_flags</summary>
        public uint flags;
        /// <summary>comes back in every completion of the step</summary>
        public ulong user_data;
        /// <summary>to append; copied before the call returns</summary>
        public int* tokens;
        /// <summary>0..max_step_tokens</summary>
        public uint token_count;
        /// <summary>to sample at the most; 0: append only</summary>
        public uint max_tokens;
        /// <summary>sampling one of these ends the step; it is appended and reported. Copied.</summary>
        public int* stop_tokens;
        public uint stop_token_count;
        /// <summary>added to the sequence's, the sum clamped to -100..100</summary>
        public int priority;
        /// <summary>for this step only; NULL: the sequence's</summary>
        public Sampling* sampling;
        /// <summary>CLOCK_MONOTONIC; past it the step ends with IOKV_EDEADLINE; 0: none</summary>
        public ulong deadline_ns;
        /// <summary>tokens of all stop sequences, one behind the other: when the tokens that this step has sampled end with one of them, the step ends as with a stop token</summary>
        public int* stop_sequences;
        /// <summary>tokens of each, 1 at least; their sum and stop_token_count together are at most max_stop_tokens (IOKV_ESTOP)</summary>
        public uint* stop_sequence_lengths;
        /// <summary>0..IOKV_MAX_STOP_SEQUENCES</summary>
        public uint stop_sequence_count;
        /// <summary>0..IOKV_MAX_TOP_LOGPROBS: so many most probable tokens come with each completion that carries a token: IOKV_COMPLETION_TOP</summary>
        public uint top_logprobs;
        /// <summary>[mask_count][mask_words]: which tokens may be drawn, token t is bit t % 32 of word t / 32; bits beyond the vocabulary mean nothing</summary>
        public uint* masks;
        /// <summary>(vocabulary + 31) / 32, or 0 without masks; else IOKV_EMASK</summary>
        public uint mask_words;
        /// <summary>0, or as many as the step draws: max_tokens, and with IOKV_STEP_EACH as many more as it predicts; at most IOKV_MAX_MASKS. Else IOKV_EMASK. A mask that permits nothing: IOKV_EMASK</summary>
        public uint mask_count;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct Completion
    {
        public ulong user_data;
        public ulong operation;
        public ulong sequence;
        /// <summary>0, a count (CANCEL) or a negative code</summary>
        public int result;
        /// <summary>iokv_completion_flags</summary>
        public uint flags;
        public int token;
        /// <summary>natural logarithm, of the unmodified distribution</summary>
        public float logprob;
        /// <summary>TOKEN: of the sampled token in its step; PREDICTED: of the appended one; ELIMIT: iokv_limit</summary>
        public uint index;
        /// <summary>tokens in the sequence after this</summary>
        public uint length;
        /// <summary>for iokv_logits and iokv_top_logprobs</summary>
        public fixed uint view[2];
        /// <summary>for iokv_completion_times</summary>
        public ulong times;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct LogitsView
    {
        public uint struct_size;
        /// <summary>enum iokv_dtype</summary>
        public uint dtype;
        /// <summary>elements: the vocabulary</summary>
        public uint count;
        public uint reserved;
        /// <summary>in shared memory, read-only</summary>
        public void* data;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct TokenLogprob
    {
        public int token;
        /// <summary>natural logarithm, of the unmodified distribution</summary>
        public float logprob;
    }

    /// <summary>What the time of a step of the device went to: the step that a completion's token or prediction was drawn in, or that computed the last token of an append. Durations in ns, exact below 4096, within 0.025 % above, at most 73 minutes. The device works on many sequences in a step, and its times are those of the whole step; they overlap each other, and the link works ahead of the step as well. What is greatest of link, recompute and dense is what bound the step.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct Times
    {
        /// <summary>in: sizeof(iokv_times); out: bytes filled</summary>
        public uint struct_size;
        public uint reserved;
        /// <summary>from when the sequence could be computed (the operation was taken, the step before had ended, or the client had made room for completions) until this step began</summary>
        public ulong queued_ns;
        /// <summary>cached tokens were on their way to the device, or new ones back: the longer of the two</summary>
        public ulong link_ns;
        /// <summary>K,V were recomputed from activations</summary>
        public ulong recompute_ns;
        /// <summary>everything else was computed</summary>
        public ulong dense_ns;
    }

    /// <summary>---- the daemon's counters -------------------------------------------------------------------------------------</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct Counter
    {
        /// <summary>"steps", "pool_units_free" ...; static</summary>
        public byte* name;
        /// <summary>"1", "bytes", "ns", "tokens" ...; static</summary>
        public byte* unit;
        /// <summary>one line; static</summary>
        public byte* meaning;
        public ulong value;
    }

    internal static unsafe partial class Library
    {
        public const string Name = "libiokv.so.1";

        /// <summary>A fixed sentence for a code ("no daemon listens on the socket"); never NULL, static. Any thread.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial byte* iokv_strerror(int code);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern byte* iokv_strerror(int code);
#endif

        /// <summary>Connects to a daemon and waits until it is ready. options and detail may be NULL. On success *client is owned by the caller, who ends it with iokv_disconnect. Errors: EINVAL, ENOMEM, ENODAEMON, EACCES, EVERSION, ELOADING (the detail says how far), ELIMIT (the daemon's client limit), EPROTOCOL, ETIMEDOUT, ESHUTDOWN. Any thread; blocks.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_connect(ConnectOptions* options, IntPtr* client, ErrorDetail* detail);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_connect(ConnectOptions* options, IntPtr* client, ErrorDetail* detail);
#endif

        /// <summary>Ends the connection: everything outstanding is cancelled, every sequence closed, all views become invalid. NULL is fine. Alone on the client.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial void iokv_disconnect(IntPtr client);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern void iokv_disconnect(IntPtr client);
#endif

        /// <summary>Any thread. EINVAL, EFORK.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_get_info(ClientHandle client, Info* info);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_get_info(ClientHandle client, Info* info);
#endif

        /// <summary>Why the connection ended, after a call has returned IOKV_ECLOSED: fills the detail. Any thread.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_end_reason(ClientHandle client, ErrorDetail* detail);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_end_reason(ClientHandle client, ErrorDetail* detail);
#endif

        /// <summary>1.1. Why the latest iokv_open or iokv_step of this client returned what it returned: the code and one line that names the argument and its range ("top_p is 1.5: it must be 0 to 1"); code 0 and an empty line when it has not failed. EINVAL, EFORK.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_last_failure(ClientHandle client, ErrorDetail* detail);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_last_failure(ClientHandle client, ErrorDetail* detail);
#endif

        /// <summary>Opens an empty sequence. options may be NULL. Also ELIMIT: max_sequences are open already. Completion result: 0, ELIMIT, EUNSUPPORTED.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_open(ClientHandle client, OpenOptions* options, ulong* sequence, ulong* operation);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_open(ClientHandle client, OpenOptions* options, ulong* sequence, ulong* operation);
#endif

        /// <summary>Appends token_count tokens, then samples up to max_tokens. One completion a sampled token, with IOKV_COMPLETION_MORE on all but the last; with max_tokens 0 one completion in all. With token_count 0 sampling goes on from where the sequence is (it must not be empty: EINVAL). A prompt larger than the arena is passed on in parts, which the caller does not see. Also ESTOP, EMASK, ELIMIT and EUNSUPPORTED, as iokv_step_options says. Completion result: 0, ECONTEXT, EPOOL, ESEQUENCE, ETOKEN, EINVAL, ECANCELED, EDEADLINE, ELIMIT, EDEVICE, ESHUTDOWN, EMASK. After a failure the sequence holds `length` tokens, as the final completion says.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_step(ClientHandle client, ulong sequence, StepOptions* options, ulong* operation);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_step(ClientHandle client, ulong sequence, StepOptions* options, ulong* operation);
#endif

        /// <summary>Opens a new sequence that begins with the first `tokens` tokens of `parent` (UINT32_MAX: all) and its sampling. Runs in the order of the parent's operations. Also ELIMIT, as iokv_open. Completion (sequence: the child) result: 0, ESEQUENCE, EINVAL (tokens beyond the parent's length), ELIMIT.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_fork(ClientHandle client, ulong parent, uint tokens, ulong user_data, ulong* child, ulong* operation);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_fork(ClientHandle client, ulong parent, uint tokens, ulong user_data, ulong* child, ulong* operation);
#endif

        /// <summary>Drops every token from position `length` on. Completion result: 0, ESEQUENCE, EINVAL (longer than the sequence).</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_truncate(ClientHandle client, ulong sequence, uint length, ulong user_data, ulong* operation);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_truncate(ClientHandle client, ulong sequence, uint length, ulong user_data, ulong* operation);
#endif

        /// <summary>Cancels one outstanding operation, or with target 0 all of the sequence's. Overtakes. Completion result: how many were cancelled (0: it had ended), or ESEQUENCE. The cancelled ones complete with ECANCELED; the sequence stays usable.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_cancel(ClientHandle client, ulong sequence, ulong target, ulong user_data, ulong* operation);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_cancel(ClientHandle client, ulong sequence, ulong target, ulong user_data, ulong* operation);
#endif

        /// <summary>Cancels what is outstanding and frees the sequence. Completion result: 0, ESEQUENCE.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_close(ClientHandle client, ulong sequence, ulong user_data, ulong* operation);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_close(ClientHandle client, ulong sequence, ulong user_data, ulong* operation);
#endif

        /// <summary>Goes the way of a step through the daemon and does nothing. Completion result: 0.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_nop(ClientHandle client, ulong user_data, ulong* operation);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_nop(ClientHandle client, ulong user_data, ulong* operation);
#endif

        /// <summary>Makes placed entries visible; a system call only if the daemon sleeps. Returns how many. Submitting thread.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_submit(ClientHandle client);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_submit(ClientHandle client);
#endif

        /// <summary>Copies up to `capacity` completions out, waiting up to timeout_ns (0: not at all; negative: without limit) for the first. Returns how many (0 only with timeout 0), or ETIMEDOUT, EWOKEN, ECLOSED (the daemon is gone: nothing more will come; outstanding operations are lost), EINVAL, EFORK. When it returns less than `capacity`, iokv_fd() is armed and becomes readable at the next completion. Reaping thread.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_reap(ClientHandle client, Completion* completions, uint capacity, long timeout_ns);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_reap(ClientHandle client, Completion* completions, uint capacity, long timeout_ns);
#endif

        /// <summary>A descriptor to poll for readability (epoll, libuv, asyncio ...): when readable, call iokv_reap with timeout 0 until it returns less than asked for. Never read, write or close it. Reports the daemon's death as well. Any thread.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_fd(ClientHandle client);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_fd(ClientHandle client);
#endif

        /// <summary>Ends a present or the next wait of iokv_reap with IOKV_EWOKEN. Any thread.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_wake(ClientHandle client);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_wake(ClientHandle client);
#endif

        /// <summary>The logits of a completion with IOKV_COMPLETION_LOGITS; valid until released. The space for logits is limited: while it is full, steps that need it wait. Reaping thread. EINVAL, EFORK.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_logits(ClientHandle client, Completion* completion, LogitsView* view);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_logits(ClientHandle client, Completion* completion, LogitsView* view);
#endif

        /// <summary>1.1. The most probable tokens of a completion with IOKV_COMPLETION_TOP, the most probable first, the smaller id first among equals: *count = min(top_logprobs, vocabulary) entries in shared memory, read-only and valid until released. The space for them is that of logits. Reaping thread. EINVAL, EFORK.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_top_logprobs(ClientHandle client, Completion* completion, TokenLogprob** entries, uint* count);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_top_logprobs(ClientHandle client, Completion* completion, TokenLogprob** entries, uint* count);
#endif

        /// <summary>Gives a completion's views back; in any order, once each. Must be called for every completion with IOKV_COMPLETION_LOGITS or IOKV_COMPLETION_TOP, whether viewed or not. Reaping thread. EINVAL, EFORK.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_release(ClientHandle client, Completion* completion);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_release(ClientHandle client, Completion* completion);
#endif

        /// <summary>Errors: EINVAL; EUNSUPPORTED, the completion says nothing of it: it comes from no step, or from an older daemon. Any thread.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_completion_times(Completion* completion, Times* times);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_completion_times(Completion* completion, Times* times);
#endif

        /// <summary>Operations whose final completion has not been reaped. Any thread.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial uint iokv_outstanding(ClientHandle client);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern uint iokv_outstanding(ClientHandle client);
#endif

        /// <summary>Blocking: one step, its sampled tokens into `tokens` (capacity &gt;= options-&gt;max_tokens) and their number into *count. Returns 0 or the call's or the operation's negative code; tokens sampled before a failure are delivered. EBUSY while operations are outstanding. IOKV_STEP_EACH, IOKV_STEP_LOGITS and top_logprobs are EINVAL here. Both threads' role.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_generate(ClientHandle client, ulong sequence, StepOptions* options, int* tokens, uint capacity, uint* count);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_generate(ClientHandle client, ulong sequence, StepOptions* options, int* tokens, uint capacity, uint* count);
#endif

        /// <summary>Bytes of a token's text (not NUL-terminated; may be part of a UTF-8 character); valid until iokv_disconnect. The first call fetches the table from the daemon (blocking). Any thread after a first call has returned; else both threads' role. ETOKEN, EUNSUPPORTED (the model came without a vocabulary), ECLOSED, EFORK.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_token_bytes(ClientHandle client, int token, byte** bytes, uint* size);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_token_bytes(ClientHandle client, int token, byte** bytes, uint* size);
#endif

        /// <summary>A file that turns text into tokens, as the daemon hands it out, read-only; valid until iokv_disconnect; *size 0 when the model came without it. Threads and errors as iokv_token_bytes, and EINVAL.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_text(ClientHandle client, int file, byte** bytes, ulong* size);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_text(ClientHandle client, int file, byte** bytes, ulong* size);
#endif

        /// <summary>Reads counter `index` (0, 1, ... until IOKV_EINVAL) from memory that the daemon shares; the first call fetches it. Costs the daemon nothing. Threads and errors as iokv_token_bytes.</summary>
#if NET7_0_OR_GREATER
        [LibraryImport(Name)]
        public static partial int iokv_get_counter(ClientHandle client, uint index, Counter* counter);
#else
        [DllImport(Name, CallingConvention = CallingConvention.Cdecl, ExactSpelling = true)]
        public static extern int iokv_get_counter(ClientHandle client, uint index, Counter* counter);
#endif
    }
}
