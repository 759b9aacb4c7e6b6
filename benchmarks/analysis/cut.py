"""Is the minimum cut the optimum, and how long does it take?"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from ampconvert.cut import minimise
from benchmarks.analysis.networks import cheapest, shapes, small

GRAPHS = 500
SIZES = (5_000, 50_000)


def measure() -> dict[str, Any]:
    """How many small graphs agree with the least price of all choices, and seconds by shape and
    size.
    """
    rng = np.random.default_rng(0)
    equal = 0
    for _ in range(GRAPHS):
        network = small(rng)
        best = cheapest(network)
        equal += math.isclose(network.price(minimise(network)), best, rel_tol=1e-12)
    seconds: dict[str, dict[str, float]] = {}
    for name, make in shapes():
        for size in SIZES:
            network = make(size, np.random.default_rng(size))
            start = time.perf_counter()
            minimise(network)
            seconds.setdefault(name, {})[str(size)] = time.perf_counter() - start
    return {"graphs": GRAPHS, "equal": equal, "seconds": seconds}
