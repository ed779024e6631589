#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes logits, sampling parameters and the probabilities that transformers' logits processors leave, for tests/backend.

Presence and frequency penalties, which transformers does not have, are computed as OpenAI's API reference defines them:
logit[j] -= count[j] * frequency_penalty + (count[j] > 0) * presence_penalty.

usage: $(scripts/transformers) scripts/make_sampling_golden.py tests/backend/sampling.json
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers.generation import logits_process as processors

VOCAB = 61
# Tokens of the sequence so far; some several times, some once.
HISTORY = [3, 9, 9, 27, 3, 58, 9, 11, 40, 3, 3, 60, 0]


class Penalty(processors.LogitsProcessor):
    def __init__(self, presence: float, frequency: float, first: int) -> None:
        self.presence, self.frequency, self.first = presence, frequency, first

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = torch.bincount(input_ids[0, self.first :], minlength=VOCAB).to(scores.dtype)
        return scores - (counts * self.frequency + (counts > 0) * self.presence)


def processed(logits: np.ndarray, case: dict) -> np.ndarray:
    """In the order in which transformers' generate() applies them."""
    chain = processors.LogitsProcessorList()
    if bias := case.get("biases"):
        chain.append(processors.SequenceBiasLogitsProcessor([[[token], value] for token, value in bias]))
    if penalty := case.get("repetition_penalty"):
        ignored = case.get("repetition_from", 0)
        chain.append(processors.RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=ignored or None))
    if "presence_penalty" in case or "frequency_penalty" in case:
        chain.append(
            Penalty(case.get("presence_penalty", 0.0), case.get("frequency_penalty", 0.0), case.get("frequency_from", 0))
        )
    if mask := case.get("mask"):
        chain.append(processors.PrefixConstrainedLogitsProcessor(lambda batch, ids: mask, 1))
    if (temperature := case["temperature"]) not in (0.0, 1.0):
        chain.append(processors.TemperatureLogitsWarper(temperature))
    if top_k := case.get("top_k"):
        chain.append(processors.TopKLogitsWarper(top_k))
    if top_p := case.get("top_p"):
        chain.append(processors.TopPLogitsWarper(top_p))
    if min_p := case.get("min_p"):
        chain.append(processors.MinPLogitsWarper(min_p))
    if typical := case.get("typical_p"):
        chain.append(processors.TypicalLogitsWarper(typical))
    scores = chain(torch.tensor([HISTORY]), torch.tensor(logits, dtype=torch.float32)[None].clone())[0].double()
    if case["temperature"] == 0.0:
        one = torch.zeros(VOCAB, dtype=torch.float64)
        one[int(torch.argmax(scores))] = 1
        return one.numpy()
    return torch.softmax(scores, dim=-1).numpy()


def cases() -> list[dict]:
    bias = [[3, -4.0], [17, 2.5], [58, 3.0], [9, -100.0]]
    mask = [1, 2, 3, 5, 8, 13, 21, 34, 55, 60]
    alone: list[dict] = [
        {"min_p": 0.02},
        {"min_p": 0.3},
        {"min_p": 1.0},
        {"typical_p": 0.05},
        {"typical_p": 0.5},
        {"typical_p": 0.95},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.5},
        {"repetition_penalty": 2.0, "repetition_from": 8},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.75},
        {"presence_penalty": -0.5, "frequency_penalty": 1.25, "frequency_from": 5},
        {"biases": bias},
        {"mask": mask},
        {"mask": [60]},
        {"top_k": 7},
        {"top_p": 0.6},
    ]
    together: list[dict] = [
        {"top_k": 20, "top_p": 0.9, "min_p": 0.05},
        {"top_p": 0.9, "typical_p": 0.6},
        {"top_k": 30, "min_p": 0.01, "typical_p": 0.8},
        {"biases": bias, "repetition_penalty": 1.2, "presence_penalty": 0.4, "frequency_penalty": 0.2, "top_p": 0.95},
        {"mask": mask, "biases": bias, "min_p": 0.05},
        {"mask": mask, "top_k": 4, "typical_p": 0.7},
        {"repetition_penalty": 1.7, "frequency_penalty": 2.0, "mask": mask, "top_k": 15, "top_p": 0.8, "min_p": 0.02},
    ]
    found = [{"temperature": temperature, **case} for case in alone for temperature in (1.0,)]
    found += [{"temperature": temperature, **case} for case in together for temperature in (0.7, 1.6)]
    found += [{"temperature": 0.0, **case} for case in alone if not {"min_p", "typical_p", "top_k", "top_p"} & set(case)]
    return found


def main() -> None:
    random = np.random.default_rng(20261125)
    rows = [
        random.normal(0, 2, VOCAB).astype(np.float32),
        random.normal(0, 6, VOCAB).astype(np.float32),
        (np.round(random.normal(0, 1.5, VOCAB) * 2) / 2).astype(np.float32),  # many equals
    ]
    out = {"history": HISTORY, "logits": [[float(x) for x in row] for row in rows], "cases": []}
    for case in cases():
        for index, row in enumerate(rows):
            # Which of equal logits a cut by rank or mass keeps is not defined there (torch.topk, torch.sort).
            if index == 2 and {"top_k", "top_p"} & set(case):
                continue
            probabilities = processed(row, case)
            kept = {int(token): float(f"{probabilities[token]:.9g}") for token in np.nonzero(probabilities)[0]}
            out["cases"].append({**case, "row": index, "kept": list(kept.items())})
    text = json.dumps(out)
    Path(sys.argv[1]).write_text(text.replace('{"temperature"', '\n{"temperature"') + "\n")


if __name__ == "__main__":
    main()
