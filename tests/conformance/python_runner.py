# SPDX-License-Identifier: Apache-2.0
"""Runs one case of bindings/conformance against a real iokvd through the Python binding's Connection, which is the C
ABI call for call. bindings/conformance/README.md defines the language; one method here is one action there.

usage: PYTHONPATH=bindings/python/src:tests/e2e python_runner.py CASE.json
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iokv import Completion, Connection, ConnectionClosedError, Error, Sampling
from iokv.abi import LOGITS
from iokv.errors import BY_NAME
from iokvd import Daemon, prompt

LIMIT_S = 60.0
Action = dict[str, Any]


class Failed(Exception):
    """The case does not hold."""


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

    def __init__(self, case: Action) -> None:
        self.case = case
        self.directory = tempfile.TemporaryDirectory(prefix="iokv-conformance-")
        self.socket = os.path.join(self.directory.name, "iokv.sock")
        self.daemon: Daemon | None = None
        self.clients: dict[str, Connection] = {}
        self.sequences: dict[str, int] = {}
        self.operations: dict[str, Operation] = {}
        self.by_id: dict[tuple[str, int], Operation] = {}
        self.sampling: dict[str, Sampling | None] = {}
        self.next_user_data = 1000

    def run(self) -> None:
        try:
            if self.case.get("daemon", []) is not None:
                self.do_start_daemon({})
            for name, options in self.case.get("clients", {"main": {}}).items():
                self.do_connect({"client": name, "options": options})
            self.do_all(self.case["do"])
        finally:
            for client in self.clients.values():
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
            except Error as error:
                require(expected is not None, f"action {position} {json.dumps(action)}: {error.name}: {error}")
                require(
                    isinstance(error, BY_NAME[str(expected)]),
                    f"action {position} {json.dumps(action)}: {error.name} instead of {expected}: {error}",
                )
                if "call" not in action:
                    return True
            else:
                require("call" not in action, f"action {position} {json.dumps(action)}: the call succeeded")
        return False

    # ---- values ----

    def client(self, action: Action) -> Connection:
        return self.clients[action.get("client", "main")]

    def number(self, action: Action, value: int | str) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([a-z_]+)([+-]\d+)?", value)
        assert match is not None, value
        return int(getattr(self.client(action).info, match[1])) + int(match[2] or 0)

    def sequence(self, action: Action) -> int:
        name = action["sequence"]
        return int(name["id"]) if isinstance(name, dict) else self.sequences[name]

    def tokens(self, action: Action, value: Any) -> list[int]:
        if isinstance(value, list):
            return [self.number(action, token) for token in value]
        if "sampled_by" in value:
            return self.operations[value["sampled_by"]].sampled[value["from"] : value["to"]]
        count = self.number(action, value["count"])
        return prompt(count, value["seed"], self.client(action).info.vocabulary)

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
        self.daemon = Daemon(*self.case.get("daemon", []), socket=self.socket)

    def do_stop_daemon(self, action: Action) -> None:
        assert self.daemon is not None
        if action["signal"] == "KILL":
            self.daemon.kill()
        else:
            require(self.daemon.stop() == 0, "the daemon's exit status is not 0 after SIGTERM")
        self.daemon.close()

    def do_connect(self, action: Action) -> None:
        name = action.get("client", "main")
        self.clients[name] = Connection(self.socket, timeout=LIMIT_S, **action.get("options", {}))

    def do_disconnect(self, action: Action) -> None:
        self.client(action).disconnect()

    def do_expect_closed(self, action: Action) -> None:
        client = self.client(action)
        limit = time.monotonic() + LIMIT_S
        try:
            client.submit()
            while time.monotonic() < limit:
                client.reap(timeout=LIMIT_S)
        except ConnectionClosedError:
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

    @staticmethod
    def sampling_of(action: Action) -> Sampling | None:
        return Sampling(**action["sampling"]) if "sampling" in action else None

    def do_open(self, action: Action) -> None:
        user_data, sampling = self.user_data(), self.sampling_of(action)
        sequence, operation = self.client(action).open(
            sampling,
            priority=action.get("priority", 0),
            model=action.get("model", 0),
            adapter=action.get("adapter", 0),
            user_data=user_data,
        )
        self.sequences[action["as"]] = sequence
        self.sampling[action["as"]] = sampling
        self.placed(action, operation, user_data)

    def do_step(self, action: Action) -> None:
        user_data, sampling = self.user_data(), self.sampling_of(action)
        effective = sampling or self.sampling.get(str(action["sequence"]))
        operation = self.client(action).step(
            self.sequence(action),
            self.tokens(action, action["tokens"]),
            self.number(action, action["max_tokens"]),
            stop_tokens=self.tokens(action, action.get("stop_tokens", [])),
            sampling=sampling,
            each=action.get("each", False),
            logits=action.get("logits", False),
            deadline_ns=1 if action.get("deadline") == "past" else 0,
            user_data=user_data,
        )
        self.placed(action, operation, user_data, effective is None or effective.temperature == 0)

    def do_fork(self, action: Action) -> None:
        user_data = self.user_data()
        child, operation = self.client(action).fork(self.sequence(action), action.get("tokens"), user_data=user_data)
        self.sequences[action["as"]] = child
        self.placed(action, operation, user_data)

    def do_truncate(self, action: Action) -> None:
        user_data = self.user_data()
        identity = self.client(action).truncate(self.sequence(action), action["length"], user_data=user_data)
        self.placed(action, identity, user_data)

    def do_cancel(self, action: Action) -> None:
        user_data, target = self.user_data(), 0
        if "target" in action:
            wanted = self.operations[action["target"]]
            target = next(key[1] for key, operation in self.by_id.items() if operation is wanted)
        identity = self.client(action).cancel(self.sequence(action), target, user_data=user_data)
        self.placed(action, identity, user_data)

    def do_close(self, action: Action) -> None:
        user_data = self.user_data()
        self.placed(action, self.client(action).close(self.sequence(action), user_data=user_data), user_data)

    def do_nop(self, action: Action) -> None:
        user_data = self.user_data()
        self.placed(action, self.client(action).nop(user_data=user_data), user_data)

    def do_submit(self, action: Action) -> None:
        self.client(action).submit()

    def do_repeat(self, action: Action) -> None:
        for _ in range(self.number(action, action["times"])):
            if self.do_all(action["actions"], action.get("until")):
                return
        require("until" not in action, f"no call failed with {action.get('until')}")

    # ---- completions ----

    def reap_once(self, name: str) -> None:
        client = self.clients[name]
        client.submit()
        for completion in client.reap(timeout=LIMIT_S):
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
        vocabulary = self.clients[operation.client].info.vocabulary
        for completion in operation.completions:
            require(completion.final == (completion is operation.completions[-1]), "MORE is wrong")
            if completion.sampled or completion.predicted:
                require(completion.times is not None and completion.times.dense_ns > 0, "a token without its step's times")
            if completion.logits is not None:
                require(len(completion.logits) == vocabulary, f"{len(completion.logits)} logits")
                largest = max(completion.logits)
                require(
                    not operation.greedy or completion.logits[completion.token] == largest,
                    "the greedy token does not have the largest logit",
                )

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


def main() -> int:
    case = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    signal.alarm(180)
    try:
        Runner(case).run()
    except Failed as failure:
        print(f"not so: {case['name']}\n{failure}")
        return 1
    print(f"so: {case['name']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
