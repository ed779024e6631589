# SPDX-License-Identifier: Apache-2.0
"""The rows of bench/gpu.py: what each is, what it must reach, and with which settings a daemon is started for it. Pure."""

from __future__ import annotations

import dataclasses

import gpu_rows
from gpu_floor import Rates, best_division, cache_bytes, token_bytes
from gpu_rows import Effort
from model_shape import Shape

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Row:
    case: str
    model: str
    kind: str  # of what is measured, see measure_row
    batch: int
    context: int
    limit: float | None = None     # of the ratio to the floor
    h200_ms: float | None = None   # where the goal is a time on an H200; `limit` is its ratio to the floor there
    recompute: str = "auto"
    budget: str = "none"           # of device memory for cached tokens: none, half of K,V, all, or bytes
    weights: str = "auto"          # iokvd --weights
    device_bytes: int = 0          # of device memory for weights and cached tokens together; 0: `budget`, and what is left
    steps: int | None = None       # of a round, where one takes long
    cpu_attention: str = "off"     # iokvd --cpu-attention
    batch_invariant: str = "on"    # iokvd --batch-invariant
    busy_threads: int = 0          # of other processes, meanwhile
    beside: str = ""               # the row that this one is compared with
    predicted_within: float = 0.07
    peers: tuple[tuple[str, str], ...] = ()  # of PEERS, and the figure of its answer
    part_of: str = ""              # of a case that has several settings


STEPS = (("transformers_offloaded", "step_ms"), ("flexgen", "step_ms"))
LLAMA_STEPS = (("transformers_offloaded", "step_ms"),)
WEIGHTS_STEPS = (("flexgen_weights", "step_ms"),)

ROWS = [
    Row("offload_32x1024", "opt-6.7b", "decode", 32, 1024, 1.02, peers=STEPS),
    Row("offload_32x1024_never", "opt-6.7b", "decode", 32, 1024, 1.02, recompute="never", peers=STEPS),
    Row("offload_64x512", "opt-6.7b", "decode", 64, 512, 1.02, peers=(*STEPS, ("flexgen_4bit", "step_ms"))),
    Row("offload_1x1024", "opt-6.7b", "decode", 1, 1024, 6.5 / 4.9, 6.5, peers=STEPS),
    Row("resident_32x1024", "opt-6.7b", "decode", 32, 1024, 9 / 7.1, 9.0, budget="all",
        peers=(("transformers_resident", "step_ms"), ("transformers_graphs", "step_ms"))),
    Row("prefill_32x1024", "opt-6.7b", "prefill", 32, 1024, 0.70 / 0.60, 700.0,
        peers=(("transformers_resident", "prefill_ms"), ("flexgen", "prefill_ms"))),
    Row("llama2_7b_4x8192", "llama-2-7b", "decode", 4, 8192, 1.03, peers=LLAMA_STEPS),
    Row("llama3_8b_32x4096", "llama-3-8b", "decode", 32, 4096, 1.03, peers=LLAMA_STEPS),
    Row("llama3_8b_1x65536", "llama-3-8b", "decode", 1, 65536, 1.05, peers=LLAMA_STEPS),
    Row("half_resident_32x1024", "opt-6.7b", "decode", 32, 1024, 1.08, budget="half"),
    Row("fragmented_32x1024", "opt-6.7b", "fragmented", 32, 1024, 1.05),
    Row("serving_64", "opt-6.7b", "serving", 64, 8192, 1 / 0.90),
    Row("processes_8x4", "opt-6.7b", "processes", 32, 1024, 1 / 0.97),
    Row("processes_8x4_resident", "opt-6.7b", "processes", 32, 1024, 1 / 0.97, budget="all", part_of="processes_8x4"),
    Row("weights_256x512", "opt-6.7b", "decode", 256, 512, 1.04, weights="host", steps=4, peers=WEIGHTS_STEPS),
    Row("weights_256x512_never", "opt-6.7b", "decode", 256, 512, 1.04, recompute="never", weights="host", steps=4,
        peers=WEIGHTS_STEPS),
    Row("opt30b_32x512", "opt-30b", "decode", 32, 512, 1.07, weights="host", steps=4, peers=WEIGHTS_STEPS),
    Row("opt30b_32x512_24g", "opt-30b", "decode", 32, 512, 1.08, device_bytes=24 * GIB, steps=4,
        peers=(("flexgen_weights_30", "step_ms"),)),
    Row("opt30b_1x128", "opt-30b", "decode", 1, 128, 1.05, weights="host", steps=4, peers=WEIGHTS_STEPS),
]
# Rows of the CPU's attention. Their floor is what the link alone needs, since that is what the CPU adds to; each is measured
# with `--cpu-attention off` as well. The CPU's part of a step is chosen anew for each where bits may change with it; where they
# may not, it is fixed for each sequence, and a row shows what that costs.
CPU_ROWS = [
    Row("cpu_32x1024", "opt-6.7b", "decode", 32, 1024, 90 / 155, 90.0, peers=STEPS),
    Row("cpu_64x512", "opt-6.7b", "decode", 64, 512, 90 / 156, 90.0, peers=STEPS),
    Row("cpu_llama2_7b_4x8192", "llama-2-7b", "decode", 4, 8192, 92 / 156, 92.0, peers=LLAMA_STEPS),
    Row("cpu_llama3_8b_32x4096", "llama-3-8b", "decode", 32, 4096, 125 / 310, 125.0, peers=LLAMA_STEPS),
    Row("cpu_llama3_8b_1x65536", "llama-3-8b", "decode", 1, 65536, 65 / 155, 65.0, peers=LLAMA_STEPS),
    Row("cpu_busy_32x1024", "opt-6.7b", "decode", 32, 1024, 1.03, busy_threads=12),
]


def with_off(row: Row) -> tuple[Row, Row]:
    row = dataclasses.replace(row, predicted_within=0.08, batch_invariant="off")
    off = dataclasses.replace(row, case=f"{row.case}_off", limit=None, h200_ms=None, beside=row.case, peers=())
    return dataclasses.replace(row, cpu_attention="auto"), off


ROWS += [one for row in CPU_ROWS for one in with_off(row)]
ROWS.append(Row("cpu_32x1024_invariant", "opt-6.7b", "decode", 32, 1024, cpu_attention="auto", predicted_within=0.08))

MOST_POSITIONS = {"opt-6.7b": 8192 + 2048, "opt-30b": 2048, "llama-2-7b": 16384, "llama-3-8b": 65536 + 4096}
PROCESSES, SERVING_LEAST = 8, 64
SERVING_POOL = 40 * GIB  # where all clients' longest contexts would need more
POOL_MORE = 64 << 20     # for parts of frames (daemon/pool/block_pool.h)
BLOCK_TOKENS = 64

# Tiny shapes of the same kinds, for --rehearse.
REHEARSED = {
    "opt-6.7b": Shape("opt-tiny", "opt", 4, 128, 4, 4, 512, 512, 2048),
    "llama-2-7b": Shape("llama-tiny", "llama", 4, 128, 4, 4, 352, 512, 8192),
    "llama-3-8b": Shape("llama-gqa-tiny", "llama", 4, 128, 8, 2, 448, 512, 8192, 500000.0),
    "opt-30b": Shape("opt-deep-tiny", "opt", 6, 128, 4, 4, 512, 512, 1024),
}
REHEARSED_DEVICE_BYTES = 2_500_000  # of which four layers of six, or two and a ring
REHEARSAL_GBPS = 0.1
# Where none have been measured before the daemon starts: weights are worth the same on any device that a link holds up.
USUAL_RATES = Rates(link=55e9, memory=3e12, product=700e12)
REHEARSAL_EFFORT = Effort(rounds=3, steps=4, lives=64, life_tokens=64, serving_warm_s=1.0, serving_s=4.0,
                           serving_pause_s=0.01, answer_tokens=16.0)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a daemon is started with: rows of the same go to the same one."""

    shape: Shape
    recompute: str
    budget_bytes: int
    pool_bytes: int
    weights: str = "auto"
    weights_bytes: int = 0  # --device-weights-budget
    streamed_layers: int = 0  # that this makes of the weights
    cpu_attention: str = "off"
    batch_invariant: str = "on"
    apart: str = ""  # a row that leaves the pool otherwise than it was


def rehearsed(row: Row) -> Row:
    return dataclasses.replace(row, batch=max(1, row.batch // 8), context=max(96, row.context // 16),
                               device_bytes=REHEARSED_DEVICE_BYTES if row.device_bytes else 0,
                               busy_threads=min(1, row.busy_threads),
                               cpu_attention="1" if row.cpu_attention == "auto" else row.cpu_attention)


def place_of(case: str) -> int:
    """In ROWS; what is not there comes last."""
    return next((i for i, row in enumerate(ROWS) if row.case == case), len(ROWS))


def case_of(case: str) -> str:
    """That a part belongs to."""
    return next((row.part_of for row in ROWS if row.case == case and row.part_of), case)


def settings_of(row: Row, shape: Shape, effort: Effort, rates: Rates) -> Settings:
    """rates: of the machine, by which device memory is divided."""
    if row.kind == "decode":  # its context is reached halfway
        grown, more = row.context + (effort.rounds * effort.steps + 1) // 2 + 1, 0
    else:
        grown, more = row.context + gpu_rows.WARM_UP + effort.rounds * effort.steps, 1
    longest = (-(-grown // BLOCK_TOKENS) + more) * BLOCK_TOKENS
    needed = cache_bytes(shape, row.batch * longest) * (2 if row.kind == "processes" else 1)
    pool = needed
    if row.kind == "serving":
        pool = min(needed, SERVING_POOL)
    if row.kind == "fragmented":
        pool = round(needed / 0.7)
    if row.budget == "half":
        budget = cache_bytes(shape, row.batch * row.context) // 2
    else:
        budget = {"none": 0, "all": needed}.get(row.budget, -1)
        budget = int(row.budget) if budget < 0 else budget
    apart = row.case if row.kind == "fragmented" else ""
    settings = Settings(shape, row.recompute, budget, round(1.05 * pool) + POOL_MORE, row.weights, apart=apart,
                        cpu_attention=row.cpu_attention, batch_invariant=row.batch_invariant,
                        streamed_layers=shape.layers if row.weights == "host" else 0)
    return divided(settings, row, rates) if row.device_bytes else settings


def divided(settings: Settings, row: Row, rates: Rates) -> Settings:
    """The device's bytes between weights and cached tokens, these in whole blocks of all layers, as is best."""
    shape = settings.shape
    division = best_division(shape, row.batch, row.context, row.recompute, row.device_bytes, rates)
    block = BLOCK_TOKENS * shape.layers * token_bytes(shape)[1]
    budget = division.cache_bytes // block * block
    return dataclasses.replace(settings, budget_bytes=budget, weights_bytes=row.device_bytes - budget,
                               streamed_layers=division.streamed_layers)
