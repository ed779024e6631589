// SPDX-License-Identifier: Apache-2.0

// The conformance driver of the Go binding: requests on standard input, answers on standard output, as
// bindings/conformance/README.md has them; `driver load ...` decodes for scripts/bench as bench/load.cpp does.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	iokv "github.com/iokv/iokv/bindings/go"
)

type request struct {
	verb, name string
	words      map[string]string
}

func parse(line string) request {
	fields := strings.Fields(line)
	made := request{verb: fields[0], words: map[string]string{}}
	for _, field := range fields[1:] {
		if key, value, named := strings.Cut(field, "="); named {
			made.words[key] = value
		} else {
			made.name = field
		}
	}
	return made
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func (r request) has(key string) bool { _, has := r.words[key]; return has }

func (r request) signed(key string) int64 {
	if !r.has(key) {
		return 0
	}
	return must(strconv.ParseInt(r.words[key], 10, 64))
}

func (r request) id(key string) uint64 {
	if !r.has(key) {
		return 0
	}
	return must(strconv.ParseUint(r.words[key], 10, 64))
}

func (r request) count(key string) uint32 { return uint32(r.signed(key)) }

func (r request) tokens(key string) []int32 {
	var found []int32
	for _, word := range strings.FieldsFunc(r.words[key], func(c rune) bool { return c == ',' }) {
		found = append(found, int32(must(strconv.Atoi(word))))
	}
	return found
}

// lists is the parts of a list, which are lists themselves.
func (r request) lists(key string) [][]string {
	var found [][]string
	for _, part := range strings.FieldsFunc(r.words[key], func(c rune) bool { return c == ';' }) {
		found = append(found, strings.Split(part, ","))
	}
	return found
}

func float(word string) float32 { return float32(must(strconv.ParseFloat(word, 32))) }

var samplingWords = []string{
	"temperature", "top_p", "top_k", "seed", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
	"repetition_from", "frequency_from", "logit_bias",
}

func (r request) sampling() *iokv.Sampling {
	given := false
	for _, word := range samplingWords {
		given = given || r.has(word)
	}
	if !given {
		return nil
	}
	real := func(key string) float32 {
		if !r.has(key) {
			return 0
		}
		return float(r.words[key])
	}
	sampling := &iokv.Sampling{
		Temperature: real("temperature"), TopP: real("top_p"), TopK: r.count("top_k"), Seed: r.id("seed"), MinP: real("min_p"),
		TypicalP: real("typical_p"), RepetitionPenalty: real("repetition_penalty"), PresencePenalty: real("presence_penalty"),
		FrequencyPenalty: real("frequency_penalty"), RepetitionFrom: r.count("repetition_from"),
		FrequencyFrom: r.count("frequency_from"),
	}
	for _, pair := range r.lists("logit_bias") {
		sampling.LogitBias = append(sampling.LogitBias, iokv.LogitBias{Token: int32(must(strconv.Atoi(pair[0]))), Bias: float(pair[1])})
	}
	return sampling
}

func (r request) step() *iokv.StepOptions {
	options := &iokv.StepOptions{
		Tokens: r.tokens("tokens"), MaxTokens: r.count("max_tokens"), StopTokens: r.tokens("stop_tokens"),
		Sampling: r.sampling(), TopLogprobs: r.count("top_logprobs"), Each: r.signed("each") != 0,
		Logits: r.signed("logits") != 0, Priority: int32(r.signed("priority")), DeadlineNS: r.id("deadline_ns"),
	}
	for _, words := range r.lists("stop_sequences") {
		var stop []int32
		for _, word := range words {
			stop = append(stop, int32(must(strconv.Atoi(word))))
		}
		options.StopSequences = append(options.StopSequences, stop)
	}
	for _, words := range r.lists("masks") {
		var mask []uint32
		for _, word := range words {
			mask = append(mask, uint32(must(strconv.ParseUint(word, 10, 32))))
		}
		options.Masks = append(options.Masks, mask)
	}
	return options
}

func hexed(bytes []byte) string {
	if len(bytes) == 0 {
		return "-"
	}
	return hex.EncodeToString(bytes)
}

type driver struct {
	clients map[string]*iokv.Conn
	out     *bufio.Writer
}

func operation(id uint64, err error) (string, error) { return fmt.Sprintf("operation=%d", id), err }

func opened(sequence, operation uint64, err error) (string, error) {
	return fmt.Sprintf("sequence=%d operation=%d", sequence, operation), err
}

func bytesOf(bytes []byte, err error) (string, error) { return "bytes=" + hexed(bytes), err }

// answer writes data lines and returns the words of `ok`.
func (d *driver) answer(r request) (string, error) {
	switch r.verb {
	case "layout":
		for _, line := range layout() {
			fmt.Fprintln(d.out, line)
		}
		return "", nil
	case "connect":
		conn, err := iokv.Connect(&iokv.ConnectOptions{
			SocketPath: r.words["socket"], Name: r.words["name"], Timeout: time.Duration(r.signed("timeout_ns")),
			SubmissionEntries: r.count("submission_entries"), CompletionEntries: r.count("completion_entries"),
			ArenaBytes: r.count("arena_bytes"), ResultBytes: r.count("result_bytes"),
		})
		if err == nil {
			d.clients[r.name] = conn
		}
		return "", err
	}
	return d.call(r, d.clients[r.name])
}

func (d *driver) call(r request, client *iokv.Conn) (string, error) {
	sequence, userData := r.id("sequence"), r.id("user_data")
	switch r.verb {
	case "disconnect":
		return "", client.Close()
	case "info":
		return info(client.Info()), nil
	case "open":
		options := iokv.OpenOptions{
			Sampling: r.sampling(), Priority: int32(r.signed("priority")), Model: r.count("model"), Adapter: r.count("adapter"),
		}
		return opened(client.Open(&options, userData))
	case "step":
		return operation(client.Step(sequence, r.step(), userData))
	case "fork":
		tokens := uint32(iokv.WholeSequence)
		if r.has("tokens") {
			tokens = r.count("tokens")
		}
		return opened(client.Fork(sequence, tokens, userData))
	case "truncate":
		return operation(client.Truncate(sequence, r.count("length"), userData))
	case "cancel":
		return operation(client.Cancel(sequence, r.id("target"), userData))
	case "close":
		return operation(client.CloseSequence(sequence, userData))
	case "nop":
		return operation(client.Nop(userData))
	case "submit":
		count, err := client.Submit()
		return fmt.Sprintf("count=%d", count), err
	case "outstanding":
		return fmt.Sprintf("count=%d", client.Outstanding()), nil
	case "wake":
		return "", client.Wake()
	case "reap":
		return "", d.reap(r, client)
	case "generate":
		sampled, err := client.Generate(sequence, r.step())
		return "tokens=" + strings.Join(strings.Fields(strings.Trim(fmt.Sprint(sampled), "[]")), ","), err
	case "end_reason":
		reason, err := client.EndReason()
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("code=%d line=%s", reason.Code, hexed([]byte(reason.Message))), nil
	case "token_bytes":
		return bytesOf(client.TokenBytes(int32(r.signed("token"))))
	case "text":
		if r.count("file") == 1 {
			return bytesOf(client.TokenizerFile())
		}
		return bytesOf(client.ChatTemplate())
	case "counters":
		counters, err := client.Counters()
		var words []string
		for _, counter := range counters {
			words = append(words, fmt.Sprintf("%s=%d", counter.Name, counter.Value))
		}
		return strings.Join(words, " "), err
	}
	panic("no such request: " + r.verb)
}

func (d *driver) reap(r request, client *iokv.Conn) error {
	completions := make([]iokv.Completion, r.count("capacity"))
	count, err := client.Reap(completions, time.Duration(r.signed("timeout_ns")))
	for i := range completions[:count] {
		c := &completions[i]
		logits, top := "-", "-"
		if values := c.Logits(); len(values) > 0 {
			logits = hexed(unsafe.Slice((*byte)(unsafe.Pointer(&values[0])), 4*len(values)))
		}
		if values := c.Top(); len(values) > 0 {
			top = hexed(unsafe.Slice((*byte)(unsafe.Pointer(&values[0])), 8*len(values)))
		}
		times, _ := c.Times()
		fmt.Fprintf(d.out, "completion user_data=%d operation=%d sequence=%d result=%d flags=%d token=%d logprob=%g index=%d "+
			"length=%d dense_ns=%d logits=%s top=%s\n", c.UserData, c.Operation, c.Sequence, c.Result, c.Flags, c.Token, c.Logprob,
			c.Index, c.Length, times.Dense.Nanoseconds(), logits, top)
	}
	return err
}

func info(i *iokv.Info) string {
	return fmt.Sprintf("protocol_version=%d daemon_instance=%d client_id=%d vocabulary=%d max_context=%d layers=%d hidden=%d "+
		"heads=%d kv_heads=%d head_dim=%d begin_token=%d end_token_count=%d max_sequences=%d max_operations=%d "+
		"max_step_tokens=%d max_stop_tokens=%d submission_entries=%d completion_entries=%d pool_tokens=%d features=%d model_digest=%s "+
		"tokenizer_digest=%s model_name=%s", i.ProtocolVersion, i.DaemonInstance, i.ClientID, i.Vocabulary, i.MaxContext,
		i.Layers, i.Hidden, i.Heads, i.KVHeads, i.HeadDim, i.BeginToken, len(i.EndTokens), i.MaxSequences, i.MaxOperations,
		i.MaxStepTokens, i.MaxStopTokens, i.SubmissionEntries, i.CompletionEntries, i.PoolTokens, i.Features, hexed(i.ModelDigest[:]),
		hexed(i.TokenizerDigest[:]), hexed([]byte(i.ModelName)))
}

func serve() {
	d := driver{clients: map[string]*iokv.Conn{}, out: bufio.NewWriter(os.Stdout)}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, math.MaxInt32)
	for lines.Scan() {
		rest, err := d.answer(parse(lines.Text()))
		var code iokv.Error
		switch {
		case err == nil:
			fmt.Fprintln(d.out, "ok", rest)
		case errors.As(err, &code):
			fmt.Fprintf(d.out, "error %d %v\n", int32(code), err)
		default:
			panic(err)
		}
		d.out.Flush()
	}
}

// load does what bench/load.cpp does, by Client, Sequence and Operation, with a goroutine for each sequence.
func load(socket string, arguments []string) {
	number := func(i int) int { return must(strconv.Atoi(arguments[i])) }
	count, prompt, tokens, seed := number(0), number(1), number(2), number(3)
	ctx := context.Background()
	client := must(iokv.Dial(&iokv.ConnectOptions{SocketPath: socket, Timeout: -1}))
	defer client.Close()
	sequences := make([]*iokv.Sequence, count)
	for s := range sequences {
		sequences[s] = must(client.Open(ctx, nil))
		begin := make([]int32, prompt)
		for i := range begin {
			begin[i] = int32((uint64(seed+s)*7919 + uint64(i)*104729 + uint64(i)*uint64(i)) % uint64(client.Info().Vocabulary))
		}
		must(sequences[s].Generate(ctx, begin, 1))
	}
	fmt.Println("ready")
	began := time.Now()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		start := time.Since(began)
		drawn := make([]int, count)
		var streams sync.WaitGroup
		for s, sequence := range sequences {
			streams.Add(1)
			go func(s int, sequence *iokv.Sequence) {
				defer streams.Done()
				operation := must(sequence.Step(ctx, &iokv.StepOptions{MaxTokens: uint32(tokens)}))
				operation.All(ctx)(func(token iokv.Completion, err error) bool {
					if err != nil {
						panic(err)
					}
					if token.Sampled() {
						drawn[s]++
					}
					return true
				})
			}(s, sequence)
		}
		streams.Wait()
		end := time.Since(began)
		total := 0
		for _, one := range drawn {
			total += one
		}
		fmt.Printf("{\"tokens\": %d, \"start_ns\": %d, \"end_ns\": %d}\n", total, start.Nanoseconds(), end.Nanoseconds())
		for _, sequence := range sequences {
			if err := sequence.Truncate(ctx, uint32(prompt+1)); err != nil {
				panic(err)
			}
		}
	}
}

func main() {
	if len(os.Args) == 7 && os.Args[1] == "load" {
		load(os.Args[2], os.Args[3:])
	} else {
		serve()
	}
}
