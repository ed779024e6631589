# SPDX-License-Identifier: Apache-2.0
"""Decodes with llama.cpp on request, for bench/decode.py. Needs llama-cpp-python.

usage: llama_cpp_worker.py MODEL.gguf, then one JSON object a line: batch, prompt, tokens; each is answered by
{"tokens_per_s": ..., "prompt_tokens_per_s": ...}: of the decoding alone, and of the prompts' passes.
"""

import ctypes
import json
import os
import random
import sys
import time

import llama_cpp
import numpy as np


class Decoder:
    """llama.cpp's own interface, as llama-batched-bench uses it: nothing of Python between two steps but an argmax."""

    def __init__(self, path):
        threads = len(os.sched_getaffinity(0))
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            sys.exit(f"llama.cpp cannot load {path}")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = 16384
        options.n_batch = options.n_ubatch = 512
        options.n_seq_max = 32
        options.n_threads = options.n_threads_batch = threads
        options.kv_unified = True
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.rows = llama_cpp.llama_batch_init(512, 0, 1)

    def step(self, entries):
        """Of (token, position, sequence, whether its logits are wanted); at most 512."""
        for i, (token, position, sequence, wanted) in enumerate(entries):
            self.rows.token[i], self.rows.pos[i], self.rows.logits[i] = token, position, wanted
            self.rows.n_seq_id[i], self.rows.seq_id[i][0] = 1, sequence
        self.rows.n_tokens = len(entries)
        if llama_cpp.llama_decode(self.context, self.rows) != 0:
            sys.exit("llama_decode failed")

    def drawn(self, row):
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        address = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
        return int(np.ctypeslib.as_array(address, (self.vocab,)).argmax())

    def run(self, batch, prompt, tokens):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        source = random.Random(1)
        prompt_s, last = 0.0, []
        for sequence in range(batch):
            entries = [(source.randrange(self.vocab), i, sequence, i == prompt - 1) for i in range(prompt)]
            begun = time.perf_counter()
            for first in range(0, prompt, 512):
                self.step(entries[first : first + 512])
            last.append(self.drawn(-1))
            prompt_s += time.perf_counter() - begun
        begun = time.perf_counter()
        for i in range(tokens):
            self.step([(last[sequence], prompt + i, sequence, True) for sequence in range(batch)])
            last = [self.drawn(sequence) for sequence in range(batch)]
        seconds = time.perf_counter() - begun
        return dict(tokens_per_s=batch * tokens / seconds, prompt_tokens_per_s=batch * prompt / prompt_s)


@llama_cpp.llama_log_callback
def silent(_level, _text, _data):
    pass


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    decoder = Decoder(sys.argv[1])
    decoder.run(1, 8, 4)
    for line in sys.stdin:
        print(json.dumps(decoder.run(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
