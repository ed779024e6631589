// SPDX-License-Identifier: Apache-2.0

// Stream prints the text that follows some tokens: go run ./examples/stream 1 2 3
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"

	iokv "github.com/iokv/iokv/bindings/go"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var prompt []int32
	for _, word := range os.Args[1:] {
		token, err := strconv.Atoi(word)
		if err != nil {
			log.Fatal(err)
		}
		prompt = append(prompt, int32(token))
	}
	client, err := iokv.Dial(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	sequence, err := client.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	options := iokv.StepOptions{Tokens: prompt, MaxTokens: 64, StopTokens: client.Info().EndTokens}
	operation, err := sequence.Step(ctx, &options)
	if err != nil {
		log.Fatal(err)
	}
	for token := range operation.Tokens(ctx) {
		text, err := client.TokenBytes(token.Token)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s", text)
	}
	if _, err := operation.Wait(ctx); err != nil {
		log.Fatal(err)
	}
}
