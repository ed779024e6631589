# SPDX-License-Identifier: Apache-2.0
"""Runs cases of bindings/conformance against a real iokvd through a binding's driver. bindings/conformance/README.md
defines the language and the driver's protocol; one method here is one action there.

usage: PYTHONPATH=bindings/python/src:tests/e2e:bindings/abi runner.py [--case NAME]... DRIVER [ARGUMENT...]
       without --case: all of them, and that the binding's view of iokv.h is the C compiler's ("layout")

Invariants
 1. Cases that say nothing about their daemon share one, and all share a driver: what a case leaves behind is what the
    end of its connections leaves behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import layout
from driver import LIMIT_S, LOGITS, PREDICTED, TOKEN, CallFailed, Client, Completion, Driver, Failed, bytes_of
from iokv.errors import BY_NAME
from iokvd import MODEL, Daemon, prompt

Action = dict[str, Any]


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Failed(message)


@dataclass
class Operation:
    """What has come back for one operation so far."""

    client: str
    user_data: int
    greedy: bool = True
    completions: list[Completion] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return bool(self.completions) and self.completions[-1].final

    @property
    def sampled(self) -> list[int]:
        return [completion.token for completion in self.completions if completion.sampled]

    @property
    def predicted(self) -> list[int]:
        return [completion.token for completion in self.completions if completion.predicted]

    @property
    def logits(self) -> list[memoryview[float]]:
        return [completion.logits for completion in self.completions if completion.logits is not None]


class Runner:
    """One case: the daemon, the clients, and the names that the case has given."""

    def __init__(self, case: Action, driver: Driver, shared: Daemon | None) -> None:
        self.case = case
        self.driver = driver
        self.shared = shared
        self.directory = tempfile.TemporaryDirectory(prefix="iokv-conformance-")
        self.socket = shared.socket if shared is not None else os.path.join(self.directory.name, "iokv.sock")
        self.daemon: Daemon | None = None
        self.clients: dict[str, Client] = {}
        self.sequences: dict[str, int] = {}
        self.operations: dict[str, Operation] = {}
        self.by_id: dict[tuple[str, int], Operation] = {}
        self.sampling: dict[str, Action | None] = {}
        self.next_user_data = 1000

    def run(self) -> None:
        try:
            if self.shared is None and self.case.get("daemon", []) is not None:
                self.do_start_daemon({})
            for name, options in self.case.get("clients", {"main": {}}).items():
                self.do_connect({"client": name, "options": options})
            self.do_all(self.case["do"])
        finally:
            for client in self.clients.values():
                with contextlib.suppress(Failed):
                    client.disconnect()
            if self.daemon is not None:
                self.daemon.close()
            self.directory.cleanup()

    def do_all(self, actions: list[Action], until: str | None = None) -> bool:
        """Does the actions; returns True when one of their calls failed with `until`."""
        for position, action in enumerate(actions):
            expected = action.get("call", until)
            try:
                getattr(self, "do_" + action["do"])(action)
            except Failed as failure:
                raise Failed(f"action {position} {json.dumps(action)}: {failure}") from None
            except CallFailed as error:
                require(expected is not None, f"action {position} {json.dumps(action)}: {error}")
                require(error.name == expected, f"action {position} {json.dumps(action)}: not {expected} but {error}")
                if "call" not in action:
                    return True
            else:
                require("call" not in action, f"action {position} {json.dumps(action)}: the call succeeded")
        return False

    # ---- values ----

    def client(self, action: Action) -> Client:
        return self.clients[action.get("client", "main")]

    def number(self, action: Action, value: int | str) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([a-z_]+)([+-]\d+)?", value)
        assert match is not None, value
        return self.client(action).number(match[1]) + int(match[2] or 0)

    def sequence(self, action: Action) -> int:
        name = action["sequence"]
        return int(name["id"]) if isinstance(name, dict) else self.sequences[name]

    def tokens(self, action: Action, value: Any) -> list[int]:
        if isinstance(value, list):
            return [self.number(action, token) for token in value]
        if "sampled_by" in value:
            return self.operations[value["sampled_by"]].sampled[value["from"] : value["to"]]
        count = self.number(action, value["count"])
        return prompt(count, value["seed"], self.client(action).number("vocabulary"))

    def user_data(self) -> int:
        self.next_user_data += 1
        return self.next_user_data

    def placed(self, action: Action, identity: int, user_data: int, greedy: bool = True) -> None:
        name = action.get("client", "main")
        operation = Operation(name, user_data, greedy)
        self.by_id[name, identity] = operation
        self.operations[action.get("operation", "")] = operation

    # ---- the daemon and connections ----

    def do_start_daemon(self, _: Action) -> None:
        self.daemon = Daemon(*self.case.get("daemon", []), socket=self.socket, model=self.model())

    def model(self) -> Path:
        """The golden model, or a copy of it with the case's files beside."""
        files = self.case.get("model_files")
        if files is None:
            return MODEL
        path = Path(self.directory.name) / MODEL.name
        if not path.exists():
            shutil.copytree(MODEL, path)
            for name, content in files.items():
                text = content if isinstance(content, str) else json.dumps(content)
                (path / name).write_text(text, encoding="utf-8")
        return path

    def do_stop_daemon(self, action: Action) -> None:
        assert self.daemon is not None
        if action["signal"] == "KILL":
            self.daemon.kill()
        else:
            require(self.daemon.stop() == 0, "the daemon's exit status is not 0 after SIGTERM")
        self.daemon.close()

    def do_connect(self, action: Action) -> None:
        name = action.get("client", "main")
        self.clients[name] = Client(self.driver, name, socket=self.socket, **action.get("options", {}))

    def do_disconnect(self, action: Action) -> None:
        self.client(action).disconnect()

    def do_expect_closed(self, action: Action) -> None:
        client = self.client(action)
        limit = time.monotonic() + LIMIT_S
        try:
            client.submit()
            while time.monotonic() < limit:
                client.reap()
        except CallFailed as error:
            require(error.name == "ECLOSED", f"a reap failed with {error}")
            return
        raise Failed("the connection is still open")

    def do_answer(self, action: Action) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(self.socket)
        listener.listen(1)
        listener.settimeout(LIMIT_S)

        def answer() -> None:
            with listener, listener.accept()[0] as peer:
                peer.recv(4096)
                peer.send(bytes.fromhex(action["hex"]))
                peer.recv(4096)

        threading.Thread(target=answer, daemon=True).start()

    # ---- operations ----

    def place(self, action: Action, verb: str, greedy: bool = True, **named: object) -> None:
        user_data = self.user_data()
        sequence, operation = self.client(action).place(verb, user_data=user_data, **named)
        if "as" in action:
            self.sequences[action["as"]] = sequence
        self.placed(action, operation, user_data, greedy)

    def do_open(self, action: Action) -> None:
        sampling = action.get("sampling")
        options = {name: action.get(name) for name in ("priority", "model", "adapter")}
        self.place(action, "open", **options, **self.sampling_words(action))
        self.sampling[action["as"]] = sampling

    def step_options(self, action: Action) -> dict[str, object]:
        return {
            "sequence": self.sequence(action),
            "tokens": joined(self.tokens(action, action["tokens"])),
            "max_tokens": self.number(action, action["max_tokens"]),
            "stop_tokens": joined(self.tokens(action, action.get("stop_tokens", []))),
            "each": int(action.get("each", False)),
            "logits": int(action.get("logits", False)),
            "priority": action.get("priority"),
            "deadline_ns": 1 if action.get("deadline") == "past" else None,
            "stop_sequences": lists([self.tokens(action, stop) for stop in action.get("stop_sequences", [])]),
            "top_logprobs": action.get("top_logprobs"),
            "masks": lists([self.mask(action, permitted) for permitted in action.get("masks", [])]),
            **self.sampling_words(action),
        }

    def sampling_words(self, action: Action) -> dict[str, object]:
        words = dict(action.get("sampling", {}))
        if "logit_bias" in words:
            words["logit_bias"] = lists(words["logit_bias"])
        return words

    def mask(self, action: Action, permitted: Any) -> list[int]:
        """The words of a mask that permits these tokens; {"words": [...]} says them itself."""
        if isinstance(permitted, dict):
            return list(permitted["words"])
        words = [0] * ((self.client(action).number("vocabulary") + 31) // 32)
        for token in permitted:
            words[token // 32] |= 1 << token % 32
        return words

    def do_step(self, action: Action) -> None:
        effective = action.get("sampling") or self.sampling.get(str(action["sequence"]))
        # The largest of the model's logits is drawn only where nothing is done to them.
        greedy = (effective is None or effective.get("temperature", 0) == 0) and "masks" not in action
        greedy = greedy and not set(effective or {}) - {"temperature", "top_p", "top_k", "seed", "min_p", "typical_p"}
        self.place(action, "step", greedy, **self.step_options(action))

    def do_fork(self, action: Action) -> None:
        self.place(action, "fork", sequence=self.sequence(action), tokens=action.get("tokens"))

    def do_truncate(self, action: Action) -> None:
        self.place(action, "truncate", sequence=self.sequence(action), length=action["length"])

    def do_cancel(self, action: Action) -> None:
        target = None
        if "target" in action:
            wanted = self.operations[action["target"]]
            target = next(key[1] for key, operation in self.by_id.items() if operation is wanted)
        self.place(action, "cancel", sequence=self.sequence(action), target=target)

    def do_close(self, action: Action) -> None:
        self.place(action, "close", sequence=self.sequence(action))

    def do_nop(self, action: Action) -> None:
        self.place(action, "nop")

    def do_submit(self, action: Action) -> None:
        self.client(action).submit()

    def do_generate(self, action: Action) -> None:
        text = self.client(action).ask("generate", **self.step_options(action))["tokens"]
        tokens = [int(token) for token in text.split(",") if token]
        wanted = self.operations[action["sampled_as"]].sampled
        require(tokens == wanted, f"generated {tokens}, a step sampled {wanted}")

    def do_wake(self, action: Action) -> None:
        self.client(action).ask("wake")

    def do_repeat(self, action: Action) -> None:
        for _ in range(self.number(action, action["times"])):
            if self.do_all(action["actions"], action.get("until")):
                return
        require("until" not in action, f"no call failed with {action.get('until')}")

    # ---- facts, text and counters ----

    def do_end_reason(self, action: Action) -> None:
        words = self.client(action).ask("end_reason")
        require(int(words["code"]) == code_of(action["code"]), f"the connection ended with {words['code']}")
        require(bytes_of(words["line"]) != b"", "nothing says why")

    def do_token_bytes(self, action: Action) -> None:
        words = self.client(action).ask("token_bytes", token=self.number(action, action["token"]))
        require(bytes_of(words["bytes"]).hex() == action["hex"], f"the token's bytes are {words['bytes']}")

    def do_text(self, action: Action) -> None:
        words = self.client(action).ask("text", file={"tokenizer": 1, "chat_template": 2}[action["file"]])
        wanted = b"" if action["is"] is None else (self.model() / action["is"]).read_bytes()
        require(bytes_of(words["bytes"]) == wanted, f"the text is {bytes_of(words['bytes'])!r}")

    def do_counters(self, action: Action) -> None:
        assert self.daemon is not None
        # Written by the daemon when it likes: as soon as the observer's handshake shows them, so does this client's page.
        status = self.daemon.status()
        words = self.client(action).ask("counters")
        require(set(words) == set(status), f"counters {sorted(set(words) ^ set(status))} are missing on one side")
        for name, value in action["values"].items():
            require(int(words[name]) == value, f"{name} is {words[name]}")

    # ---- completions ----

    def do_reap(self, action: Action) -> None:
        completions = self.client(action).reap(timeout_ns=action["timeout_ns"])
        require(len(completions) == action["completions"], f"{len(completions)} completions")

    def reap_once(self, name: str) -> None:
        client = self.clients[name]
        client.submit()
        for completion in client.reap():
            operation = self.by_id.get((name, completion.operation))
            if operation is None:
                raise Failed(f"a completion for an operation that was never submitted: {completion}")
            require(not operation.ended, f"a completion after the final one: {completion}")
            require(completion.user_data == operation.user_data, f"user_data was {operation.user_data}: {completion}")
            operation.completions.append(completion)

    def do_await_token(self, action: Action) -> None:
        operation = self.operations[action["operation"]]
        while not operation.sampled and not operation.ended:
            self.reap_once(operation.client)

    def do_drain(self, action: Action) -> None:
        name = action.get("client", "main")
        while self.clients[name].outstanding() > 0:
            self.reap_once(name)
        for operation in self.by_id.values():
            if operation.client == name:
                require(operation.ended, "nothing is outstanding and an operation has not ended")
                result = operation.completions[-1].result
                require(result in map(code_of, action["results"]), f"an operation ended with {result}")
        self.by_id = {key: operation for key, operation in self.by_id.items() if key[0] != name}

    def do_wait(self, action: Action) -> None:
        operation = self.operations[action["operation"]]
        while not operation.ended:
            self.reap_once(operation.client)
        final = operation.completions[-1]
        allowed = action.get("result", "OK")
        allowed = allowed if isinstance(allowed, list) else [allowed]
        require(final.result in map(code_of, allowed), f"result {final.result}")
        self.check_form(operation)
        self.check_expectations(action, operation, final)

    def check_form(self, operation: Operation) -> None:
        indices = [completion.index for completion in operation.completions if completion.sampled]
        require(indices == list(range(len(indices))), f"sampled tokens have indices {indices}")
        vocabulary = self.clients[operation.client].number("vocabulary")
        self.check_top(operation)
        for completion in operation.completions:
            require(completion.final == (completion is operation.completions[-1]), "MORE is wrong")
            if completion.sampled or completion.predicted:
                require(completion.dense_ns > 0, "a token without its step's times")
                require(completion.logprob <= 0, f"a logarithm of a probability that is {completion.logprob}")
            if completion.logits is not None:
                require(len(completion.logits) == vocabulary, f"{len(completion.logits)} logits")
                largest = max(completion.logits)
                require(
                    not operation.greedy or completion.logits[completion.token] == largest,
                    "the greedy token does not have the largest logit",
                )

    def check_top(self, operation: Operation) -> None:
        for completion in operation.completions:
            if completion.top is None:
                continue
            order = [(-logprob, token) for token, logprob in completion.top]
            require(order == sorted(order), f"the top tokens are out of order: {completion.top}")
            drawn = dict(completion.top).get(completion.token, completion.logprob)
            require(drawn == completion.logprob, f"the token's logprob is {completion.logprob}, among the top {drawn}")
            require(not operation.greedy or completion.top[0][0] == completion.token, "the greedy token is not the top")

    def check_expectations(self, action: Action, operation: Operation, final: Completion) -> None:
        sampled = operation.sampled
        if isinstance(action.get("tokens"), int):
            require(len(sampled) == action["tokens"], f"{len(sampled)} tokens were sampled")
        elif "tokens" in action:
            require(sampled == action["tokens"], f"sampled {sampled}")
        if "at_most" in action:
            require(len(sampled) <= action["at_most"], f"{len(sampled)} tokens were sampled")
        if "predicted" in action:
            require(len(operation.predicted) == action["predicted"], f"{len(operation.predicted)} predictions")
        if "length" in action:
            require(final.length == action["length"], f"length {final.length}")
        if "top" in action:
            for completion in operation.completions:
                count = len(completion.top or ())
                require(count == (action["top"] if completion.flags & (TOKEN | PREDICTED) else 0), f"{count} top tokens")
        if action.get("distinct"):
            require(len(set(sampled)) == len(sampled), f"a token was sampled twice: {sampled}")
        if "stopped" in action:
            require(final.stopped == action["stopped"], f"stopped is {final.stopped}")
        if "logits" in action:
            count = sum(bool(completion.flags & LOGITS) for completion in operation.completions)
            require(count == action["logits"], f"{count} completions with logits")

    # ---- comparisons ----

    def do_same_tokens(self, action: Action) -> None:
        runs = [[token for name in run for token in self.operations[name].sampled] for run in action["runs"]]
        for run in runs[1:]:
            require(run == runs[0], f"{run} differs from {runs[0]}")

    def do_predicts(self, action: Action) -> None:
        predicted = self.operations[action["draft"]].predicted
        first = action["from"]
        wanted = self.operations[action["greedy"]].sampled[first : first + len(predicted)]
        require(predicted == wanted, f"predicted {predicted}, greedy sampling drew {wanted}")

    def do_same_logits(self, action: Action) -> None:
        rows = [bytes(self.operations[name].logits[-1]) for name in action["operations"]]
        for row in rows[1:]:
            require(row == rows[0], "logits differ")


def code_of(result: int | str) -> int:
    if isinstance(result, int):
        return result
    return 0 if result == "OK" else BY_NAME[result].code


def joined(numbers: list[Any]) -> str:
    return ",".join(map(str, numbers))


def lists(of_numbers: list[list[Any]]) -> str | None:
    return ";".join(map(joined, of_numbers)) or None


def check_layout(driver: Driver) -> None:
    lines, _ = driver.ask("layout")
    wanted = layout.compiled()
    for ours, compiled in zip(lines, wanted):
        require(ours == compiled, f"the binding says `{ours}`, the C compiler `{compiled}`")
    require(len(lines) == len(wanted), f"{len(lines)} lines of layout instead of {len(wanted)}")


CASES = Path(__file__).resolve().parents[2] / "bindings" / "conformance" / "cases"


def needs_its_own_daemon(case: Action) -> bool:
    return "daemon" in case or "model_files" in case or any(action["do"] == "stop_daemon" for action in case["do"])


def run_case(name: str, driver: Driver, shared: Daemon) -> None:
    """Runs one case and says how it went. Failed, CallFailed."""
    started = time.monotonic()
    if name == "layout":
        sentence = "structures and constants are the C compiler's"
        check_layout(driver)
    else:
        case = json.loads((CASES / f"{name}.json").read_text(encoding="utf-8"))
        sentence = case["name"]
        Runner(case, driver, None if needs_its_own_daemon(case) else shared).run()
    print(f"ok {name} ({time.monotonic() - started:.2f} s): {sentence}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", metavar="NAME")
    parser.add_argument("driver", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    failed = []
    signal.alarm(280)
    with contextlib.ExitStack() as stack:
        shared = stack.enter_context(Daemon())
        driver = stack.enter_context(Driver(given.driver))
        for name in given.case or ["layout", *sorted(path.stem for path in CASES.glob("*.json"))]:
            try:
                run_case(name, driver, shared)
            except (Failed, CallFailed) as failure:
                print(f"NOT OK {name}: {failure}", flush=True)
                failed.append(name)
                # What it left behind is nobody's fault.
                driver = stack.enter_context(Driver(given.driver))
    if failed:
        print(f"{len(failed)} cases failed: {' '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
