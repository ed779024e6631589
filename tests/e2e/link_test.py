# SPDX-License-Identifier: Apache-2.0
"""A daemon whose device is behind a link: whatever is recomputed, kept on the device or fetched, every client gets the
tokens and log-probabilities of the daemon that reads its pool in place, bit for bit; and what the executor counts on the
link is what the Plans said."""

from __future__ import annotations

import unittest

from iokvd import MODEL, Daemon, DaemonFailed

import iokv

SETTINGS = [
    ["--recompute", "never"],
    ["--recompute", "always"],
    ["--recompute", "0.4"],
    ["--recompute", "auto"],
    ["--recompute", "0.5", "--device-kv-budget", "400KiB", "--staging-bytes", "1MiB"],
    ["--recompute", "never", "--device-kv-budget", "10MiB"],
    ["--recompute", "0.4", "--weights", "host"],
    ["--recompute", "auto", "--device-weights-budget", "240000"],  # one layer, of three
]
SEQUENCES, ROUNDS = 4, 3


def outcome(daemon: Daemon) -> list[list[tuple[int, float]]]:
    """Tokens and log-probabilities of sequences that grow in turns of prompt and answer, one of them forked."""
    drawn: list[list[tuple[int, float]]] = []
    with iokv.Client(daemon.socket) as client:
        sequences = [client.open(iokv.Sampling(temperature=0.8, seed=i)) for i in range(SEQUENCES)]
        for turn in range(ROUNDS):
            with client.batch():
                steps = [
                    sequence.step([(7 * i + 3 * turn + j) % 60 for j in range(11 + 13 * i)], max_tokens=5)
                    for i, sequence in enumerate(sequences)
                ]
            drawn += [[(one.token, one.logprob) for one in step if one.sampled] for step in steps]
            if turn == 1:
                sequences.append(sequences[3].fork())
    return drawn


class Link(unittest.TestCase):
    def test_every_setting_gives_the_tokens_of_the_pool_in_place(self) -> None:
        for name in ("opt", "llama_mha", "llama_gqa"):
            model = MODEL.parent / name
            with Daemon("--dtype", "f32", "--max-context", "192", model=model) as daemon:
                expected = outcome(daemon)
                self.assertEqual(daemon.status()["h2d_bytes"], 0)
            for setting in SETTINGS:
                auto = "auto" in setting
                profile = [] if auto else ["--profile", "off"]
                with (
                    self.subTest(model=name, setting=setting),
                    Daemon("--dtype", "f32", "--max-context", "192", "--link-gbps", "2", *setting, *profile, model=model)
                    as daemon,
                ):
                    self.assertEqual(outcome(daemon), expected)
                    found = daemon.status()
                    self.assertEqual(found["h2d_bytes"], found["planned_h2d_bytes"])
                    self.assertGreater(found["d2h_bytes"], 0)
                    self.assertEqual(found["predicted_ns"] > 0, auto)
                    if setting[1] == "always":
                        self.assertGreater(found["recomputed_tokens"], 0)
                    if "10MiB" in setting:
                        self.assertEqual(found["h2d_bytes"], 0)  # everything stays on the device
                    if "--weights" in setting:  # three layers' in each step
                        self.assertGreater(found["h2d_bytes"], 3 * 100_000 * found["steps"])

    def test_what_the_host_attends_to_gives_the_same_tokens(self) -> None:
        # A link so slow that attending costs less.
        link = ("--dtype", "f32", "--max-context", "192", "--link-gbps", "0.02")
        for name, recompute in (("opt", "auto"), ("llama_gqa", "never")):
            model = MODEL.parent / name
            with self.subTest(model=name), Daemon(*link, "--recompute", "never", "--profile", "off", model=model) as daemon:
                expected = outcome(daemon)
                self.assertEqual(daemon.status()["host_attended_tokens"], 0)
            with (
                self.subTest(model=name),
                Daemon(*link, "--cpu-attention", "1", "--recompute", recompute, model=model) as daemon,
            ):
                found = outcome(daemon)
                for one, other in zip(found, expected, strict=True):
                    self.assertEqual([token for token, _ in one], [token for token, _ in other])
                    for (_, logprob), (_, wanted) in zip(one, other, strict=True):
                        self.assertAlmostEqual(logprob, wanted, delta=1e-4)
                status = daemon.status()
                self.assertGreater(status["host_attended_tokens"], 0)
                self.assertGreater(status["host_busy_ns"], 0)
                self.assertEqual(status["h2d_bytes"], status["planned_h2d_bytes"])

    def test_long_prompts_in_micro_batches_give_the_tokens_of_short_steps(self) -> None:
        def read(daemon: Daemon) -> tuple[list[tuple[int, float]], int]:
            with iokv.Client(daemon.socket) as client:
                sequences = [client.open(iokv.Sampling(temperature=0.8, seed=i)) for i in range(3)]
                with client.batch():
                    steps = [
                        sequence.step([(5 * i + 11 * j) % 60 for j in range(500 + 70 * i)], max_tokens=2)
                        for i, sequence in enumerate(sequences)
                    ]
                drawn = [(one.token, one.logprob) for step in steps for one in step if one.sampled]
            return drawn, daemon.status()["steps"]

        with Daemon("--dtype", "f32") as daemon:  # 1,710 tokens, 256 a step
            expected, short_steps = read(daemon)
            self.assertGreater(short_steps, 6)
        link = ("--dtype", "f32", "--link-gbps", "2", "--profile", "off")
        for setting in (
            ["--recompute", "0.5", "--weights", "host"],
            ["--recompute", "never", "--max-rows", "2048"],
            ["--recompute", "always", "--max-rows", "2048", "--staging-bytes", "1MiB"],
            ["--recompute", "0.5", "--max-rows", "700"],
        ):
            with self.subTest(setting=setting), Daemon(*link, *setting) as daemon:
                drawn, steps = read(daemon)
                self.assertEqual(drawn, expected)
                self.assertLess(steps, short_steps)  # in which micro-batches of 256 went through each layer
                found = daemon.status()
                self.assertEqual(found["h2d_bytes"], found["planned_h2d_bytes"])

    def test_budgets_that_cannot_be_are_refused_with_the_least_that_works(self) -> None:
        for arguments, reason in (
            (["--link-gbps", "1", "--device-kv-budget", "1KiB"], "the least that works"),
            (["--device-kv-budget", "1GiB"], "in the pool"),
            (["--link-gbps", "1", "--staging-bytes", "1KiB"], "needs at least"),
            (["--link-gbps", "1", "--profile", "off"], "auto needs to know the device"),
            (["--link-gbps", "1", "--device-weights-budget", "1KiB"], "of one layer, and there are 1024 for them"),
            (["--link-gbps", "1", "--weights", "device", "--device-weights-budget", "1KiB"], "set --weights auto"),
            (["--weights", "host"], "this device computes with weights where they are"),
            (["--weights", "cloud"], "is none of: auto, device, host"),
            (["--link-gbps", "fast"], "is not a number"),
            (["--recompute", "1.5"], "a fraction from 0 to 1"),
        ):
            with self.subTest(arguments=arguments), self.assertRaises(DaemonFailed) as failed:
                Daemon(*arguments)
            self.assertIn(reason, str(failed.exception))


if __name__ == "__main__":
    unittest.main()
