# SPDX-License-Identifier: Apache-2.0
"""Clients that break the protocol: each gets a reason and is disconnected, and an honest client beside them gets the
tokens that it gets alone."""

import fcntl
import mmap
import os
import random
import struct
import unittest
from collections.abc import Callable

import iokv
from iokvd import Daemon, prompt
from raw_client import COMPLETION_HEAD, REFUSED, RESULT_HEAD, SUBMISSION_TAIL, RawClient, hello, submission

EPROTOCOL, EVERSION = iokv.ProtocolError.code, iokv.VersionMismatchError.code
NOP, OPEN, STEP = 1, 2, 3
SEQUENCE = 1 << 32  # index 0, generation 1


class HostileClient(unittest.TestCase):
    daemon: Daemon
    alone: list[list[int]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.daemon = Daemon()
        with iokv.Client(cls.daemon.socket) as client:
            cls.alone = cls.honest_tokens(client)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.daemon.close()

    @staticmethod
    def honest_tokens(client: iokv.Client) -> list[list[int]]:
        length = client.info.max_context // 2
        operations = []
        for seed in range(3):
            sequence = client.open(iokv.Sampling(temperature=1.0, seed=seed))
            operations.append(sequence.step(prompt(5, seed, client.info.vocabulary), length))
        return [operation.tokens() for operation in operations]

    def tearDown(self) -> None:
        with iokv.Client(self.daemon.socket) as client:
            self.assertEqual(self.honest_tokens(client), self.alone)

    def assert_ended(self, attack: Callable[[RawClient], None]) -> None:
        with RawClient(self.daemon.socket) as raw:
            raw.shake()
            attack(raw)
            raw.ring()
            code, message = raw.farewell()
            self.assertEqual(code, EPROTOCOL)
            self.assertNotEqual(message, "")

    def test_a_tail_beyond_the_ring_ends_the_client(self) -> None:
        self.assert_ended(lambda raw: raw.set_index(SUBMISSION_TAIL, raw.entries + 1))

    def test_a_tail_that_goes_back_ends_the_client(self) -> None:
        self.assert_ended(lambda raw: raw.set_index(SUBMISSION_TAIL, -1))

    def test_a_completion_head_beyond_what_was_posted_ends_the_client(self) -> None:
        def attack(raw: RawClient) -> None:
            raw.set_index(COMPLETION_HEAD, 5)
            raw.write_entry(0, submission(NOP, 1))
            raw.set_index(SUBMISSION_TAIL, 1)

        self.assert_ended(attack)

    def test_a_result_head_beyond_what_was_posted_ends_the_client(self) -> None:
        def attack(raw: RawClient) -> None:
            raw.set_index(RESULT_HEAD, 4096)
            raw.write_entry(0, submission(NOP, 1))
            raw.set_index(SUBMISSION_TAIL, 1)

        self.assert_ended(attack)

    def test_random_entries_and_memory_disturb_nobody(self) -> None:
        seed = int.from_bytes(os.urandom(4), "little")
        print(f"seed {seed}")
        source = random.Random(seed)
        with iokv.Client(self.daemon.socket) as honest:
            for _ in range(50):
                with RawClient(self.daemon.socket) as raw:
                    raw.shake()
                    assert raw.up is not None
                    raw.up[4096 : 4096 + 64 * raw.entries] = source.randbytes(64 * raw.entries)
                    for i in range(raw.entries):
                        if source.random() < 0.7:
                            payload = (source.getrandbits(source.choice([4, 16, 32])), source.getrandbits(8))
                            n, m = source.getrandbits(source.choice([2, 32])), source.getrandbits(3)
                            sequence = SEQUENCE + source.randrange(3)
                            entry = submission(source.randrange(9), i + 1, sequence=sequence, payload=payload, n=n, m=m)
                            raw.write_entry(i, entry)
                    raw.set_index(SUBMISSION_TAIL, source.randrange(raw.entries + 1))
                    raw.ring()
                    for _ in range(20):
                        offset = source.randrange(len(raw.up) - 8)
                        raw.up[offset : offset + 8] = source.randbytes(8)
                    raw.ring()
            self.assertEqual(self.honest_tokens(honest), self.alone)
        self.assertIsNone(self.daemon.process.poll())

    def test_a_payload_outside_the_arena_is_never_read(self) -> None:
        with RawClient(self.daemon.socket) as raw:
            raw.shake()
            payloads = [(raw.arena_bytes - 8, 64), (0, 0xFFFFFFF8), (0xFFFFFFF8, 64), (4, 40), (0, 8)]
            for i, payload in enumerate(payloads):
                raw.write_entry(2 * i, submission(OPEN, 2 * i + 1, sequence=SEQUENCE + i))
                raw.write_entry(
                    2 * i + 1, submission(STEP, 2 * i + 2, sequence=SEQUENCE + i, payload=payload, n=1_000_000, m=1)
                )
            raw.set_index(SUBMISSION_TAIL, 10)
            raw.ring()
        self.assertIsNone(self.daemon.process.poll())

    def test_a_greeting_that_is_none_is_refused(self) -> None:
        for packet in (b"GET / HTTP/1.1\r\n\r\n", hello(magic=1), hello()[:40], b"\0" * 72, hello() + b"\1" * 100):
            with self.subTest(packet=packet[:8]), RawClient(self.daemon.socket) as raw:
                raw.socket.send(packet)
                self.assertNotEqual(raw.farewell()[0], 0)

    def test_versions_that_the_daemon_does_not_speak_are_refused_with_eversion(self) -> None:
        with RawClient(self.daemon.socket) as raw:
            raw.socket.send(hello(7, 9))
            kind, packet = raw.receive()
            self.assertEqual((kind, struct.unpack_from("<i", packet, 8)[0]), (REFUSED, EVERSION))

    def test_a_silent_connection_holds_nobody_up(self) -> None:
        with RawClient(self.daemon.socket), iokv.Client(self.daemon.socket) as client:
            client.nop()

    def test_the_daemons_region_cannot_be_written_and_neither_can_be_resized(self) -> None:
        with RawClient(self.daemon.socket) as raw:
            raw.shake()
            up, down = raw.descriptors
            with self.assertRaises(PermissionError):
                mmap.mmap(down, os.fstat(down).st_size)
            with self.assertRaises(PermissionError):
                os.pwrite(down, b"x", 0)
            for descriptor in (up, down):
                with self.assertRaises(PermissionError):
                    os.ftruncate(descriptor, 0)
                with self.assertRaises(PermissionError):
                    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0x8)

    def test_a_flood_of_doorbells_holds_nobody_up(self) -> None:
        with RawClient(self.daemon.socket) as raw, iokv.Client(self.daemon.socket) as client:
            raw.shake()
            raw.socket.setblocking(False)
            for _ in range(20_000):
                raw.ring()
            client.nop()


if __name__ == "__main__":
    unittest.main()
