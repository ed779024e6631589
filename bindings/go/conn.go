// SPDX-License-Identifier: Apache-2.0

package iokv

/*
#include <stdlib.h>
#include <string.h>

#include <iokv/iokv.h>

// What holds pointers is put together on this side: Go memory that is passed to C must not hold pointers to Go memory.

// A sampling without its biases, which come beside it; `given` 0: none.
static const iokv_sampling* iokv_go_sampling(iokv_sampling* sampling, const iokv_logit_bias* biases, int given) {
  sampling->logit_bias = biases;
  return given ? sampling : NULL;
}

static int iokv_go_open(iokv_client* client, iokv_open_options options, iokv_sampling sampling, int given,
                        const iokv_logit_bias* biases, iokv_sequence* sequence, iokv_operation* operation) {
  options.sampling = iokv_go_sampling(&sampling, biases, given);
  return iokv_open(client, &options, sequence, operation);
}

// The same for a step; what it samples goes to `sampled` where that is not NULL.
static int iokv_go_step(iokv_client* client, iokv_sequence sequence, iokv_step_options options, const int32_t* tokens,
                        const int32_t* stop_tokens, const int32_t* stop_sequences, const uint32_t* stop_lengths,
                        const uint32_t* masks, iokv_sampling sampling, int given, const iokv_logit_bias* biases,
                        iokv_operation* operation, int32_t* sampled, uint32_t capacity, uint32_t* count) {
  options.tokens = tokens;
  options.stop_tokens = stop_tokens;
  options.stop_sequences = stop_sequences;
  options.stop_sequence_lengths = stop_lengths;
  options.masks = masks;
  options.sampling = iokv_go_sampling(&sampling, biases, given);
  if (operation != NULL) return iokv_step(client, sequence, &options, operation);
  return iokv_generate(client, sequence, &options, sampled, capacity, count);
}
*/
import "C"

import (
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

const reapAtOnce = 256

// Conn is the C ABI call for call. One goroutine may be in the submitting calls and one in the reaping calls at a time; a
// second one gets ErrBusy. After Close every call returns ErrClosed.
type Conn struct {
	life                sync.RWMutex // read: in a call; write: disconnecting
	client              *C.iokv_client
	closing             atomic.Bool
	submitting, reaping atomic.Bool
	completions         *C.iokv_completion // reapAtOnce of them, in C memory: one reap fills it, nothing is pinned
	info                Info
}

// Connect connects, and waits until the daemon is ready. options may be nil.
func Connect(options *ConnectOptions) (*Conn, error) {
	if options == nil {
		options = &ConnectOptions{}
	}
	raw := C.iokv_connect_options{
		struct_size:        C.sizeof_iokv_connect_options,
		timeout_ns:         C.int64_t(options.Timeout),
		spin_ns:            C.uint64_t(options.Spin),
		submission_entries: C.uint32_t(options.SubmissionEntries),
		completion_entries: C.uint32_t(options.CompletionEntries),
		arena_bytes:        C.uint32_t(options.ArenaBytes),
		result_bytes:       C.uint32_t(options.ResultBytes),
	}
	if options.SocketPath != "" {
		raw.socket_path = C.CString(options.SocketPath)
		defer C.free(unsafe.Pointer(raw.socket_path))
	}
	if options.Name != "" {
		raw.name = C.CString(options.Name)
		defer C.free(unsafe.Pointer(raw.name))
	}
	detail := C.iokv_error_detail{struct_size: C.sizeof_iokv_error_detail}
	conn := &Conn{}
	if code := C.iokv_connect(&raw, &conn.client, &detail); code != 0 {
		return nil, &DetailedError{Error(code), C.GoString(&detail.message[0])}
	}
	info := C.iokv_info{struct_size: C.sizeof_iokv_info}
	if code := C.iokv_get_info(conn.client, &info); code != 0 {
		C.iokv_disconnect(conn.client)
		return nil, Error(code)
	}
	conn.info = infoOf(&info)
	conn.completions = (*C.iokv_completion)(C.calloc(reapAtOnce, C.sizeof_iokv_completion))
	runtime.SetFinalizer(conn, func(conn *Conn) { conn.Close() })
	return conn, nil
}

// Close ends the connection: what is outstanding is cancelled, every sequence closed, waits end with ErrClosed. Calling it
// again does nothing.
func (c *Conn) Close() error {
	if c.closing.Swap(true) {
		return nil
	}
	c.life.RLock()
	C.iokv_wake(c.client)
	c.life.RUnlock()
	c.life.Lock()
	defer c.life.Unlock()
	C.iokv_disconnect(c.client)
	C.free(unsafe.Pointer(c.completions))
	c.client, c.completions = nil, nil
	runtime.SetFinalizer(c, nil)
	return nil
}

// Info has facts about the model and limits of this client.
func (c *Conn) Info() *Info { return &c.info }

// enter begins a call; leave ends it. roles are the roles that the call has.
func (c *Conn) enter(roles ...*atomic.Bool) error {
	c.life.RLock()
	if c.closing.Load() || c.client == nil {
		c.life.RUnlock()
		return ErrClosed
	}
	for i, role := range roles {
		if !role.CompareAndSwap(false, true) {
			for _, taken := range roles[:i] {
				taken.Store(false)
			}
			c.life.RUnlock()
			return fmt.Errorf("another goroutine is in a call of this connection that only one may be in: %w", ErrBusy)
		}
	}
	return nil
}

func (c *Conn) leave(roles ...*atomic.Bool) {
	for _, role := range roles {
		role.Store(false)
	}
	c.life.RUnlock()
}

// rawSampling is what a sampling is but for its biases, and whether there is one.
func rawSampling(sampling *Sampling) (C.iokv_sampling, C.int) {
	if sampling == nil {
		return C.iokv_sampling{}, 0
	}
	return C.iokv_sampling{
		struct_size:        C.sizeof_iokv_sampling,
		temperature:        C.float(sampling.Temperature),
		top_p:              C.float(sampling.TopP),
		top_k:              C.uint32_t(sampling.TopK),
		seed:               C.uint64_t(sampling.Seed),
		min_p:              C.float(sampling.MinP),
		typical_p:          C.float(sampling.TypicalP),
		repetition_penalty: C.float(sampling.RepetitionPenalty),
		presence_penalty:   C.float(sampling.PresencePenalty),
		frequency_penalty:  C.float(sampling.FrequencyPenalty),
		repetition_from:    C.uint32_t(sampling.RepetitionFrom),
		frequency_from:     C.uint32_t(sampling.FrequencyFrom),
		logit_bias_count:   C.uint32_t(len(sampling.LogitBias)),
	}, 1
}

func rawBiases(sampling *Sampling) *C.iokv_logit_bias {
	if sampling == nil || len(sampling.LogitBias) == 0 {
		return nil
	}
	biases := make([]C.iokv_logit_bias, len(sampling.LogitBias))
	for i, bias := range sampling.LogitBias {
		biases[i] = C.iokv_logit_bias{C.int32_t(bias.Token), C.float(bias.Bias)}
	}
	return &biases[0]
}

func rawTokens(tokens []int32) *C.int32_t {
	if len(tokens) == 0 {
		return nil
	}
	return (*C.int32_t)(&tokens[0])
}

func rawWords(words []uint32) *C.uint32_t {
	if len(words) == 0 {
		return nil
	}
	return (*C.uint32_t)(&words[0])
}

// step places STEP, or where operation is nil generates into sampled. In a call.
func (c *Conn) step(sequence uint64, options *StepOptions, userData uint64, operation *C.iokv_operation, sampled []int32,
	count *C.uint32_t) error {
	for _, length := range []int{len(options.Tokens), len(options.StopTokens), len(options.StopSequences), len(options.Masks)} {
		if length > math.MaxUint32 {
			return ErrInvalidArgument
		}
	}
	raw := C.iokv_step_options{
		struct_size:         C.sizeof_iokv_step_options,
		user_data:           C.uint64_t(userData),
		token_count:         C.uint32_t(len(options.Tokens)),
		max_tokens:          C.uint32_t(options.MaxTokens),
		stop_token_count:    C.uint32_t(len(options.StopTokens)),
		stop_sequence_count: C.uint32_t(len(options.StopSequences)),
		top_logprobs:        C.uint32_t(options.TopLogprobs),
		mask_count:          C.uint32_t(len(options.Masks)),
		priority:            C.int32_t(options.Priority),
		deadline_ns:         C.uint64_t(options.DeadlineNS),
	}
	if options.Each {
		raw.flags |= C.IOKV_STEP_EACH
	}
	if options.Logits {
		raw.flags |= C.IOKV_STEP_LOGITS
	}
	var stops []int32
	var lengths, words []uint32
	for _, stop := range options.StopSequences {
		stops = append(stops, stop...)
		lengths = append(lengths, uint32(len(stop)))
	}
	for _, mask := range options.Masks {
		if len(mask) != len(options.Masks[0]) {
			return &DetailedError{ErrMask, "the masks of a step have different lengths"}
		}
		raw.mask_words = C.uint32_t(len(mask))
		words = append(words, mask...)
	}
	sampling, given := rawSampling(options.Sampling)
	code := C.iokv_go_step(c.client, C.iokv_sequence(sequence), raw, rawTokens(options.Tokens), rawTokens(options.StopTokens),
		rawTokens(stops), rawWords(lengths), rawWords(words), sampling, given, rawBiases(options.Sampling), operation,
		rawTokens(sampled), C.uint32_t(len(sampled)), count)
	return c.placed(code)
}

// placed is the failure of an open or step, with the line that names the argument and its range. In a call.
func (c *Conn) placed(code C.int) error {
	if code >= 0 {
		return nil
	}
	detail := C.iokv_error_detail{struct_size: C.sizeof_iokv_error_detail}
	if C.iokv_last_failure(c.client, &detail) != 0 || detail.code != C.int32_t(code) || detail.message[0] == 0 {
		return Error(code)
	}
	return &DetailedError{Error(code), C.GoString(&detail.message[0])}
}

// Open places OPEN: the sequence, usable at once, and the operation. options may be nil.
func (c *Conn) Open(options *OpenOptions, userData uint64) (sequence, operation uint64, err error) {
	if err := c.enter(&c.submitting); err != nil {
		return 0, 0, err
	}
	defer c.leave(&c.submitting)
	if options == nil {
		options = &OpenOptions{}
	}
	raw := C.iokv_open_options{
		struct_size: C.sizeof_iokv_open_options,
		user_data:   C.uint64_t(userData),
		model:       C.uint32_t(options.Model),
		adapter:     C.uint32_t(options.Adapter),
		priority:    C.int32_t(options.Priority),
	}
	var s C.iokv_sequence
	var o C.iokv_operation
	sampling, given := rawSampling(options.Sampling)
	code := C.iokv_go_open(c.client, raw, sampling, given, rawBiases(options.Sampling), &s, &o)
	return uint64(s), uint64(o), c.placed(code)
}

// Step places STEP: append, then sample.
func (c *Conn) Step(sequence uint64, options *StepOptions, userData uint64) (operation uint64, err error) {
	if err := c.enter(&c.submitting); err != nil {
		return 0, err
	}
	defer c.leave(&c.submitting)
	var o C.iokv_operation
	err = c.step(sequence, options, userData, &o, nil, nil)
	return uint64(o), err
}

// WholeSequence makes Fork take all of its parent.
const WholeSequence = math.MaxUint32

// Fork places FORK of the parent's first tokens tokens.
func (c *Conn) Fork(parent uint64, tokens uint32, userData uint64) (child, operation uint64, err error) {
	if err := c.enter(&c.submitting); err != nil {
		return 0, 0, err
	}
	defer c.leave(&c.submitting)
	var s C.iokv_sequence
	var o C.iokv_operation
	_, err = check(C.iokv_fork(c.client, C.iokv_sequence(parent), C.uint32_t(tokens), C.uint64_t(userData), &s, &o))
	return uint64(s), uint64(o), err
}

// place is a submitting call that gives an operation.
func (c *Conn) place(call func(operation *C.iokv_operation) C.int) (uint64, error) {
	if err := c.enter(&c.submitting); err != nil {
		return 0, err
	}
	defer c.leave(&c.submitting)
	var o C.iokv_operation
	_, err := check(call(&o))
	return uint64(o), err
}

// Truncate places TRUNCATE: drop every token from position length on.
func (c *Conn) Truncate(sequence uint64, length uint32, userData uint64) (operation uint64, err error) {
	return c.place(func(o *C.iokv_operation) C.int {
		return C.iokv_truncate(c.client, C.iokv_sequence(sequence), C.uint32_t(length), C.uint64_t(userData), o)
	})
}

// Cancel places CANCEL of one operation, or with target 0 of all of the sequence's.
func (c *Conn) Cancel(sequence, target, userData uint64) (operation uint64, err error) {
	return c.place(func(o *C.iokv_operation) C.int {
		return C.iokv_cancel(c.client, C.iokv_sequence(sequence), C.iokv_operation(target), C.uint64_t(userData), o)
	})
}

// CloseSequence places CLOSE.
func (c *Conn) CloseSequence(sequence, userData uint64) (operation uint64, err error) {
	return c.place(func(o *C.iokv_operation) C.int {
		return C.iokv_close(c.client, C.iokv_sequence(sequence), C.uint64_t(userData), o)
	})
}

// Nop places NOP.
func (c *Conn) Nop(userData uint64) (operation uint64, err error) {
	return c.place(func(o *C.iokv_operation) C.int { return C.iokv_nop(c.client, C.uint64_t(userData), o) })
}

// Submit makes placed entries visible to the daemon; how many.
func (c *Conn) Submit() (int, error) {
	if err := c.enter(&c.submitting); err != nil {
		return 0, err
	}
	defer c.leave(&c.submitting)
	return check(C.iokv_submit(c.client))
}

// Reap fills the front of into, up to 256, and returns how many it has filled, waiting up to timeout (negative: without
// limit) for the first; 0 only with a time-out of 0. Logits are copied out, and their space is given back.
func (c *Conn) Reap(into []Completion, timeout time.Duration) (int, error) {
	if err := c.enter(&c.reaping); err != nil {
		return 0, err
	}
	defer c.leave(&c.reaping)
	capacity := len(into)
	if capacity > reapAtOnce {
		capacity = reapAtOnce
	}
	count, err := check(C.iokv_reap(c.client, c.completions, C.uint32_t(capacity), C.int64_t(timeout)))
	if err != nil {
		if c.closing.Load() {
			err = ErrClosed
		}
		return 0, err
	}
	raw := unsafe.Slice(c.completions, reapAtOnce)
	for i := 0; i < count; i++ {
		r := &raw[i]
		into[i] = Completion{
			UserData:  uint64(r.user_data),
			Operation: uint64(r.operation),
			Sequence:  uint64(r.sequence),
			Result:    int32(r.result),
			Flags:     uint32(r.flags),
			Token:     int32(r.token),
			Logprob:   float32(r.logprob),
			Index:     uint32(r.index),
			Length:    uint32(r.length),
			times:     r.times,
		}
		if r.flags&(C.IOKV_COMPLETION_LOGITS|C.IOKV_COMPLETION_TOP) != 0 {
			if into[i].Results, err = c.takeResults(r); err != nil {
				return i, err
			}
		}
	}
	return count, nil
}

// takeResults copies what came beside a completion, and gives its space back.
func (c *Conn) takeResults(completion *C.iokv_completion) (*Results, error) {
	results := &Results{}
	var failed error
	if completion.flags&C.IOKV_COMPLETION_LOGITS != 0 {
		view := C.iokv_logits_view{struct_size: C.sizeof_iokv_logits_view}
		if _, failed = check(C.iokv_logits(c.client, completion, &view)); failed == nil && view.dtype != C.IOKV_F32 {
			failed = ErrUnsupported
		}
		if failed == nil {
			results.Logits = append(results.Logits, unsafe.Slice((*float32)(view.data), int(view.count))...)
		}
	}
	if completion.flags&C.IOKV_COMPLETION_TOP != 0 && failed == nil {
		var entries *C.iokv_token_logprob
		var count C.uint32_t
		_, failed = check(C.iokv_top_logprobs(c.client, completion, &entries, &count))
		for _, entry := range unsafe.Slice(entries, int(count)) {
			results.Top = append(results.Top, TokenLogprob{int32(entry.token), float32(entry.logprob)})
		}
	}
	if _, err := check(C.iokv_release(c.client, completion)); failed == nil {
		failed = err
	}
	return results, failed
}

// FD is the descriptor to poll for readability; never read, write or close it. Any goroutine.
func (c *Conn) FD() (int, error) {
	if err := c.enter(); err != nil {
		return 0, err
	}
	defer c.leave()
	return check(C.iokv_fd(c.client))
}

// Wake ends a present or the next wait of Reap with ErrWoken. Any goroutine.
func (c *Conn) Wake() error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.leave()
	_, err := check(C.iokv_wake(c.client))
	return err
}

// Outstanding is how many operations have a final completion that was not reaped. Any goroutine.
func (c *Conn) Outstanding() int {
	if c.enter() != nil {
		return 0
	}
	defer c.leave()
	return int(C.iokv_outstanding(c.client))
}

// EndReason says why the connection ended, once a call has returned ErrClosed. Any goroutine.
func (c *Conn) EndReason() (*DetailedError, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.leave()
	detail := C.iokv_error_detail{struct_size: C.sizeof_iokv_error_detail}
	if _, err := check(C.iokv_end_reason(c.client, &detail)); err != nil {
		return nil, err
	}
	return &DetailedError{Error(detail.code), C.GoString(&detail.message[0])}, nil
}

// Generate is one blocking step with nothing else outstanding; the sampled tokens, those before a failure included. Both
// roles.
func (c *Conn) Generate(sequence uint64, options *StepOptions) ([]int32, error) {
	if err := c.enter(&c.submitting, &c.reaping); err != nil {
		return nil, err
	}
	defer c.leave(&c.submitting, &c.reaping)
	sampled := make([]int32, options.MaxTokens)
	var count C.uint32_t
	err := c.step(sequence, options, 0, nil, sampled, &count)
	return sampled[:count], err
}

// TokenBytes is the text of a token, which may be part of a UTF-8 character. The first call fetches all texts from the
// daemon. Both roles.
func (c *Conn) TokenBytes(token int32) ([]byte, error) {
	if err := c.enter(&c.submitting, &c.reaping); err != nil {
		return nil, err
	}
	defer c.leave(&c.submitting, &c.reaping)
	return c.tokenBytes(nil, token)
}

// tokenBytes appends a token's bytes to dst. In a call.
func (c *Conn) tokenBytes(dst []byte, token int32) ([]byte, error) {
	var bytes *C.uint8_t
	var size C.uint32_t
	if _, err := check(C.iokv_token_bytes(c.client, C.int32_t(token), &bytes, &size)); err != nil {
		return dst, err
	}
	return append(dst, unsafe.Slice((*byte)(bytes), int(size))...), nil
}

// TokenizerFile is tokenizer.json as HF `tokenizers` reads it; empty when the model came without it. Both roles.
func (c *Conn) TokenizerFile() ([]byte, error) { return c.text(C.IOKV_TEXT_TOKENIZER) }

// ChatTemplate is the model's Jinja chat template; empty when it came without one. Both roles.
func (c *Conn) ChatTemplate() ([]byte, error) { return c.text(C.IOKV_TEXT_CHAT_TEMPLATE) }

func (c *Conn) text(file C.int) ([]byte, error) {
	if err := c.enter(&c.submitting, &c.reaping); err != nil {
		return nil, err
	}
	defer c.leave(&c.submitting, &c.reaping)
	var bytes *C.uint8_t
	var size C.uint64_t
	if _, err := check(C.iokv_text(c.client, file, &bytes, &size)); err != nil {
		return nil, err
	}
	return append([]byte{}, unsafe.Slice((*byte)(bytes), int(size))...), nil
}

// Counters reads the daemon's counters from memory that it shares. Both roles.
func (c *Conn) Counters() ([]Counter, error) {
	if err := c.enter(&c.submitting, &c.reaping); err != nil {
		return nil, err
	}
	defer c.leave(&c.submitting, &c.reaping)
	var found []Counter
	for {
		var raw C.iokv_counter
		_, err := check(C.iokv_get_counter(c.client, C.uint32_t(len(found)), &raw))
		if err == ErrInvalidArgument && len(found) > 0 {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		found = append(found, Counter{C.GoString(raw.name), C.GoString(raw.unit), C.GoString(raw.meaning), uint64(raw.value)})
	}
}
