# SPDX-License-Identifier: Apache-2.0
"""What iokv-serve costs: 16 streams of server-sent events over a Unix socket beside the C client with 16 sequences, in turn,
on one daemon. Both decode greedily from prompts of one token and stop at no end token. The HTTP client counts events and does
nothing else with them; it shares the cores with server and daemon."""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import time
from pathlib import Path

from iokvd import LIMIT_S, ROOT, Daemon
from measure import Load, arguments, median, report, run_together, start_daemon

STREAMS = 16


class Server:
    """iokv-serve in a process of its own, under the Python that has its packages."""

    def __init__(self, daemon: Daemon) -> None:
        python = subprocess.run([str(ROOT / "scripts" / "serve_python")], check=True, capture_output=True, text=True)
        self.path = str(daemon.directory / "serve.sock")
        self.process = subprocess.Popen(
            [python.stdout.strip(), "-B", "-m", "iokv.serve.main", "--socket", daemon.socket, "--uds", self.path, "--model", "m"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + LIMIT_S
        while not Path(self.path).exists():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("iokv-serve has not started")
            time.sleep(0.05)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(LIMIT_S)

    def cpu_s(self) -> float:
        """Processor time that the server has taken so far; unlike rates, other work on the machine hardly changes it."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stream(self, number: int, tokens: int) -> socket.socket:
        body = json.dumps(
            {"model": "m", "prompt": [100 + number], "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True}
        )
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        head = f"POST /v1/completions HTTP/1.1\r\nhost: m\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        return connection


def run_streams(server: Server, tokens: int) -> float:
    """Tokens a second of STREAMS streams together."""
    started = time.monotonic()
    waiting = selectors.DefaultSelector()
    for number in range(STREAMS):
        waiting.register(server.stream(number, tokens), selectors.EVENT_READ, bytearray())
    while waiting.get_map():
        for key, _ in waiting.select():
            connection, received = key.fileobj, key.data
            assert isinstance(connection, socket.socket)
            part = connection.recv(65536)
            received += part
            if part and b"[DONE]" not in received[-64:]:
                continue
            waiting.unregister(connection)
            connection.close()
            if not received.startswith(b"HTTP/1.1 200") or b'"finish_reason": "length"' not in received:
                raise RuntimeError(f"a stream failed: {bytes(received[:300])!r}")
    return STREAMS * tokens / (time.monotonic() - started)


def main() -> None:
    given = arguments(__doc__)
    rounds, tokens = (1, 16) if given.quick else (7, 128)
    through_http, through_c = [], []
    with start_daemon(given.model) as daemon, Server(daemon) as server, Load(daemon, STREAMS, 1, tokens) as load:
        load.await_ready()
        run_streams(server, tokens)
        run_together([load])
        cpu_s = server.cpu_s()
        for _ in range(rounds):
            through_c.append(run_together([load])[0])
            through_http.append(run_streams(server, tokens))
        cpu_us = (server.cpu_s() - cpu_s) * 1e6 / (rounds * STREAMS * tokens)
    http, c = median(through_http), median(through_c)
    figures = {"serve_tokens_per_s": round(http, 1), "c_tokens_per_s": round(c, 1), "serve_over_c": round(http / c, 3),
               "serve_cpu_us_per_token": round(cpu_us, 1)}  # fmt: skip
    rows = [
        [f"C client, {STREAMS} sequences", f"{c:.1f} tokens/s", ""],
        [f"iokv-serve, {STREAMS} streams", f"{http:.1f} tokens/s", f"{http / c:.3f} x the C client"],
        ["processor time of iokv-serve", f"{cpu_us:.0f} us a token", ""],
    ]
    report("OpenAI's API in front of the daemon", ["who", "measured", "ratio"], rows, figures, given.json)


if __name__ == "__main__":
    main()
