# SPDX-License-Identifier: Apache-2.0
"""Units, configuration and manual pages as they are installed."""

import os
import re
import signal
import subprocess
import sys
import unittest
from pathlib import Path

from installed import ROOT, InstalledCase, main, needs, run

# What a unit may be exposed to by the count of `systemd-analyze security`, 0 to 10.
MOST_EXPOSED = 1.0


class Units(InstalledCase):
    def units(self, kind: str = "system") -> list[Path]:
        return sorted((self.prefix / "lib" / "systemd" / kind).iterdir())

    @needs("systemd-analyze")
    def test_services_are_exposed_to_little(self) -> None:
        for unit in self.units():
            if unit.suffix != ".service":
                continue
            text = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
            found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
            self.assertIsNotNone(found, text)
            assert found
            self.assertLessEqual(float(found[1]), MOST_EXPOSED, f"{unit.name}\n{text}")

    @needs("systemd-analyze")
    def test_systemd_understands_every_directive(self) -> None:
        for kind in ("system", "user"):
            # Both kinds have an iokvd.service: of the one that is checked the directory comes first.
            environment = {"SYSTEMD_UNIT_PATH": f"{self.prefix}/lib/systemd/{kind}:", "PATH": "/usr/bin:/bin",
                           "XDG_RUNTIME_DIR": str(self.prefix)}
            done = subprocess.run(["systemd-analyze", "verify", "--man=no", f"--{kind}", *map(str, self.units(kind))],
                                  capture_output=True, text=True, env=environment)
            ours = [line for line in done.stderr.splitlines() if "iokv" in line]
            self.assertEqual((done.returncode, ours), (0, []), done.stderr)

    @needs("systemd-analyze")
    @needs("strace")
    def test_the_daemon_makes_only_the_system_calls_that_its_unit_allows(self) -> None:
        sys.path += [str(ROOT / "tests" / "e2e"), str(ROOT / "bindings" / "python" / "src")]
        os.environ.setdefault("IOKV_LIBRARY", str(next(self.prefix.rglob("libiokv.so.1"))))
        import iokv

        log = self.prefix / "calls"
        path = str(self.prefix / "iokv.sock")
        command = [self.prefix / "bin/iokvd", "--model", ROOT / "tests/golden/llama_gqa", "--backend", "cpu", "--socket", path,
                   "--state-directory", self.prefix / "state"]
        with subprocess.Popen(["strace", "-f", "-qq", "-o", str(log), *map(str, command)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as traced:
            assert traced.stdout is not None
            self.addCleanup(traced.kill)
            self.assertIn("ready", traced.stdout.readline())
            # strace's own child: signals sent to strace would end it alone.
            daemon = int(Path(f"/proc/{traced.pid}/task/{traced.pid}/children").read_text().split()[0])
            with iokv.Client(path) as client, client.open() as sequence:
                self.assertEqual(len(sequence.generate([1, 2, 3], 4)), 4)
            os.kill(daemon, signal.SIGHUP)
            with iokv.Client(path) as client:
                client.nop()
            os.kill(daemon, signal.SIGTERM)
            self.assertEqual(traced.wait(60), 0)
        made = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))
        self.assertIn("epoll_wait", made)
        allowed: set[str] = set()
        for words in re.findall(r"^SystemCallFilter=(.*)", (self.prefix / "lib/systemd/system/iokvd.service").read_text(), re.MULTILINE):
            calls = {call for word in words.lstrip("~").split() for call in expand(word)}
            allowed = allowed - calls if words.startswith("~") else allowed | calls
        self.assertEqual(made - allowed, set())

    def test_what_cuda_needs_is_allowed(self) -> None:
        text = (self.prefix / "lib/systemd/system/iokvd.service").read_text()
        directives = [line for line in text.splitlines() if line and line[0] not in "#["]
        for device in ("char-nvidia", "char-nvidia-uvm", "char-nvidia-caps"):
            self.assertIn(f"DeviceAllow={device} rw", directives)
        for hides in ("PrivateUsers=yes", "PrivateDevices=yes", "ProcSubset=pid"):
            self.assertNotIn(hides, directives)
        self.assertIn("LimitMEMLOCK=infinity", directives)
        self.assertIn("LimitCORE=0", directives)

    def test_paths_are_those_of_the_installation(self) -> None:
        for unit in [*self.units(), *self.units("user")]:
            for program in re.findall(r"^Exec\w+=(/\S+)", unit.read_text(), re.MULTILINE):
                self.assertTrue(Path(program).exists(), f"{unit.name}: {program}")
            self.assertNotIn("@", re.sub(r"@(system-service|privileged|resources)", "", unit.read_text()))

    def test_the_default_configuration_says_nothing_wrong(self) -> None:
        path = self.prefix / "etc/iokv/iokvd.toml"
        program = self.prefix / "bin/iokvd"
        self.assertIn("no mistakes", run(program, "--config", path, "--model", "m", "--check-config"))
        done = subprocess.run([program, "--config", path, "--check-config"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"model in {path}", done.stderr)
        self.assertEqual(path.read_text(), run(program, "--default-config"))

    def test_manuals_name_what_there_is(self) -> None:
        man = self.prefix / "share/man"
        text = {page.name: page.read_text() for page in man.rglob("*.[1358]")}
        self.assertEqual(sorted(text), ["iokv.1", "iokv.3", "iokvd.8", "iokvd.toml.5"])
        self.assertNotIn("@", "".join(text.values()))
        for key in re.findall(r"^#(\w+) = ", (self.prefix / "etc/iokv/iokvd.toml").read_text(), re.MULTILINE):
            self.assertIn(f".BR {key} ", text["iokvd.toml.5"])
        for function in re.findall(r"^    (iokv_\w+);", (ROOT / "libiokv/libiokv.map").read_text(), re.MULTILINE):
            self.assertIn(f"{function}(", text["iokv.3"])
        for command in ("status", "metrics", "trace", "explain", "verify", "plan", "profile"):
            self.assertRegex(text["iokv.1"], rf"(?m)^{command}$")

    @needs("mandoc")
    def test_manuals_are_well_formed(self) -> None:
        pages = sorted((self.prefix / "share/man").rglob("*.[1358]"))
        done = subprocess.run(["mandoc", "-Tlint", "-W", "warning", *map(str, pages)], capture_output=True, text=True)
        complaints = [line for line in done.stdout.splitlines() if "missing date" not in line]
        self.assertEqual(complaints, [])


def expand(word: str) -> set[str]:
    """The system calls of a set of systemd's, sets within it included."""
    if not word.startswith("@"):
        return {word}
    listed = run("systemd-analyze", "syscall-filter", "--no-pager", word)
    words = [line.strip() for line in listed.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
    return {call for one in words for call in expand(one)}


if __name__ == "__main__":
    main()
