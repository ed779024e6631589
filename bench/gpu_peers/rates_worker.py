# SPDX-License-Identifier: Apache-2.0
"""What this GPU, its memory and its link do, through torch: prints one JSON object.

    link, link_back     bytes a second of pinned copies of 32 MiB each way, 4 GiB at a time
    memory              bytes a second of the faster of a sum over 4 GiB and a copy of 4 GiB, read and written
    product             operations a second of an fp16 product of 8192 x 8192 x 8192, random numbers
    context_bytes       device memory that a process with a CUDA context and nothing else takes

Each is the best of several: floors are to be reached by nobody.
"""

import json
import statistics
import subprocess

import torch

PIECE, TIMES = 32 << 20, 4


def used_bytes():
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.check_output(query, text=True).split()[0]) << 20


def seconds(work, repeats):
    """Of each of some runs, after one that does not count."""
    work()
    torch.cuda.synchronize()
    found = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1e3)
    return found


def copy_rates():
    """To the device and back."""
    host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    host.random_(0, 256)
    device = torch.empty_like(host, device="cuda")

    def copies(to, source):
        for _ in range(TIMES):
            for at in range(0, len(to), PIECE):
                to[at : at + PIECE].copy_(source[at : at + PIECE], non_blocking=True)

    size = TIMES * len(host)
    return ([size / one for one in seconds(lambda: copies(device, host), 8)],
            [size / one for one in seconds(lambda: copies(host, device), 4)])


def memory_rates():
    """Of reading, and of reading and writing."""
    large = torch.randint(-(1 << 30), 1 << 30, (1 << 30,), dtype=torch.int32, device="cuda").view(torch.float32)
    other = torch.empty_like(large)
    size = 4 * len(large)
    return ([size / one for one in seconds(lambda: torch.sum(large), 8)],
            [2 * size / one for one in seconds(lambda: other.copy_(large), 8)])


def product_rates():
    a, b = (torch.randn(8192, 8192, dtype=torch.float16, device="cuda") for _ in range(2))
    return [2 * 8192**3 / one for one in seconds(lambda: torch.mm(a, b), 20)]


def main():
    before = used_bytes()
    torch.zeros(1, device="cuda")
    context = used_bytes() - before
    properties = torch.cuda.get_device_properties(0)
    driver = subprocess.check_output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], text=True)

    link, back = copy_rates()
    reads, both = memory_rates()
    products = product_rates()
    print(json.dumps({
        "device": properties.name, "driver": driver.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda,
        "link": max(link), "link_median": statistics.median(link), "link_back": max(back),
        "memory": max(reads + both), "memory_read": max(reads), "memory_copy": max(both),
        "product": max(products), "product_median": statistics.median(products), "context_bytes": context,
    }))


if __name__ == "__main__":
    main()
