// SPDX-License-Identifier: Apache-2.0
// The conformance driver of the C# binding: requests on standard input, answers on standard output, as
// bindings/conformance/README.md has them; `conformance load ...` decodes for scripts/bench as bench/load.cpp does.
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text;
using System.Threading.Tasks;
using Iokv;

internal sealed class Request
{
    public readonly string Verb;
    public readonly string Name = "";
    private readonly Dictionary<string, string> words = new Dictionary<string, string>();

    public Request(string line)
    {
        string[] parts = line.Split(new[] { ' ' }, StringSplitOptions.RemoveEmptyEntries);
        Verb = parts[0];
        foreach (string part in parts.Skip(1))
        {
            int equals = part.IndexOf('=');
            if (equals < 0)
            {
                Name = part;
            }
            else
            {
                words[part.Substring(0, equals)] = part.Substring(equals + 1);
            }
        }
    }

    public bool Has(string key)
    {
        return words.ContainsKey(key);
    }

    public string Word(string key)
    {
        return Has(key) ? words[key] : null;
    }

    public long Number(string key, long otherwise = 0)
    {
        return Has(key) ? long.Parse(words[key], CultureInfo.InvariantCulture) : otherwise;
    }

    public ulong Id(string key)
    {
        return Has(key) ? ulong.Parse(words[key], CultureInfo.InvariantCulture) : 0;
    }

    public uint Count(string key)
    {
        return (uint)Number(key);
    }

    public int[] Tokens(string key)
    {
        string list = Word(key) ?? "";
        return list.Split(new[] { ',' }, StringSplitOptions.RemoveEmptyEntries).Select(int.Parse).ToArray();
    }

    // -1 ns is no limit; a time-out that a tick cannot hold is one tick.
    public TimeSpan Time(string key)
    {
        long ns = Number(key, -1);
        return ns < 0 ? TimeSpan.FromTicks(-1) : ns == 0 ? TimeSpan.Zero : TimeSpan.FromTicks(Math.Max(1, ns / 100));
    }

    // The parts of a list, which are lists themselves.
    private string[][] Lists(string key)
    {
        string[] parts = (Word(key) ?? "").Split(new[] { ';' }, StringSplitOptions.RemoveEmptyEntries);
        return parts.Select(part => part.Split(',')).ToArray();
    }

    private static readonly string[] SamplingWords =
    {
        "temperature", "top_p", "top_k", "seed", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
        "frequency_penalty", "repetition_from", "frequency_from", "logit_bias",
    };

    private static float Real(string word)
    {
        return float.Parse(word ?? "0", CultureInfo.InvariantCulture);
    }

    public Sampling? Sampling()
    {
        if (!SamplingWords.Any(Has))
        {
            return null;
        }
        return new Sampling
        {
            Temperature = Real(Word("temperature")),
            TopP = Real(Word("top_p")),
            TopK = Count("top_k"),
            Seed = Id("seed"),
            MinP = Real(Word("min_p")),
            TypicalP = Real(Word("typical_p")),
            RepetitionPenalty = Real(Word("repetition_penalty")),
            PresencePenalty = Real(Word("presence_penalty")),
            FrequencyPenalty = Real(Word("frequency_penalty")),
            RepetitionFrom = Count("repetition_from"),
            FrequencyFrom = Count("frequency_from"),
            LogitBias = Lists("logit_bias")
                .Select(pair => new LogitBias { Token = int.Parse(pair[0]), Bias = Real(pair[1]) }).ToArray(),
        };
    }

    public StepOptions Step()
    {
        return new StepOptions
        {
            Tokens = Tokens("tokens"),
            MaxTokens = Count("max_tokens"),
            StopTokens = Tokens("stop_tokens"),
            StopSequences = Lists("stop_sequences").Select(stop => stop.Select(int.Parse).ToArray()).ToArray(),
            Sampling = Sampling(),
            TopLogprobs = Count("top_logprobs"),
            Masks = Lists("masks").Select(mask => mask.Select(uint.Parse).ToArray()).ToArray(),
            Each = Number("each") != 0,
            Logits = Number("logits") != 0,
            Priority = (int)Number("priority"),
            DeadlineNs = Id("deadline_ns"),
        };
    }
}

internal static class Driver
{
    private static readonly Dictionary<string, Connection> Clients = new Dictionary<string, Connection>();
    private static readonly TextWriter Out =
        new StreamWriter(Console.OpenStandardOutput(), new UTF8Encoding(false), 65536) { NewLine = "\n" };

    private static string Hex(byte[] bytes)
    {
        return bytes.Length == 0 ? "-" : BitConverter.ToString(bytes).Replace("-", "").ToLowerInvariant();
    }

    private static string Hex(string text)
    {
        return Hex(Encoding.UTF8.GetBytes(text));
    }

    private static string Operation(ulong id)
    {
        return "operation=" + id;
    }

    private static string Opened(Opened opened)
    {
        return "sequence=" + opened.Sequence + " " + Operation(opened.Operation);
    }

    // Writes data lines; returns the words of `ok`.
    private static string Answer(Request request)
    {
        if (request.Verb == "layout")
        {
            foreach (string line in Layout.Lines())
            {
                Out.WriteLine(line);
            }
            return "";
        }
        if (request.Verb == "connect")
        {
            Clients[request.Name] = new Connection(new ConnectOptions
            {
                SocketPath = request.Word("socket"),
                Name = request.Word("name"),
                Timeout = request.Time("timeout_ns"),
                SubmissionEntries = request.Count("submission_entries"),
                CompletionEntries = request.Count("completion_entries"),
                ArenaBytes = request.Count("arena_bytes"),
                ResultBytes = request.Count("result_bytes"),
            });
            return "";
        }
        return Call(request, Clients[request.Name]);
    }

    private static string Call(Request request, Connection client)
    {
        ulong sequence = request.Id("sequence"), userData = request.Id("user_data");
        switch (request.Verb)
        {
            case "disconnect":
                client.Dispose();
                return "";
            case "info":
                return Info(client.Info);
            case "open":
                return Opened(client.Open(new OpenOptions
                {
                    Sampling = request.Sampling(),
                    Priority = (int)request.Number("priority"),
                    Model = request.Count("model"),
                    Adapter = request.Count("adapter"),
                }, userData));
            case "step":
                return Operation(client.Step(sequence, request.Step(), userData));
            case "fork":
                return Opened(client.Fork(sequence, request.Has("tokens") ? request.Count("tokens") : (uint?)null, userData));
            case "truncate":
                return Operation(client.Truncate(sequence, request.Count("length"), userData));
            case "cancel":
                return Operation(client.Cancel(sequence, request.Id("target"), userData));
            case "close":
                return Operation(client.CloseSequence(sequence, userData));
            case "nop":
                return Operation(client.Nop(userData));
            case "submit":
                return "count=" + client.Submit();
            case "outstanding":
                return "count=" + client.Outstanding;
            case "wake":
                client.Wake();
                return "";
            case "reap":
                Reap(request, client);
                return "";
            case "generate":
                return "tokens=" + string.Join(",", client.Generate(sequence, request.Step()));
            case "end_reason":
                IokvException reason = client.EndReason();
                return "code=" + (int)reason.Code + " line=" + Hex(reason.Message);
            case "token_bytes":
                return "bytes=" + Hex(client.TokenBytes((int)request.Number("token")));
            case "text":
                return "bytes=" + Hex(request.Number("file") == 1 ? client.TokenizerFile() : client.ChatTemplate());
            case "counters":
                return string.Join(" ", client.Counters().Select(counter => counter.Name + "=" + counter.Value));
        }
        throw new InvalidDataException("no such request: " + request.Verb);
    }

    private static void Reap(Request request, Connection client)
    {
        var tokens = new Token[request.Count("capacity")];
        int count = client.Reap(tokens, request.Time("timeout_ns"));
        for (int i = 0; i < count; i++)
        {
            Token t = tokens[i];
            string logits = "-", top = "-";
            if (t.Logits != null)
            {
                var bytes = new byte[4 * t.Logits.Length];
                Buffer.BlockCopy(t.Logits, 0, bytes, 0, bytes.Length);
                logits = Hex(bytes);
            }
            if (t.Top != null)
            {
                top = Hex(t.Top.SelectMany(one => BitConverter.GetBytes(one.Token).Concat(BitConverter.GetBytes(one.Logprob)))
                    .ToArray());
            }
            StepTimes? times = t.Times;
            Out.WriteLine("completion user_data=" + t.UserData + " operation=" + t.OperationId + " sequence=" + t.SequenceId +
                " result=" + t.Result + " flags=" + t.Flags + " token=" + t.Id +
                " logprob=" + t.Logprob.ToString("R", CultureInfo.InvariantCulture) + " index=" + t.Index +
                " length=" + t.Length + " dense_ns=" + (times.HasValue ? times.Value.DenseNs : 0) + " logits=" + logits + " top=" + top);
        }
    }

    private static string Info(ClientInfo i)
    {
        return "protocol_version=" + i.ProtocolVersion + " daemon_instance=" + i.DaemonInstance + " client_id=" + i.ClientId +
            " vocabulary=" + i.Vocabulary + " max_context=" + i.MaxContext + " layers=" + i.Layers + " hidden=" + i.Hidden +
            " heads=" + i.Heads + " kv_heads=" + i.KvHeads + " head_dim=" + i.HeadDim + " begin_token=" + (i.BeginToken ?? -1) +
            " end_token_count=" + i.EndTokens.Length + " max_sequences=" + i.MaxSequences + " max_operations=" + i.MaxOperations +
            " max_step_tokens=" + i.MaxStepTokens + " max_stop_tokens=" + i.MaxStopTokens +
            " submission_entries=" + i.SubmissionEntries + " completion_entries=" + i.CompletionEntries +
            " pool_tokens=" + i.PoolTokens + " features=" + i.Features + " model_digest=" + Hex(i.ModelDigest) +
            " tokenizer_digest=" + Hex(i.TokenizerDigest) + " model_name=" + Hex(i.ModelName);
    }

    private static void Serve()
    {
        var input = new StreamReader(Console.OpenStandardInput(), new UTF8Encoding(false));
        for (string line = input.ReadLine(); line != null; line = input.ReadLine())
        {
            try
            {
                Out.WriteLine("ok " + Answer(new Request(line)));
            }
            catch (IokvException failure)
            {
                Out.WriteLine("error " + (int)failure.Code + " " + failure.Message);
            }
            catch (ObjectDisposedException failure)
            {
                // What C# says where the others say ECLOSED.
                Out.WriteLine("error " + (int)ErrorCode.Closed + " " + failure.Message.Replace('\n', ' '));
            }
            Out.Flush();
        }
    }

    private static long MonotonicNs()
    {
        return (long)(Stopwatch.GetTimestamp() * (1e9 / Stopwatch.Frequency));
    }

    private static async Task<int> Stream(Sequence sequence, uint tokens)
    {
        int drawn = 0;
        Operation operation = await sequence.StepAsync(new StepOptions { MaxTokens = tokens }).ConfigureAwait(false);
        IAsyncEnumerator<Token> enumerator = operation.GetAsyncEnumerator();
        while (await enumerator.MoveNextAsync().ConfigureAwait(false))
        {
            drawn += enumerator.Current.IsSampled ? 1 : 0;
        }
        return drawn;
    }

    // What bench/load.cpp does, by Client, Sequence and Operation, with a task for each sequence.
    private static void Load(string socket, int count, int promptTokens, int tokens, int seed)
    {
        using (var client = new Client(new ConnectOptions { SocketPath = socket, Timeout = TimeSpan.FromTicks(-1) }))
        {
            var sequences = new List<Sequence>();
            for (int s = 0; s < count; s++)
            {
                var prompt = new int[promptTokens];
                for (long i = 0; i < promptTokens; i++)
                {
                    prompt[i] = (int)(((seed + s) * 7919L + i * 104729L + i * i) % client.Info.Vocabulary);
                }
                sequences.Add(client.Open());
                sequences[s].Generate(prompt, 1);
            }
            Console.WriteLine("ready");
            while (Console.ReadLine() != null)
            {
                long start = MonotonicNs();
                int[] drawn = Task.WhenAll(sequences.Select(sequence => Stream(sequence, (uint)tokens))).Result;
                Console.WriteLine("{{\"tokens\": {0}, \"start_ns\": {1}, \"end_ns\": {2}}}", drawn.Sum(), start, MonotonicNs());
                foreach (Sequence sequence in sequences)
                {
                    sequence.TruncateAsync((uint)promptTokens + 1).Wait();
                }
            }
        }
    }

    public static void Main(string[] arguments)
    {
        if (arguments.Length == 6 && arguments[0] == "load")
        {
            int[] numbers = arguments.Skip(2).Select(int.Parse).ToArray();
            Load(arguments[1], numbers[0], numbers[1], numbers[2], numbers[3]);
        }
        else
        {
            Serve();
        }
    }
}
