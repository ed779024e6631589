# SPDX-License-Identifier: Apache-2.0
"""iokv-serve as its users see it: OpenAI's own client against it, raw HTTP for what that client would not send, types by
mypy. Runs itself again under the Python of scripts/serve_python, and is skipped by name where that is not to be had.

The text side needs a model with a tokenizer: SmolLM2 (scripts/model); the rest is tested with lists of tokens on a model of
tests/golden."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

from iokvd import LIMIT_S, TOOL, Daemon, prompt

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("fastapi", "uvicorn", "openai", "mypy", "numpy", "jinja2", "tokenizers")


def run_with_packages() -> None:
    """Where a package is missing: this file again under a Python that has them all, or status 77."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return
    found = subprocess.run([str(ROOT / "scripts" / "serve_python"), "--offline"], capture_output=True, text=True)
    if found.returncode != 0:
        print(f"skipped: no Python packages {', '.join(missing)}: {found.stderr.strip()}")
        sys.exit(77)
    python = found.stdout.strip()
    os.execv(python, [python, "-B", *sys.argv])


if __name__ == "__main__":
    run_with_packages()

import openai  # noqa: E402

import iokv  # noqa: E402


class Server:
    """An iokv-serve process on a Unix socket; ready when the constructor returns."""

    def __init__(self, daemon: Daemon, *arguments: str, model: str = "tiny") -> None:
        self.path = str(daemon.directory / f"serve-{time.monotonic_ns()}.sock")
        self.log = tempfile.TemporaryFile("w+")
        self.model = model
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-m", "iokv.serve.main", "--socket", daemon.socket, "--uds", self.path, "--model", model,
             *arguments],  # fmt: skip
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if self.request("GET", "/health")[0] == 200:
                    return
            except OSError:
                time.sleep(0.02)  # it does not listen yet, and has no way to say when
        raise AssertionError(f"iokv-serve is not ready: {self.output()}")

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(LIMIT_S)
        self.log.close()

    def connection(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost", timeout=LIMIT_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(self.path)
        except OSError:
            connection.close()
            raise
        return connection

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = self.connection()
        text = body if isinstance(body, (str, bytes)) else json.dumps(body)
        connection.request(method, path, None if body is None else text, {"content-type": "application/json"})
        answer = connection.getresponse()
        status, data = answer.status, answer.read()
        connection.close()
        return status, json.loads(data)

    def transport(self) -> Any:
        import httpx2 as httpx  # what this openai is built on

        return httpx

    def client(self) -> openai.OpenAI:
        http_ = self.transport()
        return openai.OpenAI(
            api_key="none",
            base_url="http://localhost/v1",
            max_retries=0,
            http_client=http_.Client(transport=http_.HTTPTransport(uds=self.path), timeout=LIMIT_S),
        )

    def async_client(self, connections: int) -> openai.AsyncOpenAI:
        http_ = self.transport()
        limits = http_.Limits(max_connections=connections, max_keepalive_connections=connections)
        return openai.AsyncOpenAI(
            api_key="none",
            base_url="http://localhost/v1",
            max_retries=0,
            http_client=http_.AsyncClient(
                transport=http_.AsyncHTTPTransport(uds=self.path, limits=limits), timeout=4 * LIMIT_S
            ),
        )


class Tokens(unittest.TestCase):
    """Prompts of tokens on a tiny model."""

    daemon: Daemon
    server: Server

    @classmethod
    def setUpClass(cls) -> None:
        cls.daemon = Daemon()
        cls.server = Server(cls.daemon)
        cls.openai = cls.server.client()
        cls.client = iokv.Client(cls.daemon.socket)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.client.close()
        cls.server.close()
        cls.daemon.close()

    def drawn(self, start: list[int], most: int, sampling: iokv.Sampling) -> list[int]:
        """What a client of the daemon gets for it, but for an end token. The model has no vocabulary of texts."""
        ends = self.client.info.end_tokens
        tokens = self.client.open().generate(start, most, sampling=sampling, stop_tokens=ends)
        return [token for token in tokens if token not in ends]

    def test_the_model_is_listed(self) -> None:
        self.assertEqual([model.id for model in self.openai.models.list()], ["tiny"])
        self.assertEqual(self.openai.models.retrieve("tiny").object, "model")
        with self.assertRaisesRegex(openai.NotFoundError, "tiny is served"):
            self.openai.completions.create(model="gpt-4", prompt=[1, 2])

    def test_a_completion_is_what_the_daemon_draws(self) -> None:
        start = prompt(12, 3, self.client.info.vocabulary)
        sampling = iokv.Sampling(0.8, 0.9, seed=5, presence_penalty=0.5, frequency_penalty=0.25, frequency_from=12)
        expected = self.drawn(start, 20, sampling)
        ended = len(expected) < 20
        given: dict[str, Any] = dict(model="tiny", prompt=start, max_tokens=20, temperature=0.8, top_p=0.9, seed=5,
                                     presence_penalty=0.5, frequency_penalty=0.25)  # fmt: skip
        answer = self.openai.completions.create(**given, logprobs=3)
        choice = answer.choices[0]
        text = "".join(f"{token} " for token in expected)
        self.assertEqual((choice.text, choice.finish_reason), (text, "stop" if ended else "length"))
        assert answer.usage is not None and choice.logprobs is not None
        self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens), (12, len(expected) + ended))
        self.assertEqual(choice.logprobs.tokens, [f"{token} " for token in expected])
        assert choice.logprobs.top_logprobs is not None
        self.assertTrue(all(len(top) == 3 for top in choice.logprobs.top_logprobs))
        streamed = list(self.openai.completions.create(**given, stream=True, stream_options={"include_usage": True}))
        self.assertEqual("".join(chunk.choices[0].text for chunk in streamed[:-1]), text)
        self.assertEqual(streamed[-2].choices[0].finish_reason, choice.finish_reason)
        assert streamed[-1].usage is not None
        self.assertEqual(streamed[-1].usage, answer.usage)

    def test_n_samples_have_the_seeds_that_follow_and_prompts_their_order(self) -> None:
        prompts = [prompt(5, 1, 100), prompt(7, 2, 100)]
        answer = self.openai.completions.create(model="tiny", prompt=prompts, n=3, max_tokens=8, seed=40)
        self.assertEqual([choice.index for choice in answer.choices], list(range(6)))
        for choice in answer.choices:
            sampling = iokv.Sampling(1.0, seed=40 + choice.index % 3)
            tokens = self.drawn(prompts[choice.index // 3], 8, sampling)
            self.assertEqual(choice.text, "".join(f"{token} " for token in tokens))

    def test_a_stop_string_ends_the_text_before_it_and_the_step(self) -> None:
        start = prompt(6, 9, 100)
        plain = self.openai.completions.create(model="tiny", prompt=start, max_tokens=30, temperature=0).choices[0].text
        stop = plain.split(" ", 6)[4] + " " + plain.split(" ", 6)[5][:1]
        for stream in (False, True):
            answer = self.openai.completions.create(
                model="tiny", prompt=start, max_tokens=1000, temperature=0, stop=["never", stop], stream=stream
            )
            chunks = list(answer) if stream else [answer]
            self.assertEqual("".join(chunk.choices[0].text for chunk in chunks), plain[: plain.index(stop)])
            self.assertEqual(chunks[-1].choices[0].finish_reason, "stop")

    def test_logit_bias_forces_a_token(self) -> None:
        answer = self.openai.completions.create(model="tiny", prompt=[1], max_tokens=3, logit_bias={"77": 100})
        self.assertEqual(answer.choices[0].text, "77 77 77 ")

    def test_errors_are_openais_and_name_the_field(self) -> None:
        cases: list[tuple[dict[str, Any], int, str, str]] = [
            ({"temperature": 3}, 400, "temperature", "less than or equal to 2"),
            ({"top_p": -1}, 400, "top_p", "greater than or equal to 0"),
            ({"suffix": "x"}, 400, "suffix", "suffix is not supported"),
            ({"best_of": 4}, 400, "best_of", "best_of is not supported"),
            ({"stop": ["a"] * 5}, 400, "stop", "at most 4"),
            ({"n": 0}, 400, "n", "greater than or equal to 1"),
            ({"logit_bias": {"1": 500}}, 400, "logit_bias.1", "less than or equal to 100"),
            ({"logit_bias": {"99999999": 1}}, 400, "logit_bias", "token 99999999 is not 0 to"),
            ({"prompt": []}, 400, "prompt", "prompt is empty"),
            ({"prompt": [-1]}, 400, "prompt", "a token is not 0 to"),
            ({"prompt": "text"}, 400, "prompt", "came without a tokenizer"),
            ({"max_tokens": 100000}, 400, "prompt", "context is"),
        ]
        for change, status, param, words in cases:
            with self.subTest(change=change):
                body = {"model": "tiny", "prompt": [1, 2], **change}
                got, answer = self.server.request("POST", "/v1/completions", body)
                self.assertEqual(got, status, answer)
                self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})
                self.assertEqual((answer["error"]["type"], answer["error"]["param"]), ("invalid_request_error", param))
                self.assertIn(words, answer["error"]["message"])
        self.assertEqual(self.server.request("POST", "/v1/completions", "{")[0], 400)
        self.assertEqual(self.server.request("GET", "/v1/files")[0], 404)
        chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "tools": []}
        self.assertEqual(self.server.request("POST", "/v1/chat/completions", chat)[1]["error"]["param"], "tools")
        with self.assertRaisesRegex(openai.BadRequestError, "logprobs"):
            self.openai.completions.create(model="tiny", prompt=[1], logprobs=99)

    def test_a_client_that_hangs_up_has_its_step_cancelled(self) -> None:
        for stream in (True, False):
            connection = self.server.connection()
            most = self.client.info.max_context - 3
            body = {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": most, "stream": stream, "temperature": 1.5}
            connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
            sampled = self.daemon.status()["sampled_tokens"]
            end = time.monotonic() + LIMIT_S
            while self.daemon.status()["operations"] == 0 and time.monotonic() < end:
                pass
            assert connection.sock is not None
            connection.sock.close()
            while self.daemon.status()["operations"] != 0 and time.monotonic() < end:
                pass
            self.assertLess(self.daemon.status()["sampled_tokens"] - sampled, most, "the step has run to its end")
            self.assertEqual(self.daemon.status()["operations"], 0)

    def test_256_streams_at_once_end_without_an_error(self) -> None:
        async def one(client: openai.AsyncOpenAI, number: int) -> str:
            stream = await client.completions.create(
                model="tiny", prompt=prompt(4 + number % 9, number, 100), max_tokens=12, seed=number, stream=True
            )
            return "".join([chunk.choices[0].text async for chunk in stream])

        async def all_of_them() -> list[str]:
            async with self.server.async_client(256) as client:
                return await asyncio.gather(*(one(client, number) for number in range(256)))

        texts = asyncio.run(all_of_them())
        for number in (0, 100, 255):
            sampling = iokv.Sampling(1.0, seed=number)
            alone = self.drawn(prompt(4 + number % 9, number, 100), 12, sampling)
            self.assertEqual(texts[number], "".join(f"{token} " for token in alone))
        self.assertGreater(sum(text.count(" ") == 12 for text in texts), 200)

    def test_several_workers_are_several_clients(self) -> None:
        before = self.daemon.status()["clients"]
        server = Server(self.daemon, "--workers", "2")
        try:
            end = time.monotonic() + LIMIT_S
            while self.daemon.status()["clients"] < before + 2 and time.monotonic() < end:
                time.sleep(0.02)  # the second worker starts when it likes
            self.assertEqual(self.daemon.status()["clients"], before + 2)
            with server.client() as client:
                self.assertTrue(client.completions.create(model="tiny", prompt=[5], max_tokens=2).choices[0].text)
        finally:
            server.close()

    def test_only_loopback_addresses_are_served(self) -> None:
        done = subprocess.run([sys.executable, "-m", "iokv.serve.main", "--host", "0.0.0.0"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("0.0.0.0 is no loopback address", done.stderr)

    def test_numpy_takes_logits_without_a_copy(self) -> None:
        import numpy

        client = iokv.Client(self.daemon.socket, borrow_logits=True)
        self.addCleanup(client.close)
        for completion in client.open().step([1, 2], 3, logits=True):
            assert completion.borrowed is not None
            with completion.borrowed as row:
                array = row.numpy()
                self.assertEqual((array.dtype, array.size), (numpy.float32, client.info.vocabulary))
                self.assertFalse(array.flags.owndata or array.flags.writeable)
                self.assertEqual(int(array.argmax()), completion.token)

    def test_mypy_finds_nothing_in_the_package_and_types_in_its_use(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            use = Path(directory) / "use.py"
            use.write_text(
                "import iokv\n"
                "client = iokv.Client()\n"
                "reveal_type(client.open().step([1], 1).result().top)\n"
                "client.open().step('text', 1.5)\n"
            )
            source = str(ROOT / "bindings" / "python" / "src")
            command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", directory]
            package = subprocess.run([*command, f"{source}/iokv"], capture_output=True, text=True)
            self.assertEqual(package.returncode, 0, package.stdout)
            done = subprocess.run([*command, str(use)], capture_output=True, text=True, env={**os.environ, "MYPYPATH": source})
            self.assertIn("tuple[iokv.connection.TokenLogprob, ...]", done.stdout)
            self.assertIn('Argument 2 to "step" of "Sequence" has incompatible type "float"', done.stdout)


def smollm2() -> Path | None:
    found = subprocess.run([str(ROOT / "scripts" / "model"), "--offline"], capture_output=True, text=True)
    return Path(found.stdout.strip()) if found.returncode == 0 else None


@unittest.skipUnless(smollm2(), "SmolLM2 is not there: scripts/model fetches it")
class Chat(unittest.TestCase):
    daemon: Daemon
    server: Server

    @classmethod
    def setUpClass(cls) -> None:
        cls.daemon = Daemon(model=str(smollm2()))
        cls.server = Server(cls.daemon, model="smollm2")
        cls.openai = cls.server.client()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.server.close()
        cls.daemon.close()

    def test_a_chat_streams_what_it_answers_whole(self) -> None:
        given: dict[str, Any] = dict(
            model="smollm2",
            messages=[{"role": "system", "content": "You are terse. CONFIDENTIAL-MARK"},
                      {"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}],
            max_completion_tokens=12,
            temperature=0,
        )  # fmt: skip
        whole = self.openai.chat.completions.create(**given, logprobs=True, top_logprobs=2)
        choice = whole.choices[0]
        self.assertIn("Paris", choice.message.content or "")
        assert choice.logprobs is not None and choice.logprobs.content is not None and whole.usage is not None
        self.assertEqual("".join(one.token for one in choice.logprobs.content), choice.message.content)
        for one in choice.logprobs.content:
            self.assertEqual(one.top_logprobs[0].token, one.token)  # temperature 0
        chunks = list(self.openai.chat.completions.create(**given, stream=True))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks), choice.message.content)
        self.assertEqual(chunks[-1].choices[0].finish_reason, choice.finish_reason)
        # Neither what was asked nor what went wrong with it is in the log.
        self.server.request("POST", "/v1/chat/completions", {**given, "temperature": "CONFIDENTIAL-MARK"})
        self.assertNotIn("CONFIDENTIAL", self.server.output())

    def test_iokv_generate_has_the_tokens_of_hugging_faces_tokenizers(self) -> None:
        from tokenizers import Tokenizer

        with iokv.Client(self.daemon.socket) as client:
            definition = client.connection.tokenizer_file().decode()
        oracle = Tokenizer.from_str(definition)
        texts = [
            "The quick brown fox",
            " don't we'll I'M 12345 3.14159",
            "  two  spaces\t\ttabs\n\n\nlines \r\n end   ",
            "Grüße, 世界! مرحبا 👩‍👩‍👧 e\u0301 ½",
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            "def f(x):\n    return x**2  # comment\n" * 20,
            "a" * 500 + "!?" * 99,
        ]
        for text in texts:
            done = subprocess.run(
                [str(TOOL), "generate", "-", "--tokens", "--socket", self.daemon.socket],
                input=text, capture_output=True, text=True, check=True,
            )  # fmt: skip
            self.assertEqual([int(token) for token in done.stdout.split()], oracle.encode(text).ids, text)

    def test_iokv_generate_prints_what_the_daemon_draws(self) -> None:
        done = subprocess.run(
            [str(TOOL), "generate", "The capital of France is", "--max-tokens", "6", "--socket", self.daemon.socket],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        answer = self.openai.completions.create(
            model="smollm2", prompt="The capital of France is", max_tokens=6, temperature=0
        )
        self.assertEqual(done.stdout, answer.choices[0].text + "\n")
        refused = subprocess.run(
            [str(TOOL), "generate", "x", "--top-p", "1.5", "--socket", self.daemon.socket], capture_output=True, text=True
        )
        self.assertEqual((refused.returncode, refused.stderr), (1, "iokv: top_p is 1.5: it must be 0 to 1\n"))

    def test_text_prompts_are_the_tokenizers_tokens(self) -> None:
        answer = self.openai.completions.create(
            model="smollm2", prompt="The quick brown fox", max_tokens=4, temperature=0, echo=True
        )
        self.assertTrue(answer.choices[0].text.startswith("The quick brown fox"))
        assert answer.usage is not None
        self.assertEqual(answer.usage.prompt_tokens, 4)


if __name__ == "__main__":
    unittest.main()
