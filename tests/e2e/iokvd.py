# SPDX-License-Identifier: Apache-2.0
"""Real processes for the end-to-end tests: a daemon on a private socket, the tools of the build, copies of the small
golden models. $IOKV_BUILD names the build directory; ctest sets it.

Invariants
 1. Nothing waits by sleeping: a daemon is ready when it says so, a process has ended when it was waited for.
 2. A Daemon leaves no process and no file behind, whatever the test does.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("IOKV_BUILD", ROOT / "build" / "release"))
IOKVD = BUILD / "daemon" / "iokvd"
TOOL = BUILD / "tools" / "iokv"
MODEL = ROOT / "tests" / "golden" / os.environ.get("IOKV_TEST_MODEL", "llama_gqa")
# Tests say what a CPU does, also where there is a GPU.
BACKEND = os.environ.get("IOKV_TEST_BACKEND", "cpu")
LIMIT_S = 60.0


class DaemonFailed(Exception):
    """The daemon ended before it was ready, or said nothing for long (status 0)."""

    def __init__(self, status: int, output: str) -> None:
        super().__init__(f"exit status {status}: {output}")
        self.status = status
        self.output = output


class Daemon:
    """An iokvd process. Ready when the constructor returns; ended by `stop`, `kill` or the end of a `with` block."""

    def __init__(self, *arguments: str, model: Path | str = MODEL, socket: Path | str | None = None,
                 core_limit: int | None = None) -> None:
        """`core_limit`: of the size of a core, which would be left in `directory`."""
        self.directory = Path(tempfile.mkdtemp(prefix="iokv-e2e-"))
        self.socket = str(socket or self.directory / "iokv.sock")
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.output: list[str] = []
        backend = [] if "--backend" in arguments else ["--backend", BACKEND]
        self.process = subprocess.Popen(
            [str(IOKVD), "--model", str(model), "--socket", self.socket, *backend, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=None if core_limit is None else self.directory,
            preexec_fn=None if core_limit is None else lambda: resource.setrlimit(
                resource.RLIMIT_CORE, (core_limit, core_limit)),
            env={"IOKV_STATE_DIRECTORY": str(self.directory / "state"), **os.environ},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._await_ready()
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line.rstrip("\n"))
            self._lines.put(line)
        self._lines.put(None)

    def _await_ready(self) -> None:
        while True:
            try:
                line = self._lines.get(timeout=LIMIT_S)
            except queue.Empty:
                said = "\n".join(self.output)
                raise DaemonFailed(0, f"not ready, and silent for {LIMIT_S:g} s, after: {said}") from None
            if line is None:
                raise DaemonFailed(self.process.wait(LIMIT_S), "\n".join(self.output))
            if "ready on" in line:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)

    def status(self) -> dict[str, int]:
        """The counters, as `iokv status --json` prints them."""
        text = subprocess.run(
            [str(TOOL), "status", "--json", "--socket", self.socket],
            check=True,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        ).stdout
        counters: dict[str, int] = json.loads(text)
        return counters

    def memory_bytes(self, field: str = "VmRSS") -> int:
        """A kB line of /proc/PID/status."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise KeyError(field)

    def context_switches(self) -> int:
        """Voluntary context switches of every thread: one for each time that one of them went to sleep."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches:"):
                    total += int(line.split()[1])
        return total

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def refusal(*arguments: str, **where: Path | str) -> tuple[int, str]:
    """Starts a daemon that must not become ready; returns its exit status and what it printed."""
    try:
        daemon = Daemon(*arguments, **where)
    except DaemonFailed as failure:
        return failure.status, failure.output
    daemon.close()
    raise AssertionError("the daemon became ready")


class ModelCopy:
    """A writable copy of a golden model's directory."""

    def __init__(self, model: Path = MODEL) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="iokv-model-"))
        self.path = self.directory / model.name
        shutil.copytree(model, self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def weights(self) -> Path:
        return next(self.path.glob("*.safetensors"))

    def edit_config(self, **values: object) -> None:
        path = self.path / "config.json"
        config = json.loads(path.read_text())
        config.update(values)
        path.write_text(json.dumps(config))

    def edit_header(self, edit: Callable[[dict[str, Any]], None]) -> None:
        """Passes the safetensors header as a dict to `edit` and writes it back."""
        data = self.weights.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        edit(header)
        text = json.dumps(header).encode()
        self.weights.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def prompt(length: int, seed: int, vocabulary: int) -> list[int]:
    """A fixed sequence of tokens."""
    return [(seed * 7919 + i * 104729 + i * i) % vocabulary for i in range(length)]
