# SPDX-License-Identifier: Apache-2.0
"""Sampling through a real daemon: penalties, biases, masks, stop sequences, top logprobs and forks, each against what the
step's own logits say by the formula of include/iokv/iokv.h."""

import math
import unittest
from collections.abc import Sequence as TokenList
from typing import Any

import iokv
from iokvd import Daemon, prompt


def greedy(logits: TokenList[float]) -> int:
    return max(range(len(logits)), key=lambda token: (logits[token], -token))


def penalised(logits: TokenList[float], held: list[int], sampling: iokv.Sampling) -> list[float]:
    """The logits of a draw behind the tokens `held`."""
    out = list(logits)
    for token, bias in sampling.logit_bias:
        out[token] += bias
    for token in set(held[sampling.repetition_from :]):
        out[token] = out[token] * sampling.repetition_penalty if out[token] < 0 else out[token] / sampling.repetition_penalty
    counted = held[sampling.frequency_from :]
    for token in set(counted):
        out[token] -= sampling.presence_penalty + counted.count(token) * sampling.frequency_penalty
    return out


class Sampling(unittest.TestCase):
    daemon: Daemon

    @classmethod
    def setUpClass(cls) -> None:
        cls.daemon = Daemon()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.daemon.close()

    def connect(self, **options: Any) -> iokv.Client:
        client = iokv.Client(self.daemon.socket, **options)
        self.addCleanup(client.close)
        return client

    def test_every_penalty_counts_the_token_drawn_just_before(self) -> None:
        client = self.connect()
        start = prompt(9, 3, client.info.vocabulary)
        plain = client.open().generate(start, 40)
        for sampling in (
            iokv.Sampling(repetition_penalty=1.8),
            iokv.Sampling(repetition_penalty=3.0, repetition_from=len(start) + 2),
            iokv.Sampling(presence_penalty=6.0, frequency_from=len(start)),
            iokv.Sampling(frequency_penalty=2.5, logit_bias=((plain[0], -100.0),)),
        ):
            with self.subTest(sampling=sampling):
                held = list(start)
                for completion in client.open().step(start, 40, sampling=sampling, logits=True):
                    assert completion.logits is not None
                    self.assertEqual(completion.token, greedy(penalised(completion.logits, held, sampling)))
                    held.append(completion.token)
                self.assertNotEqual(held[len(start) :], plain)

    def test_predictions_of_drafts_are_penalised_each_by_what_precedes_it(self) -> None:
        client = self.connect()
        sampling = iokv.Sampling(repetition_penalty=2.0, presence_penalty=3.0, frequency_from=4)
        start, draft = prompt(6, 1, client.info.vocabulary), prompt(5, 2, client.info.vocabulary)
        sequence = client.open(sampling)
        sequence.append(start)
        held = list(start)
        for token, completion in zip(draft, sequence.step(draft, 1, each=True, logits=True), strict=True):
            held.append(token)
            assert completion.logits is not None
            self.assertEqual(completion.token, greedy(penalised(completion.logits, held, sampling)))

    def test_each_draw_takes_its_mask(self) -> None:
        client = self.connect()
        vocabulary = client.info.vocabulary
        words = (vocabulary + 31) // 32
        allowed = [{5, 9, 100}, {vocabulary - 1}, {0, 31, 32, 33}, {7}]
        masks = [[sum(1 << t % 32 for t in tokens if t // 32 == word) for word in range(words)] for tokens in allowed]
        drawn = list(client.open().step([1, 2, 3], len(masks), masks=masks, logits=True))
        for completion, tokens in zip(drawn, allowed, strict=True):
            logits = completion.logits
            assert logits is not None
            self.assertEqual(completion.token, max(tokens, key=lambda token: logits[token]))
        hot = iokv.Sampling(temperature=50.0, seed=4)
        for seed in range(5):
            sequence = client.open(iokv.Sampling(temperature=50.0, seed=seed))
            self.assertIn(sequence.step([1], 1, masks=masks[:1]).tokens()[0], allowed[0])
        with self.assertRaisesRegex(iokv.MaskError, "mask_count is 2: the step draws 3"):
            client.open(hot).step([1], 3, masks=masks[:2])
        with self.assertRaisesRegex(iokv.MaskError, f"mask_words is 1: a mask of {vocabulary} tokens has {words}"):
            client.open().step([1], 1, masks=[[1]])
        with self.assertRaises(iokv.MaskError):
            client.open().step([1], 1, masks=[[0] * words]).result()

    def test_a_stop_sequence_ends_the_step_that_samples_its_last_token(self) -> None:
        client = self.connect()
        start = prompt(7, 5, client.info.vocabulary)
        plain = client.open().generate(start, 30)
        for first, length in ((3, 2), (10, 4), (0, 1)):
            stop = plain[first : first + length]
            end = next(i for i in range(len(plain)) if plain[max(0, i + 1 - length) : i + 1] == stop) + 1
            drawn = list(client.open().step(start, 30, stop_sequences=[[start[0]] * 3, stop]))
            self.assertEqual([completion.token for completion in drawn], plain[:end])
            self.assertTrue(drawn[-1].stopped)
        # What is not sampled by the step itself does not count.
        sequence = client.open()
        sequence.append(start + plain[:4])
        self.assertEqual(sequence.step([], 3, stop_sequences=[plain[2:5]]).tokens(), plain[4:7])
        limit = client.info.max_stop_tokens
        with self.assertRaisesRegex(iokv.StopError, f"{limit + 1} tokens: they may have {limit} together"):
            client.open().step([1], 1, stop_sequences=[[1] * (limit + 1)])

    def test_top_logprobs_are_the_log_softmax(self) -> None:
        client = self.connect(result_bytes=1 << 16)
        for completion in client.open().step([1, 2, 3], 50, logits=True, top_logprobs=5, sampling=iokv.Sampling(1.0)):
            logits = completion.logits
            assert logits is not None
            normaliser = math.log(math.fsum(map(math.exp, logits)))
            order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
            self.assertEqual([entry.token for entry in completion.top], order[:5])
            for entry in completion.top:
                self.assertAlmostEqual(entry.logprob, logits[entry.token] - normaliser, places=4)
            self.assertAlmostEqual(completion.logprob, logits[completion.token] - normaliser, places=4)
        # Thousands of them go round the ring of results.
        for completion in client.open().step([4], 900, top_logprobs=64):
            self.assertEqual(len(completion.top), 64)
            self.assertEqual(completion.top[0].token, completion.token)

    def test_samples_of_forks_are_those_of_sequences_of_their_own(self) -> None:
        client = self.connect()
        start = prompt(70, 8, client.info.vocabulary)
        parent = client.open(iokv.Sampling(0.9, repetition_penalty=1.3, logit_bias=((3, 2.0),)))
        parent.append(start)
        drawn = []
        for seed in range(4):
            sampling = iokv.Sampling(0.9, seed=seed, min_p=0.01, repetition_penalty=1.2)
            operation = parent.fork().step([], 12, sampling=sampling)
            alone = client.open(sampling).generate(start, 12)
            self.assertEqual(operation.tokens(), alone)
            drawn.append(tuple(alone))
        self.assertGreater(len(set(drawn)), 1)
        # A child has its parent's sampling.
        self.assertEqual(parent.fork().generate([], 9), parent.generate([], 9))

    def test_what_is_out_of_range_is_named_with_its_range(self) -> None:
        client = self.connect()
        for sampling, words in (
            (iokv.Sampling(top_p=1.5), "top_p is 1.5: it must be 0 to 1"),
            (iokv.Sampling(min_p=-0.1), "min_p is -0.1: it must be 0 to 1"),
            (iokv.Sampling(typical_p=2.0), "typical_p is 2: it must be 0 to 1"),
            (iokv.Sampling(repetition_penalty=1000.0), "repetition_penalty is 1000: it must be 0.01 to 100"),
            (iokv.Sampling(presence_penalty=-200.0), "presence_penalty is -200: it must be -100 to 100"),
            (iokv.Sampling(frequency_penalty=float("nan")), "frequency_penalty is nan: it must be -100 to 100"),
            (iokv.Sampling(logit_bias=((1, 1e9),)), "a logit_bias is 1e\\+09: it must be -10000 to 10000"),
        ):
            with self.assertRaisesRegex(iokv.InvalidArgumentError, words):
                client.open(sampling)
        with self.assertRaisesRegex(iokv.BadTokenError, r"logit_bias\[1\].token is -5"):
            client.open(iokv.Sampling(logit_bias=((1, 1.0), (-5, 1.0))))
        with self.assertRaisesRegex(iokv.LimitError, "logit_bias_count is 1025"):
            client.open(iokv.Sampling(logit_bias=tuple((1, 0.0) for _ in range(1025))))
        with self.assertRaisesRegex(iokv.InvalidArgumentError, "top_logprobs is 65: it must be 0 to 64"):
            client.open().step([1], 1, top_logprobs=65)

    def test_borrowed_logits_are_those_that_are_copied(self) -> None:
        copied = [bytes(c.logits) for c in self.connect().open().step([1, 2], 20, logits=True) if c.logits is not None]
        client = self.connect(borrow_logits=True, result_bytes=1 << 16)
        held = []
        for completion, expected in zip(client.open().step([1, 2], 20, logits=True), copied, strict=True):
            row = completion.borrowed
            assert row is not None and completion.logits is None
            self.assertEqual(bytes(row.view), expected)
            held.append(row)
            if len(held) == 2:
                for each in reversed(held):  # in any order
                    each.release()
                    with self.assertRaises(ValueError):
                        _ = each.view
                held.clear()


if __name__ == "__main__":
    unittest.main()
