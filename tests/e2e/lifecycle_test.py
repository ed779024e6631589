# SPDX-License-Identifier: Apache-2.0
"""A daemon's start, its socket, and its end, with real processes."""

import os
import socket
import stat
import tempfile
import unittest
from pathlib import Path

import iokv
from iokvd import LIMIT_S, Daemon, prompt, refusal

ESHUTDOWN = iokv.ShuttingDownError.code


def reap_until_closed(connection: iokv.Connection) -> list[iokv.Completion]:
    """Every completion that comes before the connection ends."""
    completions: list[iokv.Completion] = []
    try:
        while True:
            completions += connection.reap(timeout=LIMIT_S)
    except iokv.ConnectionClosedError:
        return completions


class Lifecycle(unittest.TestCase):
    def test_a_daemon_serves_and_exits_zero_on_sigterm(self) -> None:
        with Daemon() as daemon:
            with iokv.Client(daemon.socket) as client, client.open() as sequence:
                self.assertEqual(len(sequence.generate([1, 2, 3], 4)), 4)
            self.assertEqual(daemon.stop(), 0)
            self.assertFalse(Path(daemon.socket).exists(), "the socket file stays behind")

    def test_sigterm_under_load_ends_every_step_with_a_code(self) -> None:
        # A small ring keeps the steps from finishing before the signal: they park.
        with Daemon() as daemon, iokv.Connection(daemon.socket, completion_entries=64) as connection:
            vocabulary, context = connection.info.vocabulary, connection.info.max_context
            pending = set()
            for seed in range(16):
                sequence, opened = connection.open()
                pending.add(opened)
                pending.add(connection.step(sequence, prompt(8, seed, vocabulary), context - 8))
            connection.submit()
            for completion in connection.reap(timeout=LIMIT_S):
                if completion.final:
                    pending.discard(completion.operation)
            daemon.process.terminate()
            for completion in reap_until_closed(connection):
                if completion.final:
                    pending.discard(completion.operation)
                    self.assertIn(completion.result, (0, ESHUTDOWN))
            self.assertEqual(pending, set(), "operations without a final completion")
            self.assertEqual(connection.end_reason()[0], ESHUTDOWN)
            self.assertEqual(daemon.process.wait(LIMIT_S), 0)

    def test_a_second_daemon_on_the_same_socket_is_refused_and_the_first_goes_on(self) -> None:
        with Daemon() as daemon:
            status, output = refusal(socket=daemon.socket)
            self.assertNotEqual(status, 0)
            self.assertIn(daemon.socket, output)
            with iokv.Client(daemon.socket) as client:
                client.nop()

    def test_a_stale_socket_is_replaced(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "iokv.sock"
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
                stale.bind(str(path))
            with Daemon(socket=path) as daemon, iokv.Client(daemon.socket) as client:
                client.nop()

    def test_a_file_in_the_sockets_place_is_kept_and_named(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "iokv.sock"
            path.write_text("precious")
            status, output = refusal(socket=path)
            self.assertNotEqual(status, 0)
            self.assertIn(str(path), output)
            self.assertEqual(path.read_text(), "precious")

    def test_a_socket_path_that_is_too_long_is_refused_by_both_ends(self) -> None:
        path = "/tmp/" + "x" * 120
        status, output = refusal(socket=path)
        self.assertNotEqual(status, 0)
        self.assertIn("107", output)
        with self.assertRaises(iokv.InvalidArgumentError):
            iokv.Connection(path)

    def test_a_socket_in_a_missing_directory_is_refused_in_one_line(self) -> None:
        status, output = refusal(socket="/nonexistent-iokv/iokv.sock")
        self.assertNotEqual(status, 0)
        self.assertIn("/nonexistent-iokv", output)

    @unittest.skipUnless(os.geteuid() == 0, "needs root, to become somebody else")
    def test_a_user_without_permission_is_told_which_group_to_join(self) -> None:
        with Daemon() as daemon:
            os.chmod(daemon.directory, 0o755)
            os.chmod(daemon.socket, stat.S_IRUSR | stat.S_IWUSR)
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                try:
                    iokv.Connection(daemon.socket)
                    os.write(writer, b"connected")
                except iokv.AccessDeniedError as error:
                    os.write(writer, f"EACCES {error}".encode())
                finally:
                    os._exit(0)
            os.close(writer)
            with os.fdopen(reader) as stream:
                said = stream.read()
            os.waitpid(child, 0)
            self.assertRegex(said, "^EACCES .*root")

    def test_wrong_usage_is_refused_before_anything_is_loaded(self) -> None:
        for arguments in (["--pool-bytes", "much"], ["--dtype", "f8"], ["--recompute", "sometimes"], ["--what"]):
            with self.subTest(arguments=arguments):
                status, output = refusal(*arguments)
                self.assertNotEqual(status, 0)
                self.assertIn(arguments[0], output)

    def test_a_pool_that_cannot_hold_one_block_is_refused(self) -> None:
        status, output = refusal("--pool-bytes", "1")
        self.assertNotEqual(status, 0)
        self.assertIn("pool", output)

    def test_more_clients_than_allowed_are_refused_with_elimit(self) -> None:
        with Daemon("--max-clients", "2") as daemon:
            with iokv.Connection(daemon.socket), iokv.Connection(daemon.socket):
                with self.assertRaises(iokv.LimitError):
                    iokv.Connection(daemon.socket)

    def test_a_client_has_the_weight_of_its_user(self) -> None:
        for user, weight in ((os.getuid(), 3), (os.getuid() + 1, 1)):
            with Daemon("--client-weight", f"{user}=3", "--log-level", "debug") as daemon:
                with iokv.Connection(daemon.socket):
                    pass
                daemon.stop()
            self.assertIn(f"has joined with weight {weight}", "\n".join(daemon.output))


if __name__ == "__main__":
    unittest.main()
