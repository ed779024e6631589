# SPDX-License-Identifier: Apache-2.0
"""bindings/python as its users see it: the blocking client, the asyncio client and iokv-chat."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Any

import iokv
from iokvd import LIMIT_S, Daemon, prompt


class PythonClient(unittest.TestCase):
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

    def test_numbers_beyond_their_field_are_refused_and_not_cut_off(self) -> None:
        client = self.connect()
        beyond = 2**32
        with client.open() as sequence:
            for tokens in ([beyond + 5], [5, -beyond + 5]):
                with self.subTest(tokens=tokens), self.assertRaises(iokv.BadTokenError):
                    sequence.step(tokens, 1)
            for options in (
                {"max_tokens": beyond + 1}, {"max_tokens": -1}, {"top_logprobs": beyond}, {"priority": beyond},
                {"deadline_ns": 2**64}, {"sampling": iokv.Sampling(top_k=beyond)},
                {"sampling": iokv.Sampling(repetition_from=beyond)},
                {"sampling": iokv.Sampling(logit_bias=[(beyond + 1, 100.0)])},
            ):  # fmt: skip
                with self.subTest(options=options), self.assertRaisesRegex(iokv.InvalidArgumentError, "must be"):
                    sequence.step([1, 2], **{"max_tokens": 1, **options})
            with self.assertRaises(iokv.Error):
                sequence.step([1, 2], 1, masks=[[beyond] * 2])
            with self.assertRaises(iokv.InvalidArgumentError):
                sequence.truncate(beyond + 1)
            # None of it was placed.
            self.assertEqual(len(sequence.step([1, 2], 3).tokens()), 3)

    def test_info_is_the_models_config(self) -> None:
        config = json.loads((Path(__file__).parents[1] / "golden" / "llama_gqa" / "config.json").read_text())
        info = self.connect().info
        self.assertEqual(info.vocabulary, config["vocab_size"])
        self.assertEqual(info.layers, config["num_hidden_layers"])
        self.assertEqual((info.heads, info.kv_heads), (config["num_attention_heads"], config["num_key_value_heads"]))
        self.assertEqual(info.max_context, config["max_position_embeddings"])

    def test_operations_may_be_awaited_in_any_order(self) -> None:
        client = self.connect()
        with client.batch():
            sequences = [client.open() for _ in range(4)]
            operations = [s.step(prompt(5, i, client.info.vocabulary), 10) for i, s in enumerate(sequences)]
        backwards = [operation.tokens() for operation in reversed(operations)][::-1]
        again = [client.open().generate(prompt(5, i, client.info.vocabulary), 10) for i in range(4)]
        self.assertEqual(backwards, again)

    def test_the_rings_being_full_is_waited_out(self) -> None:
        client = self.connect(submission_entries=4, completion_entries=8)
        sequence = client.open()
        operations = [sequence.step([1, 2]) for _ in range(40)]
        self.assertEqual(operations[-1].result().length, 80)

    def test_logits_are_floats_of_the_vocabulary_whose_largest_is_the_greedy_token(self) -> None:
        client = self.connect()
        for completion in client.open().step([1, 2, 3], 3, logits=True):
            assert completion.logits is not None
            values = completion.logits.tolist()
            self.assertEqual(len(values), client.info.vocabulary)
            self.assertEqual(values.index(max(values)), completion.token)

    def test_a_failure_raises_its_own_exception_and_the_sequence_goes_on(self) -> None:
        client = self.connect()
        sequence = client.open()
        with self.assertRaises(iokv.BadTokenError):
            sequence.generate([client.info.vocabulary], 1)
        with self.assertRaises(iokv.ContextFullError):
            sequence.generate([1], client.info.max_context)
        sequence.truncate(0)
        self.assertEqual(len(sequence.generate([1], 2)), 2)
        sequence.close()
        with self.assertRaises(iokv.NoSuchSequenceError):
            sequence.generate([1], 1)

    def test_a_wait_ends_at_its_limit_and_can_be_taken_up_again(self) -> None:
        client = self.connect(completion_entries=16)
        operation = client.open().step([1, 2, 3], client.info.max_context - 3)
        with self.assertRaises(iokv.WaitTimeoutError):
            operation.result(timeout=0.0)
        self.assertEqual(operation.result().length, client.info.max_context)

    def test_wake_ends_a_wait_in_another_thread(self) -> None:
        client = self.connect()
        timer = threading.Timer(0.05, client.connection.wake)
        timer.start()
        with self.assertRaises(iokv.WokenError):
            client.connection.reap(timeout=LIMIT_S)
        timer.join()

    def test_a_second_thread_in_a_role_is_refused_and_disconnect_ends_the_first(self) -> None:
        connection = iokv.Connection(self.daemon.socket)
        ends: list[type[Exception]] = []

        def reap() -> None:
            while not ends:
                try:
                    connection.reap()
                except iokv.BusyError:
                    pass
                except iokv.Error as error:
                    ends.append(type(error))

        reaper = threading.Thread(target=reap)
        reaper.start()
        # Either may be the one that is refused, until the other sleeps in its call.
        with self.assertRaises(iokv.BusyError):
            while True:
                with contextlib.suppress(iokv.WaitTimeoutError):
                    connection.reap(timeout=1e-9)
        with self.assertRaises(iokv.BusyError):
            connection.counters()
        connection.nop()
        connection.disconnect()
        connection.disconnect()
        reaper.join(LIMIT_S)
        self.assertEqual(ends, [iokv.ConnectionClosedError])
        for call in (connection.nop, connection.submit, connection.wake, connection.outstanding, connection.fileno):
            with self.assertRaises(iokv.ConnectionClosedError):
                call()

    def test_whatever_was_closed_says_so(self) -> None:
        client = self.connect(completion_entries=16)
        sequence, other = client.open(), client.open()
        running = sequence.step([1, 2, 3], client.info.max_context - 3)
        sequence.close()
        sequence.close()
        with self.assertRaises(iokv.CanceledError):
            running.result()
        lost = other.step([1, 2, 3], client.info.max_context - 3)
        client.close()
        client.close()
        for call in (lost.result, client.nop, client.counters, client.open, lambda: other.generate([1], 1)):
            with self.assertRaises(iokv.ConnectionClosedError):
                call()

    def test_a_forked_child_gets_a_code_and_does_not_disturb_its_parent(self) -> None:
        client = self.connect()
        sequence = client.open()
        child = os.fork()
        if child == 0:
            try:
                client.nop()
            except iokv.ForkedError:
                os._exit(11)
            finally:
                os._exit(12)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 11)
        self.assertEqual(len(sequence.generate([1], 3)), 3)

    def test_generate_of_the_c_abi_gives_the_same_tokens(self) -> None:
        client = self.connect()
        wanted = client.open().generate([4, 5, 6], 8)
        with iokv.Connection(self.daemon.socket) as connection:
            sequence, _ = connection.open()
            connection.submit()
            while connection.outstanding():
                connection.reap()
            self.assertEqual(connection.generate(sequence, [4, 5, 6], 8), wanted)
            connection.nop()
            with self.assertRaises(iokv.BusyError):
                connection.generate(sequence, [1], 1)

    def test_asyncio_streams_many_sequences_at_once_with_the_tokens_of_a_blocking_client(self) -> None:
        blocking = self.connect()
        vocabulary = blocking.info.vocabulary
        alone = [blocking.open().generate(prompt(4 + i, i, vocabulary), 20) for i in range(8)]

        async def one(client: iokv.AsyncClient, i: int) -> list[int]:
            async with await client.open() as sequence:
                return [c.token async for c in await sequence.step(prompt(4 + i, i, vocabulary), 20)]

        async def run() -> list[list[int]]:
            async with iokv.AsyncClient(self.daemon.socket, submission_entries=4, completion_entries=16) as client:
                return await asyncio.gather(*(one(client, i) for i in range(8)))

        self.assertEqual(asyncio.run(asyncio.wait_for(run(), LIMIT_S)), alone)

    def test_asyncio_forks_truncates_cancels_and_fails_with_the_same_exceptions(self) -> None:
        async def run() -> None:
            async with iokv.AsyncClient(self.daemon.socket, completion_entries=16) as client:
                sequence = await client.open()
                first = await sequence.generate([1, 2, 3], 6)
                await sequence.truncate(3)
                child = await sequence.fork()
                self.assertEqual(await child.generate((), 6), first)
                operation = await child.step((), client.info.max_context - 9)
                self.assertEqual(await child.cancel(operation), 1)
                with self.assertRaises(iokv.CanceledError):
                    await operation.result()
                with self.assertRaises(iokv.BadTokenError):
                    await child.generate([-1], 1)
                await client.nop()
                self.assertIn("steps", client.counters())

        asyncio.run(asyncio.wait_for(run(), LIMIT_S))

    def test_iokv_chat_prints_numbers_where_the_model_has_no_tokenizer(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            stats = Path(directory) / "stats.json"
            chat = [sys.executable, "-B", "-m", "iokv.chat", "--socket", self.daemon.socket]
            chat += ["--prompt", "hello", "--max-tokens", "7", "--stats", str(stats)]
            result = subprocess.run(chat, check=False, capture_output=True, text=True, timeout=LIMIT_S)
            self.assertEqual(result.returncode, 0, result.stderr)
            client = self.connect()
            wanted = client.open().generate(
                [byte % client.info.vocabulary for byte in b"hello"], 7, stop_tokens=client.info.end_tokens
            )
            self.assertEqual([int(word) for word in result.stdout.split()], wanted)
            self.assertEqual(json.loads(stats.read_text())["tokens"], 7)

    def test_iokv_chat_without_a_daemon_says_so_in_one_line(self) -> None:
        chat = [sys.executable, "-B", "-m", "iokv.chat", "--socket", "/nonexistent-iokv/iokv.sock", "--prompt", "x"]
        result = subprocess.run(chat, check=False, capture_output=True, text=True, timeout=LIMIT_S)
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)


if __name__ == "__main__":
    unittest.main()
