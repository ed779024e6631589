// SPDX-License-Identifier: Apache-2.0

package iokv

// #cgo pkg-config: iokv
// #include <iokv/iokv.h>
import "C"

import "time"

// Sampling is how tokens are drawn; its zero value takes the most probable one. What each does is in iokv_sampling.
type Sampling struct {
	Temperature       float32 // 0 is greedy; otherwise logits are divided by it
	TopP              float32 // 0 or 1: all
	TopK              uint32  // 0: all
	Seed              uint64  // the same seed gives the same text, alone or under load
	MinP              float32 // 0: all
	TypicalP          float32 // 0 or 1: all
	RepetitionPenalty float32 // 0 or 1: none
	PresencePenalty   float32
	FrequencyPenalty  float32
	RepetitionFrom    uint32 // position of the first token that RepetitionPenalty is about
	FrequencyFrom     uint32 // position of the first token that the other two count
	LogitBias         []LogitBias
}

// LogitBias is what is added to the logit of one token.
type LogitBias struct {
	Token int32
	Bias  float32 // -10000 to 10000
}

// TokenLogprob is one of the most probable tokens.
type TokenLogprob struct {
	Token   int32
	Logprob float32 // natural logarithm, of the unmodified distribution
}

// ConnectOptions has iokv_connect_options; its zero value finds the socket as iokv.h says and waits a minute for a
// daemon that loads.
type ConnectOptions struct {
	SocketPath        string
	Name              string        // shown to the administrator, up to 31 bytes
	Timeout           time.Duration // of the whole handshake; 0: a minute; negative: no limit
	Spin              time.Duration // a wait may busy-wait so long before it sleeps
	SubmissionEntries uint32
	CompletionEntries uint32
	ArenaBytes        uint32
	ResultBytes       uint32
}

// OpenOptions has iokv_open_options.
type OpenOptions struct {
	Sampling *Sampling // for every step of the sequence; nil: greedy
	Priority int32     // -100 to 100
	Model    uint32
	Adapter  uint32
}

// StepOptions has iokv_step_options. Slices are copied by the call.
type StepOptions struct {
	Tokens        []int32    // to append
	MaxTokens     uint32     // to sample at the most; 0: append only
	StopTokens    []int32    // sampling one of these ends the step; it is appended and reported
	StopSequences [][]int32  // when what the step has sampled ends with one of these, it ends as with a stop token
	Sampling      *Sampling  // for this step only; nil: the sequence's
	TopLogprobs   uint32     // so many most probable tokens come with each token
	Masks         [][]uint32 // one for each draw: token t may be drawn where bit t % 32 of word t / 32 is set
	Each          bool       // a prediction also for each appended token but the last: verifies drafts
	Logits        bool       // each token comes with the model's logits there
	Priority      int32      // added to the sequence's
	DeadlineNS    uint64     // CLOCK_MONOTONIC; 0: none
}

// Info has iokv_info: facts about the model and limits of this client.
type Info struct {
	ProtocolVersion   uint32
	DaemonInstance    uint64
	ClientID          uint64
	Vocabulary        uint32
	MaxContext        uint32
	Layers            uint32
	Hidden            uint32
	Heads             uint32
	KVHeads           uint32
	HeadDim           uint32
	BeginToken        int32 // -1: none
	EndTokens         []int32
	MaxSequences      uint32
	MaxOperations     uint32
	MaxStepTokens     uint32
	MaxStopTokens     uint32
	SubmissionEntries uint32
	CompletionEntries uint32
	PoolTokens        uint64
	ModelDigest       [32]byte
	TokenizerDigest   [32]byte
	ModelName         string
	DaemonVersion     string
	Features          uint64 // iokv_feature: what this daemon offers
}

// Times is what the time of a completion's step went to: see iokv_times.
type Times struct {
	Queued, Link, Recompute, Dense time.Duration
}

// Completion is an operation's token, prediction or end.
type Completion struct {
	UserData  uint64
	Operation uint64
	Sequence  uint64
	Result    int32 // 0, a count (of a cancellation) or a negative code
	Flags     uint32
	Token     int32
	Logprob   float32  // natural logarithm, of the unmodified distribution
	Index     uint32   // of the sampled token in its step, or of the appended one that a prediction follows
	Length    uint32   // tokens in the sequence after this
	Results   *Results // copies of what else the step asked for, or nil
	times     C.uint64_t
}

// Results is what came beside a token.
type Results struct {
	Logits []float32      // one for each token of the vocabulary
	Top    []TokenLogprob // the most probable first
}

// Logits is one for each token of the vocabulary, if the step asked for them.
func (c *Completion) Logits() []float32 {
	if c.Results == nil {
		return nil
	}
	return c.Results.Logits
}

// Top is the most probable tokens, the most probable first, as many as the step asked for.
func (c *Completion) Top() []TokenLogprob {
	if c.Results == nil {
		return nil
	}
	return c.Results.Top
}

// Final says that the operation has ended with this.
func (c *Completion) Final() bool { return c.Flags&C.IOKV_COMPLETION_MORE == 0 }

// Sampled says that Token was drawn and appended.
func (c *Completion) Sampled() bool { return c.Flags&C.IOKV_COMPLETION_TOKEN != 0 }

// Predicted says that Token is what would follow appended token Index; it was not appended.
func (c *Completion) Predicted() bool { return c.Flags&C.IOKV_COMPLETION_PREDICTED != 0 }

// Stopped says that Token is one of the step's stop tokens, or ends one of its stop sequences.
func (c *Completion) Stopped() bool { return c.Flags&C.IOKV_COMPLETION_STOPPED != 0 }

// Err is the operation's failure, or nil.
func (c *Completion) Err() error {
	if c.Result < 0 {
		return Error(c.Result)
	}
	return nil
}

// Times is false when the completion comes from no step, or the daemon does not say.
func (c *Completion) Times() (Times, bool) {
	raw := C.iokv_times{struct_size: C.sizeof_iokv_times}
	completion := C.iokv_completion{times: c.times}
	if C.iokv_completion_times(&completion, &raw) != 0 {
		return Times{}, false
	}
	return Times{
		time.Duration(raw.queued_ns), time.Duration(raw.link_ns), time.Duration(raw.recompute_ns), time.Duration(raw.dense_ns),
	}, true
}

// Counter is one of the daemon's counters.
type Counter struct {
	Name, Unit, Meaning string
	Value               uint64
}

func infoOf(raw *C.iokv_info) Info {
	info := Info{
		ProtocolVersion:   uint32(raw.protocol_version),
		DaemonInstance:    uint64(raw.daemon_instance),
		ClientID:          uint64(raw.client_id),
		Vocabulary:        uint32(raw.vocabulary),
		MaxContext:        uint32(raw.max_context),
		Layers:            uint32(raw.layers),
		Hidden:            uint32(raw.hidden),
		Heads:             uint32(raw.heads),
		KVHeads:           uint32(raw.kv_heads),
		HeadDim:           uint32(raw.head_dim),
		BeginToken:        int32(raw.begin_token),
		MaxSequences:      uint32(raw.max_sequences),
		MaxOperations:     uint32(raw.max_operations),
		MaxStepTokens:     uint32(raw.max_step_tokens),
		MaxStopTokens:     uint32(raw.max_stop_tokens),
		SubmissionEntries: uint32(raw.submission_entries),
		CompletionEntries: uint32(raw.completion_entries),
		PoolTokens:        uint64(raw.pool_tokens),
		ModelName:         C.GoString(&raw.model_name[0]),
		DaemonVersion:     C.GoString(&raw.daemon_version[0]),
		Features:          uint64(raw.features),
	}
	for i := 0; i < int(raw.end_token_count) && i < len(raw.end_tokens); i++ {
		info.EndTokens = append(info.EndTokens, int32(raw.end_tokens[i]))
	}
	for i := range info.ModelDigest {
		info.ModelDigest[i] = byte(raw.model_digest[i])
		info.TokenizerDigest[i] = byte(raw.tokenizer_digest[i])
	}
	return info
}
