# SPDX-License-Identifier: Apache-2.0
"""`iokv top`, `generate`, `bench`, `doctor` and `model inspect`, as their users see them."""

import json
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import iokv
from iokvd import LIMIT_S, MODEL, ROOT, TOOL, Daemon, prompt


def tool(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOOL), *arguments], check=False, capture_output=True, text=True, timeout=LIMIT_S, input=stdin
    )


class Served(unittest.TestCase):
    daemon: Daemon

    @classmethod
    def setUpClass(cls) -> None:
        cls.daemon = Daemon()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.daemon.close()

    def test_top_shows_who_is_there_and_what_they_get(self) -> None:
        with iokv.Client(self.daemon.socket, name="a-client") as client:
            sequence = client.open()
            operation = sequence.step(prompt(20, 1, 100), 900)
            next(iter(operation))
            text = tool("top", "--socket", self.daemon.socket, "--frames", "2", "--interval", "0.3").stdout
            operation.result()
        self.assertEqual(text.count(f"pid {self.daemon.process.pid}"), 2)
        rates = [float(rate) for rate in re.findall(r"tokens/s +([\d.]+) sampled", text)]
        self.assertGreater(max(rates), 0)
        self.assertRegex(text, r"bound by +(the device's dense work|the clients|nothing)")
        self.assertRegex(text, r"a-client +1 ")
        self.assertRegex(text, r"pool +[\d.]+ % of [\d.]+ [MG]iB in use")

    def test_top_ends_when_the_daemon_does(self) -> None:
        with Daemon() as daemon:
            process = subprocess.Popen(
                [str(TOOL), "top", "--socket", daemon.socket, "--interval", "0.1"], stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert process.stdout is not None
            process.stdout.readline()
            daemon.kill()
            _, said = process.communicate(timeout=LIMIT_S)
        self.assertEqual(process.returncode, 1)
        self.assertIn("the daemon is gone", said)

    def test_bench_asks_for_as_many_as_a_poisson_process_of_its_rate_brings(self) -> None:
        done = tool("bench", "--socket", self.daemon.socket, "--rate", "100", "--seconds", "2", "--prompt", "8",
                    "--generate", "5", "--json")  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        # Mean 200, deviation 14: six of them.
        self.assertTrue(115 < answer["requests"] < 285, answer["requests"])
        self.assertEqual(answer["finished"], answer["requests"])
        self.assertEqual(answer["tokens"], 5 * answer["requests"])
        self.assertEqual(answer["first_token"]["count"], answer["requests"])
        self.assertEqual(answer["between_tokens"]["count"], 4 * answer["requests"])
        for times in ("first_token", "between_tokens", "whole_request"):
            ordered = [answer[times][name] for name in ("p50_ns", "p90_ns", "p99_ns", "max_ns")]
            self.assertEqual(ordered, sorted(ordered))
        self.assertGreaterEqual(answer["whole_request"]["max_ns"], answer["first_token"]["max_ns"])
        text = tool("bench", "--socket", self.daemon.socket, "--rate", "40", "--seconds", "0.5", "--generate", "3").stdout
        counts = re.findall(r"<= +[\d.]+ \w+ +(\d+) ", text.split("\nfirst token\n")[1].split("\nbetween")[0])
        self.assertEqual(sum(map(int, counts)), int(re.findall(r"(\d+) finished", text)[0]))

    def test_bench_beyond_the_context_says_so(self) -> None:
        done = tool("bench", "--socket", self.daemon.socket, "--prompt", "999999")
        self.assertEqual(done.returncode, 1)
        self.assertIn("context of", done.stderr)

    def test_generate_without_a_tokenizer_says_so(self) -> None:
        done = tool("generate", "hello", "--socket", self.daemon.socket)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "tokenizer")

    def test_a_healthy_machine_with_a_daemon_has_nothing_bad(self) -> None:
        with tempfile.TemporaryDirectory() as root:
            machine(Path(root))
            done = tool("doctor", "--socket", self.daemon.socket, "--root", root, "--json")
            findings = json.loads(done.stdout)
            self.assertEqual({finding["health"] for finding in findings}, {"ok"}, findings)
            self.assertEqual(done.returncode, 0)
            self.assertIn(f"pid {self.daemon.process.pid}", findings[0]["what"])


def machine(root: Path, *, enabled: str = "always [madvise] never", width: str = "16", available: int = 50) -> None:
    """/proc and /sys of a machine with one GPU."""
    files = {
        "proc/meminfo": f"MemTotal: 104857600 kB\nMemAvailable: {available * 1048576} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
        "proc/self/limits": "Max locked memory         unlimited            unlimited            bytes\n",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.1\n",
        "sys/kernel/mm/transparent_hugepage/enabled": enabled + "\n",
        "sys/kernel/mm/transparent_hugepage/shmem_enabled": "always within_size [advise] never\n",
        "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
        "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n",
        "sys/bus/pci/devices/0000:01:00.0/current_link_width": width + "\n",
        "sys/bus/pci/devices/0000:01:00.0/max_link_width": "16\n",
        "sys/bus/pci/devices/0000:01:00.0/current_link_speed": "32.0 GT/s PCIe\n",
        "sys/bus/pci/devices/0000:01:00.0/max_link_speed": "32.0 GT/s PCIe\n",
        "sys/bus/pci/devices/0000:02:00.0/vendor": "0x8086\n",
        "sys/bus/pci/devices/0000:02:00.0/class": "0x030000\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Doctor(unittest.TestCase):
    def examine(self, root: Path) -> dict[str, dict[str, str]]:
        done = tool("doctor", "--socket", "/nonexistent-iokv/iokv.sock", "--root", str(root), "--json")
        self.assertEqual(done.returncode, 1)
        return {finding["subject"]: finding for finding in json.loads(done.stdout)}

    def test_each_lack_has_its_fix(self) -> None:
        cases: list[tuple[dict[str, object], str, str]] = [
            ({"width": "4"}, "PCIe", "4 of 16 lanes"),
            ({"enabled": "always madvise [never]"}, "huge pages", "echo madvise"),
            ({"available": 2}, "memory", "a smaller pool"),
        ]
        for change, subject, fix in cases:
            with self.subTest(subject=subject), tempfile.TemporaryDirectory() as root:
                machine(Path(root), **change)  # type: ignore[arg-type]
                found = self.examine(Path(root))
                self.assertEqual(found[subject]["health"], "BAD")
                self.assertIn(fix, found[subject]["fix"])
                self.assertEqual([name for name in found if found[name]["health"] == "BAD"], ["socket", subject])

    def test_a_gpu_without_a_driver_and_a_daemon_that_is_not_there(self) -> None:
        with tempfile.TemporaryDirectory() as root:
            machine(Path(root))
            (Path(root) / "proc/driver/nvidia/version").unlink()
            found = self.examine(Path(root))
            self.assertIn("no driver is loaded", found["driver"]["what"])
            self.assertIn("start the daemon", found["socket"]["fix"])


class Inspect(unittest.TestCase):
    def test_what_it_says_is_in_the_files(self) -> None:
        config = json.loads((MODEL / "config.json").read_text())
        answer = json.loads(tool("model", "inspect", str(MODEL), "--tensors", "--json").stdout)
        self.assertEqual(answer["layers"], config["num_hidden_layers"])
        self.assertEqual(answer["kv_heads"], config["num_key_value_heads"])
        data = (MODEL / "model.safetensors").read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        header.pop("__metadata__", None)
        self.assertEqual({one["name"]: one["shape"] for one in answer["tensors"]},
                         {name: tensor["shape"] for name, tensor in header.items()})  # fmt: skip
        sizes = [end - begin for begin, end in (tensor["data_offsets"] for tensor in header.values())]
        self.assertEqual(answer["stored_bytes"], sum(sizes))
        width = config["num_key_value_heads"] * config["head_dim"]
        self.assertEqual(answer["kv_bytes_a_token"], 2 * 2 * width * config["num_hidden_layers"])
        self.assertIn(config["model_type"], tool("model", "inspect", str(MODEL)).stdout)

    def test_what_is_no_model_is_named(self) -> None:
        done = tool("model", "inspect", str(ROOT / "README.md"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("README.md", done.stderr)


if __name__ == "__main__":
    unittest.main()
