# SPDX-License-Identifier: Apache-2.0
"""What a step must take at the least on hardware of measured rates: bytes over the link's rate, bytes over the memory's
rate, operations over the rate of a large product, whichever is most, with cached tokens where that is least. Pure.

A cached token of a layer costs, h the hidden size, k the width of K, 2 bytes an element (as daemon/sched/placement.h):

    K,V on the device   4k of its budget, nothing on the link
    X on the device     2h of its budget, nothing on the link, 4hk operations
    K,V on the host     4k on the link
    X on the host       2h on the link, 4hk operations

Weights that do not stay on the device cross the link beside them, each byte once a step. A layer is computed from the
device, so those need room for two layers there: one that is computed and one that comes.

Everything may overlap, and launches, norms and sampling count nothing: no implementation is faster.
"""

from __future__ import annotations

import dataclasses

from model_shape import Shape


@dataclasses.dataclass(frozen=True)
class Rates:
    """Of the machine, in bytes and operations (a multiply-add is two) a second."""

    link: float
    memory: float
    product: float
    host: float = 0.0  # of all the host's cores that read its memory, beside nothing; 0: it is not known


@dataclasses.dataclass(frozen=True)
class Floor:
    seconds: float
    bound: str  # "link", "memory" or "product"
    link_bytes: float
    x_share: float  # of the tokens that cross the link
    x_device_share: float  # of all tokens


def token_bytes(shape: Shape) -> tuple[int, int]:
    """Of a cached token of a layer: as X, as K,V."""
    return 2 * shape.hidden, 4 * shape.kv_width


def cache_bytes(shape: Shape, tokens: int) -> int:
    """As K,V, of all layers."""
    return tokens * shape.layers * token_bytes(shape)[1]


@dataclasses.dataclass(frozen=True)
class Work:
    """Besides the cached tokens' places."""

    tokens: float           # cached tokens that a step reads, all sequences together
    attended: float         # whose K,V the device reads, as `tokens` where nothing is shared
    operations: float       # of dense work
    memory_bytes: float     # of weights
    streamed_bytes: float = 0.0  # of weights on the link

    @staticmethod
    def decode(shape: Shape, batch: float, context: float, streamed_layers: int = 0) -> Work:
        """A step of one row for each of `batch` sequences with `context` cached tokens."""
        tokens = batch * context
        attention = 4.0 * tokens * shape.layers * shape.hidden
        return Work(tokens, tokens, 2.0 * batch * shape.weights_read + attention, 2.0 * shape.weights_read,
                    float(streamed_layers * shape.layer_bytes))


def step_floor(shape: Shape, work: Work, recompute: str, budget_bytes: float, rates: Rates) -> Floor:
    """recompute: never, always, auto or the share of the tokens on the host that are X."""
    x, kv = token_bytes(shape)
    total = work.tokens * shape.layers
    recompute_s = 4.0 * shape.hidden * shape.kv_width / rates.product  # of a token of a layer
    memory_s = (work.memory_bytes + work.attended * shape.layers * kv) / rates.memory
    dense_s = work.operations / rates.product
    shares = {"never": (0.0, 0.0), "always": (1.0, 1.0), "auto": (0.0, 1.0)}
    least, most = shares[recompute] if recompute in shares else (float(recompute),) * 2

    def placed(x_device: float) -> Floor:
        kv_device = min(total - x_device, (budget_bytes - x_device * x) / kv)
        host = max(0.0, total - x_device - kv_device)

        def times(share: float) -> tuple[float, float]:
            link_s = (host * (share * x + (1 - share) * kv) + work.streamed_bytes) / rates.link
            return link_s, dense_s + (x_device + share * host) * recompute_s

        # Both are straight lines: the least of the larger one is at an end or where they cross.
        (link_0, product_0), (link_1, product_1) = times(least), times(most)
        slope = (link_0 - product_0) - (link_1 - product_1)
        crossing = least + (most - least) * (link_0 - product_0) / slope if slope else least
        share = min((least, most, min(max(crossing, least), most)), key=lambda one: max(times(one)))
        link_s, product_s = times(share)
        seconds, bound = max((link_s, "link"), (memory_s, "memory"), (product_s, "product"))
        return Floor(seconds, bound, link_s * rates.link, share if host else 0.0, x_device / total if total else 0.0)

    room = min(total, budget_bytes / x) if recompute == "auto" else 0.0
    return min((placed(room * i / 256) for i in range(257 if room else 1)), key=lambda floor: floor.seconds)


def host_floor(shape: Shape, work: Work, recompute: str, rates: Rates) -> Floor:
    """With nothing on the device, where the host's CPU attends to as much K,V as is best: it reads them at its own rate
    meanwhile, as if the link did not read the same memory."""
    _, kv = token_bytes(shape)

    def of(attended: float) -> Floor:
        """By the host, so many of the tokens."""
        left = dataclasses.replace(work, tokens=work.tokens - attended, attended=work.attended - attended)
        return step_floor(shape, left, recompute, 0, rates)

    # The host's time rises with what it attends to, the other one falls: it ends where they meet, or with everything.
    least, most = 0.0, work.tokens
    for _ in range(40):
        middle = (least + most) / 2
        if middle * shape.layers * kv / rates.host < of(middle).seconds:
            least = middle
        else:
            most = middle
    return of(least)


RING_LAYERS = 2  # of weights that come over the link, on the device


@dataclasses.dataclass(frozen=True)
class Division:
    """Of a device's memory between weights and cached tokens."""

    streamed_layers: int
    weights_bytes: int  # of what is fixed, of layers that stay, and of the ring
    cache_bytes: int
    floor: Floor


def weights_bytes(shape: Shape, streamed_layers: int) -> int:
    """Device memory for weights of which so many layers' come over the link."""
    ring = min(RING_LAYERS, streamed_layers)
    return shape.fixed_bytes + (shape.layers - streamed_layers + ring) * shape.layer_bytes


def best_division(shape: Shape, batch: float, context: float, recompute: str, device_bytes: int, rates: Rates) -> Division:
    """Of a decode step: for each number of layers that may stay, the programme above with what is left for cached tokens.
    ValueError: there is no room for the ring."""
    found = []
    for streamed in range(shape.layers + 1):
        weights = weights_bytes(shape, streamed)
        if weights > device_bytes:
            continue
        work = Work.decode(shape, batch, context, streamed)
        floor = step_floor(shape, work, recompute, device_bytes - weights, rates)
        found.append(Division(streamed, weights, device_bytes - weights, floor))
    if not found:
        raise ValueError(f"{device_bytes} bytes do not hold two layers of {shape.name}: "
                         f"{weights_bytes(shape, shape.layers)} are needed")
    return min(found, key=lambda one: one.floor.seconds)


def prefill_operations(shape: Shape, tokens: int) -> float:
    """Of one sequence from its first token to its last, whose logits alone are computed."""
    attention = 2.0 * tokens * tokens * shape.layers * shape.hidden  # half of the square: causal
    return 2.0 * tokens * shape.layers * shape.layer_weights + attention + 2.0 * shape.head_weights


def prefill_floor(shape: Shape, batch: int, context: int, rates: Rates) -> Floor:
    """Writing the new tokens back takes less than computing them, and the link carries nothing to the device."""
    product_s = batch * prefill_operations(shape, context) / rates.product
    memory_s = 2.0 * shape.weights_read / rates.memory
    seconds, bound = max((product_s, "product"), (memory_s, "memory"))
    return Floor(seconds, bound, 0.0, 0.0, 0.0)
