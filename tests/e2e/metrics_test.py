# SPDX-License-Identifier: Apache-2.0
"""`iokv metrics`: once, over a Unix socket, and over loopback TCP that a supervisor passes on."""

import http.client
import re
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import iokv
from iokvd import LIMIT_S, ROOT, TOOL, Daemon
from supervisor_test import START

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-z_]+="[^"]*"(?:,[a-z_]+="[^"]*")*\})? ([0-9.]+)')


def parse(text: str) -> tuple[dict[str, float], dict[str, str], dict[str, str]]:
    """Samples, types and help of the text format, which it must be to the letter: HELP and TYPE before their samples,
    each once, every line ended."""
    samples: dict[str, float] = {}
    types: dict[str, str] = {}
    helps: dict[str, str] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# "):
            _, what, name, rest = line.split(" ", 3)
            target = {"HELP": helps, "TYPE": types}[what]
            assert name not in target, line
            target[name] = rest
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        name = match[1] + (match[2] or "")
        family = match[1] if match[1] in types else re.sub(r"_(bucket|sum|count)$", "", match[1])
        assert family in types and family in helps and name not in samples, line
        samples[name] = float(match[3])
    return samples, types, helps


class HttpOverUnix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=LIMIT_S)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(LIMIT_S)
        self.sock.connect(self.path)


def ask(connection: http.client.HTTPConnection, method: str = "GET", target: str = "/metrics") -> tuple[int, str]:
    connection.request(method, target)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


class Metrics(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def serve(self, daemon_socket: str, passed: socket.socket | None = None) -> subprocess.Popen[bytes]:
        command = [str(TOOL), "metrics", "--socket", daemon_socket]
        if passed is None:
            command += ["--listen", str(self.directory / "metrics.sock")]
        number = -1 if passed is None else passed.fileno()
        process = subprocess.Popen([sys.executable, "-c", START, str(number), *command],
                                   pass_fds=() if passed is None else (number,), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)

        def end() -> None:
            process.kill()
            process.communicate(timeout=LIMIT_S)

        self.addCleanup(end)
        if passed is None:
            assert process.stdout is not None
            self.assertIn(b"listening on", process.stdout.readline())
        return process

    def over_unix(self) -> HttpOverUnix:
        return HttpOverUnix(str(self.directory / "metrics.sock"))

    def test_every_counter_is_there_with_its_meaning_and_value(self) -> None:
        with Daemon() as daemon, iokv.Client(daemon.socket) as client, client.open() as sequence:
            sequence.generate([1, 2, 3], 5)
            earlier = daemon.status()
            text = subprocess.run([str(TOOL), "metrics", "--socket", daemon.socket], check=True, capture_output=True,
                                  text=True, timeout=LIMIT_S).stdout
            status = daemon.status()
        samples, types, helps = parse(text)
        self.assertEqual(samples["iokv_up"], 1)
        described = re.findall(r'^  X\((\w+), "([^"]+)", "([^"]*)"\)',
                               Path(ROOT, "wire", "counters.h").read_text(), re.MULTILINE)
        self.assertEqual([name for name, _, _ in described], list(status))
        for name, unit, meaning in described:
            if name in ("instance", "pid") or name.startswith(("first_token_", "token_gap_")):
                continue
            base = {"ns": re.sub("_ns$", "_seconds", name), "1e-6": re.sub("(_ratio)?_ppm$", "_ratio", name)}.get(unit, name)
            found = [n for n in (f"iokv_{base}", f"iokv_{base}_total") if n in types and helps[n] == meaning]
            self.assertEqual(len(found), 1, name)
            scale = {"ns": 1e-9, "1e-6": 1e-6}.get(unit, 1)
            # The step behind the last token may still have been under way.
            bounds = sorted((earlier[name] * scale, status[name] * scale))
            self.assertTrue(bounds[0] - 1e-9 <= samples[found[0]] <= bounds[1] + 1e-9, (name, bounds, samples[found[0]]))
            self.assertEqual(types[found[0]], "counter" if found[0].endswith("_total") else "gauge")
        self.assertEqual(types["iokv_first_token_seconds"], "histogram")
        self.assertEqual(samples["iokv_first_token_seconds_count"], 1)
        self.assertEqual(samples["iokv_token_gap_seconds_count"], 4)
        buckets = [value for name, value in samples.items() if name.startswith("iokv_token_gap_seconds_bucket")]
        self.assertEqual(buckets, sorted(buckets))
        self.assertEqual(buckets[-1], 4)
        self.assertEqual(len(buckets), 18)
        bounds = [float(bound) for bound in re.findall(r'token_gap_seconds_bucket\{le="([0-9.]+)"', text)]
        self.assertEqual(bounds, sorted(bounds))
        # The mean lies within the bounds that the tokens were counted in.
        mean = samples["iokv_first_token_seconds_sum"]
        under = [b for b in bounds if samples[f'iokv_first_token_seconds_bucket{{le="{b:g}"}}'] == 1]
        self.assertLessEqual(mean, min(under))
        self.assertGreater(mean, max([b for b in bounds if b not in under], default=0))

    def test_a_unix_socket_answers_http_and_outlives_daemons(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            daemon_socket = str(Path(place) / "iokv.sock")
            self.serve(daemon_socket)
            status, text = ask(self.over_unix())
            self.assertEqual((status, parse(text)[0]), (200, {"iokv_up": 0.0}))
            for _ in range(2):
                with Daemon(socket=daemon_socket) as daemon:
                    samples = parse(ask(self.over_unix())[1])[0]
                    self.assertEqual(samples["iokv_up"], 1)
                    self.assertIn(f'pid="{daemon.process.pid}"', next(n for n in samples if "daemon_info" in n))
                    self.assertEqual(daemon.stop(), 0)
            self.assertEqual(parse(ask(self.over_unix())[1])[0]["iokv_up"], 0)

    def test_loopback_tcp_that_is_passed_on(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, Daemon() as daemon:
            self.serve(daemon.socket, listener)
            port = listener.getsockname()[1]
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
            self.assertEqual(parse(ask(connection)[1])[0]["iokv_ready"], 1)
            self.assertEqual(ask(connection, target="/other")[0], 404)
            self.assertEqual(ask(connection, method="POST")[0], 405)
            self.assertEqual(ask(connection, method="HEAD"), (200, ""))
            # Somebody who says nothing, and somebody who says too much, keep nobody else from an answer.
            with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as loud:
                loud.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000)
                self.assertEqual(ask(connection)[0], 200)

    def test_looking_costs_the_daemon_nothing(self) -> None:
        with Daemon() as daemon:
            self.serve(daemon.socket)
            ask(self.over_unix())
            costs = []
            # The daemon may still be on its way to sleep from the connection: then the first round sees that.
            while len(costs) < 5 and 0 not in costs:
                before = daemon.context_switches()
                for _ in range(50):
                    self.assertEqual(ask(self.over_unix())[0], 200)
                costs.append(daemon.context_switches() - before)
            self.assertEqual(costs[-1], 0, costs)

    def test_a_socket_of_another_kind_is_refused(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wrong:
            wrong.bind(str(self.directory / "wrong"))
            process = self.serve("/nonexistent", wrong)
            _, said = process.communicate(timeout=LIMIT_S)
        self.assertEqual(process.returncode, 1)
        self.assertIn(b"ListenStream=", said)


if __name__ == "__main__":
    unittest.main()
