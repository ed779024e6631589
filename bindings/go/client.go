// SPDX-License-Identifier: Apache-2.0

// Package iokv is the client of iokvd, a daemon that decodes language models for any number of local processes.
//
// Client, Sequence and Operation are for any number of goroutines: one goroutine of the client reaps for all, in one call
// for each time that it is woken, and hands each token to whom it belongs. Every wait has a context; when that ends, the
// operation is cancelled. Conn is the C ABI call for call.
package iokv

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// Client is a connection whose operations look after themselves. All of its methods, and those of what came from it, are for
// any goroutine at any time.
type Client struct {
	conn *Conn

	submitting sync.Mutex // whoever places; makes an operation known before the daemon can see it

	mutex   sync.Mutex
	waiting map[uint64]*Operation
	room    chan struct{} // closed at the next reap, if somebody asked
	ended   error         // why nothing more will come
	bell    *os.File      // readable when there may be something to reap
	errands chan func()   // for the reaping goroutine, between two waits
	done    chan struct{} // the reaping goroutine has ended

	fetched sync.Once // the vocabulary
	absent  error     // why there is none
}

// Dial connects, and waits until the daemon is ready. options may be nil.
func Dial(options *ConnectOptions) (*Client, error) {
	conn, err := Connect(options)
	if err != nil {
		return nil, err
	}
	client := &Client{
		conn: conn, waiting: map[uint64]*Operation{}, errands: make(chan func(), 1), done: make(chan struct{}),
	}
	fd, err := conn.FD()
	if err == nil {
		client.bell, err = watch(fd)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	go client.reap()
	return client, nil
}

// watch makes a file that the runtime's poller can wait for, readable when fd is. The descriptor itself stays the library's:
// the poller wants those that never block, which this one may.
func watch(fd int) (*os.File, error) {
	set, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
	if err := syscall.EpollCtl(set, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
		syscall.Close(set)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	if err := syscall.SetNonblock(set, true); err != nil {
		syscall.Close(set)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(set), "iokv"), nil
}

// Close ends the connection: what is outstanding fails with ErrClosed, every sequence is closed. Calling it again does nothing.
func (c *Client) Close() error {
	err := c.conn.Close()
	c.ring()
	<-c.done
	return err
}

// Info has facts about the model and limits of this client.
func (c *Client) Info() *Info { return c.conn.Info() }

// Open opens an empty sequence and waits for it. options may be nil.
func (c *Client) Open(ctx context.Context, options *OpenOptions) (*Sequence, error) {
	return c.sequence(ctx, func() (uint64, uint64, error) { return c.conn.Open(options, 0) })
}

// Nop is a round trip through the daemon that does nothing.
func (c *Client) Nop(ctx context.Context) error {
	operation, err := c.place(ctx, 0, func() (uint64, error) { return c.conn.Nop(0) })
	if err != nil {
		return err
	}
	_, err = operation.Wait(ctx)
	return err
}

// TokenBytes is the text of a token, which may be part of a UTF-8 character.
func (c *Client) TokenBytes(token int32) ([]byte, error) { return c.AppendTokenBytes(nil, token) }

// AppendTokenBytes appends a token's text to dst. The first call fetches all texts from the daemon. ErrBadToken,
// ErrUnsupported: the model has none.
func (c *Client) AppendTokenBytes(dst []byte, token int32) ([]byte, error) {
	c.fetched.Do(func() {
		c.absent = c.exclusively(func() error {
			_, err := c.conn.TokenBytes(0)
			return err
		})
	})
	if c.absent != nil {
		return dst, c.absent
	}
	if err := c.conn.enter(); err != nil {
		return dst, err
	}
	defer c.conn.leave()
	return c.conn.tokenBytes(dst, token)
}

// TokenizerFile is tokenizer.json as HF `tokenizers` reads it; empty when the model came without it.
func (c *Client) TokenizerFile() (text []byte, err error) {
	err = c.exclusively(func() (err error) { text, err = c.conn.TokenizerFile(); return })
	return
}

// ChatTemplate is the model's Jinja chat template; empty when it came without one.
func (c *Client) ChatTemplate() (text []byte, err error) {
	err = c.exclusively(func() (err error) { text, err = c.conn.ChatTemplate(); return })
	return
}

// Counters reads the daemon's counters from memory that it shares.
func (c *Client) Counters() (counters []Counter, err error) {
	err = c.exclusively(func() (err error) { counters, err = c.conn.Counters(); return })
	return
}

// Outstanding is how many operations have not ended.
func (c *Client) Outstanding() int { return c.conn.Outstanding() }

// ring ends the reaping goroutine's wait.
func (c *Client) ring() {
	// It fails when that goroutine has ended.
	_ = c.bell.SetReadDeadline(time.Unix(1, 0))
}

// exclusively runs call with both roles: it has the submitting one, and lets the reaping goroutine run it.
func (c *Client) exclusively(call func() error) error {
	c.submitting.Lock()
	defer c.submitting.Unlock()
	done := make(chan error, 1)
	select {
	case c.errands <- func() { done <- call() }:
	case <-c.done:
		return c.reason()
	}
	c.ring()
	select {
	case err := <-done:
		return err
	case <-c.done:
		return c.reason()
	}
}

func (c *Client) reason() error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.ended
}

// reap runs in the client's goroutine until the connection ends. It waits with the runtime's poller: a thread that sleeps in a
// call of C would have to give its processor away and find another one for each step.
func (c *Client) reap() {
	defer close(c.done)
	defer c.bell.Close()
	completions := make([]Completion, reapAtOnce)
	bell, err := c.bell.SyscallConn()
	for err == nil {
		count, failed := 0, error(nil)
		rung := bell.Read(func(uintptr) bool {
			count, failed = c.conn.Reap(completions, 0)
			return count != 0 || failed != nil
		})
		switch {
		case failed != nil && !errors.Is(failed, ErrWoken):
			err = failed
		case count > 0:
			c.deliver(completions[:count])
		case errors.Is(rung, os.ErrDeadlineExceeded):
			err = c.bell.SetReadDeadline(time.Time{})
		default:
			err = rung
		}
		select {
		case errand := <-c.errands:
			errand()
		default:
		}
	}
	c.end(err)
}

func (c *Client) deliver(completions []Completion) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for i := range completions {
		completion := &completions[i]
		operation := c.waiting[completion.Operation]
		if completion.Final() {
			delete(c.waiting, completion.Operation)
		}
		if operation != nil {
			operation.deliver(completion)
		}
	}
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
}

// end says to everybody why nothing more will come.
func (c *Client) end(err error) {
	if reason, failed := c.conn.EndReason(); failed == nil && errors.Is(err, ErrClosed) {
		err = &DetailedError{ErrClosed, reason.Message}
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.ended = err
	for id, operation := range c.waiting {
		operation.lose(err)
		delete(c.waiting, id)
	}
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
}

// place places by call, waiting for room where there is none, and submits.
func (c *Client) place(ctx context.Context, sequence uint64, call func() (uint64, error)) (*Operation, error) {
	for {
		operation, room, err := c.tryPlace(sequence, call)
		if room == nil {
			return operation, err
		}
		select {
		case <-room:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// tryPlace returns the channel to wait on for room when there is none.
func (c *Client) tryPlace(sequence uint64, call func() (uint64, error)) (*Operation, <-chan struct{}, error) {
	c.submitting.Lock()
	defer c.submitting.Unlock()
	c.mutex.Lock()
	ended := c.ended
	if c.room == nil {
		c.room = make(chan struct{})
	}
	// Asked for before the call, so that what is reaped after it is not missed.
	room := c.room
	c.mutex.Unlock()
	if ended != nil {
		return nil, nil, ended
	}
	id, err := call()
	if errors.Is(err, ErrTryAgain) {
		if _, err := c.conn.Submit(); err != nil {
			return nil, nil, err
		}
		return nil, room, nil
	}
	if err != nil {
		return nil, nil, err
	}
	operation := &Operation{client: c, sequence: sequence, id: id, news: make(chan struct{}, 1)}
	c.mutex.Lock()
	// The daemon may have gone since.
	if c.ended == nil {
		c.waiting[id] = operation
	} else {
		operation.lose(c.ended)
	}
	c.mutex.Unlock()
	_, err = c.conn.Submit()
	if err != nil {
		return nil, nil, err
	}
	return operation, nil, nil
}

func (c *Client) sequence(ctx context.Context, call func() (uint64, uint64, error)) (*Sequence, error) {
	var id uint64
	operation, err := c.place(ctx, 0, func() (operation uint64, err error) {
		id, operation, err = call()
		return operation, err
	})
	if err != nil {
		return nil, err
	}
	if _, err := operation.Wait(ctx); err != nil {
		return nil, err
	}
	return &Sequence{client: c, id: id}, nil
}

// Sequence is a growing list of tokens that the daemon keeps.
type Sequence struct {
	client *Client
	id     uint64

	mutex  sync.Mutex
	closed bool
}

// ID is its id, as in completions.
func (s *Sequence) ID() uint64 { return s.id }

func (s *Sequence) place(ctx context.Context, call func() (uint64, error)) (*Operation, error) {
	s.mutex.Lock()
	closed := s.closed
	s.mutex.Unlock()
	if closed {
		return nil, ErrNoSuchSequence
	}
	return s.client.place(ctx, s.id, call)
}

// Step appends tokens, then samples; waits only for room in the ring.
func (s *Sequence) Step(ctx context.Context, options *StepOptions) (*Operation, error) {
	return s.place(ctx, func() (uint64, error) { return s.client.conn.Step(s.id, options, 0) })
}

// Append appends without sampling and waits; the new length.
func (s *Sequence) Append(ctx context.Context, tokens []int32) (uint32, error) {
	operation, err := s.Step(ctx, &StepOptions{Tokens: tokens})
	if err != nil {
		return 0, err
	}
	end, err := operation.Wait(ctx)
	return end.Length, err
}

// Generate appends, samples up to maxTokens and waits; the sampled tokens, those before a failure included.
func (s *Sequence) Generate(ctx context.Context, tokens []int32, maxTokens uint32) ([]int32, error) {
	operation, err := s.Step(ctx, &StepOptions{Tokens: tokens, MaxTokens: maxTokens})
	if err != nil {
		return nil, err
	}
	var sampled []int32
	for {
		token, err := operation.Next(ctx)
		if err == io.EOF {
			return sampled, nil
		}
		if err != nil {
			return sampled, err
		}
		sampled = append(sampled, token.Token)
	}
}

// Fork makes a new sequence that begins with the first tokens tokens of this one (WholeSequence: all), and waits.
func (s *Sequence) Fork(ctx context.Context, tokens uint32) (*Sequence, error) {
	s.mutex.Lock()
	closed := s.closed
	s.mutex.Unlock()
	if closed {
		return nil, ErrNoSuchSequence
	}
	return s.client.sequence(ctx, func() (uint64, uint64, error) { return s.client.conn.Fork(s.id, tokens, 0) })
}

// Truncate drops every token from position length on, and waits.
func (s *Sequence) Truncate(ctx context.Context, length uint32) error {
	operation, err := s.place(ctx, func() (uint64, error) { return s.client.conn.Truncate(s.id, length, 0) })
	if err != nil {
		return err
	}
	_, err = operation.Wait(ctx)
	return err
}

// Cancel cancels all of the sequence's operations and waits; how many.
func (s *Sequence) Cancel(ctx context.Context) (int, error) { return s.cancel(ctx, 0) }

func (s *Sequence) cancel(ctx context.Context, target uint64) (int, error) {
	operation, err := s.place(ctx, func() (uint64, error) { return s.client.conn.Cancel(s.id, target, 0) })
	if err != nil {
		return 0, err
	}
	end, err := operation.Wait(ctx)
	return int(end.Result), err
}

// Close cancels what is outstanding and frees the sequence; does not wait. Calling it again does nothing.
func (s *Sequence) Close() error {
	s.mutex.Lock()
	closed := s.closed
	s.closed = true
	s.mutex.Unlock()
	if closed {
		return nil
	}
	_, err := s.client.place(context.Background(), s.id, func() (uint64, error) { return s.client.conn.CloseSequence(s.id, 0) })
	return err
}

// Operation is a submitted operation.
type Operation struct {
	client   *Client
	sequence uint64
	id       uint64
	news     chan struct{} // something has come; one is enough

	mutex   sync.Mutex
	arrived []Completion // with a token
	taken   int          // of these
	end     *Completion
	lost    error
}

// ID is its id, as in completions.
func (o *Operation) ID() uint64 { return o.id }

func (o *Operation) deliver(completion *Completion) {
	o.mutex.Lock()
	if completion.Sampled() || completion.Predicted() {
		o.arrived = append(o.arrived, *completion)
	}
	if completion.Final() {
		end := *completion
		o.end = &end
	}
	o.mutex.Unlock()
	o.tell()
}

func (o *Operation) lose(err error) {
	o.mutex.Lock()
	o.lost = err
	o.mutex.Unlock()
	o.tell()
}

func (o *Operation) tell() {
	select {
	case o.news <- struct{}{}:
	default:
	}
}

// await waits until look has found what it looks for. When ctx ends before, the operation is cancelled.
func (o *Operation) await(ctx context.Context, look func() bool) error {
	for {
		o.mutex.Lock()
		found := look()
		more := o.taken < len(o.arrived) || o.end != nil || o.lost != nil
		o.mutex.Unlock()
		if found {
			if more {
				o.tell() // others may wait for the same operation
			}
			return nil
		}
		if done := ctx.Done(); done == nil {
			<-o.news // half the time of a select
		} else {
			select {
			case <-o.news:
			case <-done:
				o.Cancel()
				return ctx.Err()
			}
		}
	}
}

// Next waits for the next token. At the end it returns io.EOF, or the operation's failure. When ctx ends before, the
// operation is cancelled and ctx.Err() returned.
func (o *Operation) Next(ctx context.Context) (token Completion, err error) {
	failed := o.await(ctx, func() bool {
		switch {
		case o.taken < len(o.arrived):
			token = o.arrived[o.taken]
			if o.taken++; o.taken == len(o.arrived) {
				o.arrived, o.taken = o.arrived[:0], 0
			}
		case o.end != nil:
			if err = o.end.Err(); err == nil {
				err = io.EOF
			}
		case o.lost != nil:
			err = o.lost
		default:
			return false
		}
		return true
	})
	if failed != nil {
		err = failed
	}
	return token, err
}

// All is the tokens for a range statement of Go 1.23 and later: `for token, err := range operation.All(ctx)`. A failure is
// the last pair. When the loop is left before, the operation is cancelled.
func (o *Operation) All(ctx context.Context) func(yield func(Completion, error) bool) {
	return func(yield func(Completion, error) bool) {
		for {
			token, err := o.Next(ctx)
			if err == io.EOF {
				return
			}
			if !yield(token, err) || err != nil {
				o.Cancel()
				return
			}
		}
	}
}

// Tokens is the tokens as a channel, closed at the end; Wait then has the failure, if there was one. When ctx ends, the
// operation is cancelled and the channel closed.
func (o *Operation) Tokens(ctx context.Context) <-chan Completion {
	tokens := make(chan Completion)
	go func() {
		defer close(tokens)
		for {
			token, err := o.Next(ctx)
			if err != nil {
				return
			}
			select {
			case tokens <- token:
			case <-ctx.Done():
				o.Cancel()
				return
			}
		}
	}()
	return tokens
}

// Wait waits for the end; the final completion and the operation's failure. Tokens can be taken afterwards. When ctx ends
// before, the operation is cancelled and ctx.Err() returned.
func (o *Operation) Wait(ctx context.Context) (end Completion, err error) {
	failed := o.await(ctx, func() bool {
		switch {
		case o.end != nil:
			end, err = *o.end, o.end.Err()
		case o.lost != nil:
			err = o.lost
		default:
			return false
		}
		return true
	})
	if failed != nil {
		err = failed
	}
	return end, err
}

// Cancel cancels the operation, which then ends with ErrCanceled; does not wait. Of an ended one it does nothing.
func (o *Operation) Cancel() {
	o.mutex.Lock()
	ended := o.end != nil || o.lost != nil
	o.mutex.Unlock()
	if ended || o.sequence == 0 {
		return
	}
	// Its own completion is nobody's. It fails only with the connection, and then there is nothing to cancel.
	_, _ = o.client.place(context.Background(), o.sequence, func() (uint64, error) {
		return o.client.conn.Cancel(o.sequence, o.id, 0)
	})
}
