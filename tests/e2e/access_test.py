# SPDX-License-Identifier: Apache-2.0
"""Limits of a user, and that prompts stay in the daemon's memory. All clients here are of one user, who has an exception
of his own; two users are in tests/conductor."""

import os
import resource
import unittest
from pathlib import Path

import iokv
from iokvd import LIMIT_S, Daemon

# 32 tokens that nothing else contains, as numbers and as the bytes of int32.
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern").read_text().strip()
PROMPT = [87, 53, 91, 35, 79, 68, 82, 61] * 4
PROMPT_BYTES = b"".join(token.to_bytes(4, "little") for token in PROMPT)


class Access(unittest.TestCase):
    def test_a_user_with_as_many_clients_as_he_may_is_told_so(self) -> None:
        with Daemon("--user-limit", f"{os.getuid()}=clients:2") as daemon:
            with iokv.Client(daemon.socket) as one, iokv.Client(daemon.socket):
                with self.assertRaisesRegex(iokv.LimitError, r"uid \d+ has as many clients connected as he may, 2 \(user_clients"):
                    iokv.Client(daemon.socket)
                one.nop()
                self.assertEqual(daemon.status()["clients"], 2)  # and an observer is no client
            with iokv.Client(daemon.socket) as after:
                after.nop()

    def test_a_limit_of_sequences_counts_all_of_a_users_clients(self) -> None:
        with Daemon("--user-sequences", "3") as daemon:
            with iokv.Client(daemon.socket) as one, iokv.Connection(daemon.socket) as other:
                one.open(), one.open()
                results = []
                for _ in range(2):
                    _, operation = other.open()
                    other.submit()
                    results += [c for c in other.reap(timeout=LIMIT_S) if c.operation == operation]
                self.assertEqual([c.result for c in results], [0, iokv.LimitError.code])
                self.assertEqual(results[1].index, 3)  # IOKV_LIMIT_USER_SEQUENCES

    def test_prompts_are_neither_logged_nor_dumped(self) -> None:
        with Daemon("--log-level", "debug", "--audit", "1") as daemon:
            with iokv.Client(daemon.socket) as client, client.open() as sequence:
                sequence.generate(PROMPT, 8)
                limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
                self.assertRegex(limits, r"Max core file size +0 +0 ")
                process = Path(f"/proc/{daemon.process.pid}")
                self.assertEqual(int((process / "coredump_filter").read_text(), 16), 0)
                undumped = {line.split()[-1] for line in mappings(process) if "dd" in line.split()[:-1]}
                for name in ("/memfd:iokv-up", "/memfd:iokv-down"):
                    self.assertTrue(any(path.startswith(name) for path in undumped), (name, undumped))
            log = "\n".join(daemon.output)
        self.assertNotIn(str(PROMPT[0]) + ", " + str(PROMPT[1]), log)
        self.assertNotIn(f"{PROMPT[0]} {PROMPT[1]}", log)

    @unittest.skipUnless(CORE_PATTERN in ("core", "core.%p"),
                         f"/proc/sys/kernel/core_pattern is {CORE_PATTERN!r}; \"core\" leaves cores where the test looks")
    def test_a_crash_leaves_no_core_unless_it_is_asked_for(self) -> None:
        unlimited = resource.getrlimit(resource.RLIMIT_CORE)[1]
        if unlimited == 0:
            self.skipTest("RLIMIT_CORE's hard limit is 0; `ulimit -Hc unlimited` before the test lets it run")
        for asked in (False, True):
            arguments = ("--core-dumps", "on") if asked else ()
            with Daemon(*arguments, core_limit=unlimited) as daemon:
                with iokv.Client(daemon.socket) as client, client.open() as sequence:
                    sequence.generate(PROMPT, 8)
                    daemon.process.send_signal(6)
                    daemon.process.wait(LIMIT_S)
                cores = list(daemon.directory.glob("core*"))
                self.assertEqual(len(cores), 1 if asked else 0)
                if asked:
                    # The token ids are in the dump that was asked for: so the test would see them.
                    self.assertIn(PROMPT_BYTES, cores[0].read_bytes())


def mappings(process: Path) -> list[str]:
    """One line a mapping: its flags, and its path or "-"."""
    lines = []
    path = "-"
    for line in (process / "smaps").read_text().splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):
            path = fields[5] if len(fields) > 5 else "-"
        if fields[0] == "VmFlags:":
            lines.append(" ".join([*fields[1:], path]))
    return lines


if __name__ == "__main__":
    unittest.main()
