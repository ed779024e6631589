# SPDX-License-Identifier: Apache-2.0
"""The daemon under a supervisor that this test plays: it opens the socket and passes it on, reads NOTIFY_SOCKET, and
sends signals. What takes a device that loads or hangs as the test wants is in tests/daemon/supervisor_test.cpp."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Self

import iokv
from iokvd import BACKEND, IOKVD, LIMIT_S, MODEL

# As sd_listen_fds(3) has it: the socket is descriptor 3, and the process that it is meant for is named by its id, which
# exec keeps.
START = """
import os, sys
passed = int(sys.argv[1])
if passed >= 0:
    os.dup2(passed, 3)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="clients")
status = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
if "WATCHDOG_USEC" in os.environ:
    os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Supervised:
    """An iokvd whose supervisor is this test. `listener` None: nothing is passed on."""

    def __init__(self, directory: Path, listener: socket.socket | None, *arguments: str, watchdog_us: int = 0,
                 model: Path = MODEL, profile: str = "off") -> None:
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.settimeout(LIMIT_S)
        self.notify_path = directory / f"notify-{id(self):x}"
        self.notify.bind(str(self.notify_path))
        environment = {"IOKV_STATE_DIRECTORY": str(directory / "state"), **os.environ, "NOTIFY_SOCKET": str(self.notify_path)}
        if watchdog_us:
            environment["WATCHDOG_USEC"] = str(watchdog_us)
        passed = -1 if listener is None else listener.fileno()
        command = [str(IOKVD), "--model", str(model), "--backend", BACKEND, "--profile", profile, *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(passed), *command],
            pass_fds=() if listener is None else (passed,),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log += [line.rstrip("\n") for line in self.process.stderr]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.notify.close()
        self.notify_path.unlink()

    def next(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.notify.recv(4096).decode().splitlines())

    def until(self, field: str) -> list[dict[str, str]]:
        """What has been said, up to the first message with `field`."""
        said = [self.next()]
        while field not in said[-1]:
            said.append(self.next())
        return said

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return status


class Supervision(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.path = str(self.directory / "iokv.sock")

    def listener(self, kind: int = socket.SOCK_SEQPACKET) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, kind)
        self.addCleanup(listener.close)
        listener.bind(self.path)
        listener.listen(16)
        return listener

    def test_a_passed_socket_is_served_and_outlives_the_daemon(self) -> None:
        listener = self.listener()
        for _ in range(2):
            # The client is there before the daemon, as it is under socket activation.
            tokens: list[int] = []
            client = threading.Thread(target=lambda into: into.extend(generate(self.path)), args=(tokens,))
            client.start()
            with Supervised(self.directory, listener) as daemon:
                client.join(LIMIT_S)
                self.assertEqual(len(tokens), 4)
                self.assertEqual(daemon.end(), 0)
            self.assertTrue(Path(self.path).is_socket(), "the supervisor's socket was removed")
        self.assertEqual(sorted(p.name for p in self.directory.iterdir() if p.name.startswith("iokv")), ["iokv.sock"])

    def test_what_is_no_socket_of_packets_is_refused(self) -> None:
        with Supervised(self.directory, self.listener(socket.SOCK_STREAM)) as daemon:
            self.assertEqual(daemon.process.wait(LIMIT_S), 1)
            daemon._reader.join(LIMIT_S)
            self.assertIn("ListenSequentialPacket=", "\n".join(daemon.log))

    def test_the_supervisor_hears_of_loading_readiness_and_the_end(self) -> None:
        with Supervised(self.directory, self.listener()) as daemon:
            said = daemon.until("READY")
            self.assertGreaterEqual(int(said[0]["EXTEND_TIMEOUT_USEC"]), 60_000_000)
            self.assertEqual(len(generate(self.path)), 4)
            daemon.process.terminate()
            self.assertIn("STATUS", daemon.until("STOPPING")[-1])
            self.assertEqual(daemon.process.wait(LIMIT_S), 0)

    def test_ready_is_weights_and_pool_and_not_a_second_more(self) -> None:
        with Supervised(self.directory, self.listener()) as daemon:
            daemon.until("READY")
            with iokv.Client(self.path) as client:
                counters = {name: counter.value for name, counter in client.counters().items()}
            rest_ns = counters["ready_after_ns"] - counters["weights_loaded_ns"] - counters["pool_prepared_ns"]
            self.assertTrue(0 < rest_ns < 1_000_000_000, counters["ready_after_ns"])
            self.assertGreater(counters["weights_loaded_ns"], 0)
            self.assertEqual(daemon.end(), 0)

    def test_an_idle_daemon_and_a_busy_one_are_alive(self) -> None:
        with Supervised(self.directory, self.listener(), watchdog_us=100_000) as daemon:
            daemon.until("READY")
            for _ in range(3):
                self.assertEqual(daemon.until("WATCHDOG")[-1]["WATCHDOG"], "1")
            with iokv.Client(self.path) as client, client.open() as sequence:
                for _ in sequence.step([1, 2, 3], max_tokens=200):
                    pass
            daemon.until("WATCHDOG")
            self.assertEqual(daemon.end(), 0)

    def test_without_a_watchdog_nothing_is_said_while_nothing_happens(self) -> None:
        with Supervised(self.directory, self.listener()) as daemon:
            daemon.until("READY")
            self.assertEqual(len(generate(self.path)), 4)
            self.assertEqual(daemon.end(), 0)
            rest = []
            daemon.notify.settimeout(0)
            try:
                while True:
                    rest.append(daemon.next())
            except BlockingIOError:
                pass
            self.assertEqual([list(message)[0] for message in rest], ["STOPPING"])

    def test_sighup_reloads_what_it_can_and_says_what_it_cannot(self) -> None:
        config = self.directory / "iokvd.toml"
        config.write_text('log_level = "info"\nmax_clients = 8\n')
        with Supervised(self.directory, self.listener(), "--config", str(config)) as daemon:
            daemon.until("READY")
            config.write_text('log_level = "debug"\nmax_clients = 9\nstall_lease_ms = 5\n')
            daemon.process.send_signal(signal.SIGHUP)
            reloading = daemon.until("RELOADING")[-1]
            self.assertGreater(int(reloading["MONOTONIC_USEC"]), 0)
            daemon.until("READY")
            config.write_text('log_level = "debug"\nmax_clients = "few"\n')
            daemon.process.send_signal(signal.SIGHUP)
            daemon.until("RELOADING")
            daemon.until("READY")
            self.assertEqual(len(generate(self.path)), 4)  # debug level: that a client has joined is logged
            self.assertEqual(daemon.end(), 0)
            log = "\n".join(daemon.log)
        self.assertIn("reloaded: log_level: info -> debug", log)
        self.assertIn("reloaded: stall_lease_ms: 10000 -> 5", log)
        self.assertIn("not reloaded: max_clients: 8 -> 9", log)
        self.assertIn(f'not reloaded, and the one before it goes on: {config}:2: max_clients: "few"', log)
        self.assertIn("has joined", log)
        # Standard error is the journal here: each line says how grave it is.
        self.assertEqual([line for line in daemon.log if line[:3] not in ("<3>", "<4>", "<6>", "<7>")], [])
        self.assertIn("<4>not reloaded: max_clients", log)

    def test_a_flood_of_refusals_is_a_few_lines(self) -> None:
        with Supervised(self.directory, self.listener()) as daemon:
            daemon.until("READY")
            for _ in range(200):
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
                    stranger.connect(self.path)
                    stranger.send(b"no protocol at all")
                    stranger.recv(4096)
            self.assertEqual(daemon.end(), 0)
        self.assertTrue(1 <= sum("refused" in line for line in daemon.log) <= 22, daemon.log)


def generate(path: str) -> list[int]:
    with iokv.Client(path) as client, client.open() as sequence:
        return sequence.generate([1, 2, 3], 4)


if __name__ == "__main__":
    unittest.main()
