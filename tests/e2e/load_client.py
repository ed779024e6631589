# SPDX-License-Identifier: Apache-2.0
"""A client process that keeps the daemon busy until it is killed: `sequences` sequences that grow to the context, are
cut back and grow again. Prints "running" once tokens have come.

usage: load_client.py SOCKET SEQUENCES SEED
"""

import sys

import iokv
from iokvd import prompt


def main() -> None:
    socket, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    connection = iokv.Connection(socket, name="load")
    info = connection.info
    grow = info.max_context // 2
    owner: dict[int, int] = {}

    def start(sequence: int) -> None:
        connection.truncate(sequence, 8)
        owner[connection.step(sequence, (), grow)] = sequence

    for i in range(count):
        sequence, _ = connection.open(iokv.Sampling(temperature=1.0, seed=seed + i))
        connection.step(sequence, prompt(8, seed + i, info.vocabulary))
        start(sequence)
    said = False
    while True:
        connection.submit()
        for completion in connection.reap():
            if completion.result < 0:
                sys.exit(f"load_client: {iokv.strerror(completion.result)}")
            if completion.sampled and not said:
                said = True
                print("running", flush=True)
            if completion.final and completion.operation in owner:
                start(owner.pop(completion.operation))


if __name__ == "__main__":
    main()
