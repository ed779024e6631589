# SPDX-License-Identifier: Apache-2.0
"""Which device the daemon takes: what was asked for by name or an error, and with auto one line that says what and why."""

import ctypes
import unittest

from iokvd import Daemon, DaemonFailed


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


class Backend(unittest.TestCase):
    def refused(self, *arguments: str) -> str:
        with self.assertRaises(DaemonFailed) as failed, Daemon("--profile", "off", *arguments):
            pass
        self.assertEqual(failed.exception.status, 1)
        return failed.exception.output

    def started(self, *arguments: str) -> str:
        with Daemon("--profile", "off", "--recompute", "never", *arguments) as daemon:
            return "\n".join(daemon.output)

    def test_a_gpu_that_is_not_there_is_refused_and_auto_takes_the_cpu(self) -> None:
        # No machine has a thousand GPUs; without a driver there is not even a first one.
        reason = "CUDA cannot be used: "
        gpus = ("1023",) if has_driver() else ("1023", "0")
        if not has_driver():
            reason += "there is no NVIDIA driver (libcuda.so.1"
        for gpu in gpus:
            with self.subTest(gpu=gpu):
                why = self.refused("--backend", "cuda", "--gpu", gpu)
                self.assertIn(reason, why)
                self.assertNotIn("ready", why)
                self.assertIn(f"backend = auto: the CPU ({reason}", self.started("--backend", "auto", "--gpu", gpu))

    def test_what_only_a_cpu_does_makes_auto_take_it(self) -> None:
        for option, value in (("--link-gbps", "4"), ("--threads", "1"), ("--dtype", "f32")):
            with self.subTest(option=option):
                self.assertIn("backend = auto: the CPU (", self.started("--backend", "auto", option, value))

    def test_the_cpu_by_name_says_nothing_of_gpus(self) -> None:
        self.assertNotIn("CUDA", self.started("--backend", "cpu"))

    def test_settings_of_another_device_are_refused(self) -> None:
        self.assertIn("--backend cpu", self.refused("--backend", "cuda", "--link-gbps", "1"))
        self.assertIn("f32 or bf16", self.refused("--backend", "cpu", "--dtype", "f16"))


if __name__ == "__main__":
    unittest.main()
