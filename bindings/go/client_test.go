// SPDX-License-Identifier: Apache-2.0

package iokv

// The package as its users see it, beside the daemon that $IOKV_SOCKET names (tests/conformance/with_daemon.py).

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

var prompt = []int32{5, 6, 7, 8}

func dial(t *testing.T, options *ConnectOptions) *Client {
	t.Helper()
	client, err := Dial(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func open(t *testing.T, client *Client) *Sequence {
	t.Helper()
	sequence, err := client.Open(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return sequence
}

func step(t *testing.T, sequence *Sequence, options *StepOptions) *Operation {
	t.Helper()
	operation, err := sequence.Step(context.Background(), options)
	if err != nil {
		t.Fatal(err)
	}
	return operation
}

func generate(t *testing.T, sequence *Sequence, tokens []int32, most uint32) []int32 {
	t.Helper()
	sampled, err := sequence.Generate(context.Background(), tokens, most)
	if err != nil {
		t.Fatal(err)
	}
	return sampled
}

func want(t *testing.T, err, wanted error) {
	t.Helper()
	if !errors.Is(err, wanted) {
		t.Fatalf("error %v, not %v", err, wanted)
	}
}

func TestStreamsWhatItGeneratesAndTokensHaveTexts(t *testing.T) {
	client := dial(t, nil)
	var tokens []int32
	var text, wanted []byte
	step(t, open(t, client), &StepOptions{Tokens: prompt, MaxTokens: 8}).All(context.Background())(
		func(token Completion, err error) bool {
			if err == nil {
				text, err = client.AppendTokenBytes(text, token.Token)
			}
			if err != nil {
				t.Error(err)
			}
			wanted = append(wanted, fmt.Sprintf("<%d> ", token.Token)...)
			tokens = append(tokens, token.Token)
			return true
		})
	if alone := generate(t, open(t, client), prompt, 8); !reflect.DeepEqual(tokens, alone) {
		t.Fatalf("streamed %v, generated %v", tokens, alone)
	}
	if string(text) != string(wanted) {
		t.Fatalf("the text is %q", text)
	}
	_, err := client.TokenBytes(-1)
	want(t, err, ErrBadToken)
}

func TestManyGoroutinesHaveTheTokensOfOne(t *testing.T) {
	// Rings that are too small for all: placing waits for room.
	client := dial(t, &ConnectOptions{SubmissionEntries: 4, CompletionEntries: 16})
	ctx := context.Background()
	var all sync.WaitGroup
	found := make([][]int32, 32)
	for i := range found {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			sequence, err := client.Open(ctx, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer sequence.Close()
			operation, err := sequence.Step(ctx, &StepOptions{Tokens: []int32{int32(i), 2, 3}, MaxTokens: 20})
			if err != nil {
				t.Error(err)
				return
			}
			for token := range operation.Tokens(ctx) {
				found[i] = append(found[i], token.Token)
			}
			if _, err := client.TokenBytes(int32(i)); err != nil {
				t.Error(err)
			}
			if _, err := client.Counters(); err != nil {
				t.Error(err)
			}
		}(i)
	}
	all.Wait()
	for i := range found {
		if alone := generate(t, open(t, client), []int32{int32(i), 2, 3}, 20); !reflect.DeepEqual(found[i], alone) {
			t.Fatalf("sequence %d sampled %v among others, %v alone", i, found[i], alone)
		}
	}
}

func TestAContextThatEndsCancelsItsOperation(t *testing.T) {
	client := dial(t, &ConnectOptions{CompletionEntries: 16})
	sequence := open(t, client)
	ctx, cancel := context.WithCancel(context.Background())
	operation := step(t, sequence, &StepOptions{Tokens: prompt, MaxTokens: client.Info().MaxContext - 4})
	if _, err := operation.Next(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	var err error
	for err == nil {
		_, err = operation.Next(ctx)
	}
	// What had arrived may still be taken; then either the context or the cancelled operation ends it.
	if !errors.Is(err, context.Canceled) && !errors.Is(err, ErrCanceled) {
		t.Fatalf("error %v", err)
	}
	operation.Cancel()
	_, err = operation.Wait(context.Background())
	want(t, err, ErrCanceled)
	if err := sequence.Truncate(context.Background(), 4); err != nil {
		t.Fatal(err)
	}
	if sampled := generate(t, sequence, nil, 3); len(sampled) != 3 {
		t.Fatalf("sampled %v", sampled)
	}
	ended, end := context.WithCancel(context.Background())
	end()
	for token := range step(t, sequence, &StepOptions{MaxTokens: 100}).Tokens(ended) {
		_ = token
	}
}

func TestLogitsAreCopiedOutSoThatUntakenOnesHoldUpNobody(t *testing.T) {
	client := dial(t, &ConnectOptions{ResultBytes: 4096})
	options := &StepOptions{Tokens: prompt, MaxTokens: 20, Logits: true}
	lying, read := step(t, open(t, client), options), step(t, open(t, client), options)
	for rows := 0; ; rows++ {
		token, err := read.Next(context.Background())
		if err == io.EOF && rows == 20 {
			break
		}
		if err != nil {
			t.Fatal(rows, err)
		}
		for _, logit := range token.Logits() {
			if logit > token.Logits()[token.Token] {
				t.Fatal("the greedy token does not have the largest logit")
			}
		}
		if times, known := token.Times(); !known || times.Dense <= 0 || uint32(len(token.Logits())) != client.Info().Vocabulary {
			t.Fatal("a token without its step's times or all logits")
		}
	}
	if _, err := lying.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestFailuresAreErrorsThatCanBeAskedFor(t *testing.T) {
	client := dial(t, nil)
	ctx := context.Background()
	sequence := open(t, client)
	_, err := sequence.Generate(ctx, []int32{-1}, 1)
	want(t, err, ErrBadToken)
	_, err = sequence.Generate(ctx, []int32{1}, client.Info().MaxContext)
	want(t, err, ErrContextFull)
	_, err = step(t, sequence, &StepOptions{Tokens: prompt, DeadlineNS: 1}).Wait(ctx)
	want(t, err, ErrDeadlinePassed)
	want(t, err, context.DeadlineExceeded)
	if err := sequence.Truncate(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if length, err := sequence.Append(ctx, prompt); err != nil || length != 4 {
		t.Fatal(length, err)
	}
	child, err := sequence.Fork(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	if length, err := child.Append(ctx, []int32{1}); err != nil || length != 3 {
		t.Fatal(length, err)
	}
	if count, err := child.Cancel(ctx); err != nil || count != 0 {
		t.Fatal(count, err)
	}
	_, err = Dial(&ConnectOptions{SocketPath: "/nonexistent/iokv.sock"})
	want(t, err, ErrNoDaemon)
	if !strings.Contains(err.Error(), "/nonexistent/iokv.sock") {
		t.Fatal(err)
	}
	if !errors.Is(ErrTimedOut, os.ErrDeadlineExceeded) || errors.Is(ErrTimedOut, ErrWoken) {
		t.Fatal("codes are not what they are")
	}
}

func TestWhateverWasClosedSaysSo(t *testing.T) {
	client := dial(t, &ConnectOptions{CompletionEntries: 16})
	ctx := context.Background()
	sequence, open := open(t, client), open(t, client)
	running := step(t, sequence, &StepOptions{Tokens: prompt, MaxTokens: client.Info().MaxContext - 4})
	if err := sequence.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sequence.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := sequence.Step(ctx, &StepOptions{Tokens: prompt})
	want(t, err, ErrNoSuchSequence)
	_, err = running.Wait(ctx)
	want(t, err, ErrCanceled)
	lost := step(t, open, &StepOptions{Tokens: prompt, MaxTokens: client.Info().MaxContext - 4})
	var all sync.WaitGroup
	for i := 0; i < 4; i++ {
		all.Add(1)
		go func() { defer all.Done(); client.Close() }()
	}
	_, err = lost.Wait(ctx)
	want(t, err, ErrClosed)
	all.Wait()
	want(t, client.Nop(ctx), ErrClosed)
	_, err = open.Generate(ctx, prompt, 1)
	want(t, err, ErrClosed)
	_, err = client.TokenBytes(1)
	want(t, err, ErrClosed)
	_, err = client.Counters()
	want(t, err, ErrClosed)
	if client.Outstanding() != 0 {
		t.Fatal("operations are outstanding")
	}
}

func TestASecondGoroutineInARoleIsRefused(t *testing.T) {
	conn, err := Connect(nil)
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan error)
	go func() {
		for {
			_, err := conn.Reap(make([]Completion, 1), -1)
			if !errors.Is(err, ErrBusy) {
				first <- err
				return
			}
		}
	}()
	// Either may be the one that is refused, until the other sleeps in its call.
	for !errors.Is(err, ErrBusy) {
		_, err = conn.Reap(make([]Completion, 1), time.Nanosecond)
	}
	_, err = conn.TokenBytes(1)
	want(t, err, ErrBusy)
	if _, err := conn.Nop(1); err != nil {
		t.Fatal(err)
	}
	// Ends the reap of the other goroutine, and waits for it.
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	want(t, <-first, ErrClosed)
	_, err = conn.FD()
	want(t, err, ErrClosed)
}
