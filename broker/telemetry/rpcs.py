"""Counting rpcs. Every one of them pays for this, so that it is plain numbers, read at a scrape: an
instrument of OpenTelemetry would cost ten times as much.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final

from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from broker import errors
from broker.errors import BrokerError, ErrorCode
from broker.telemetry import metric_table as table

_BOUNDS: Final = [*table.RPC_DURATION.buckets, float("inf")]
_LABELS: Final = [*(str(bound) for bound in table.RPC_DURATION.buckets), "+Inf"]


class MethodTally:
    """The rpcs of one method.

    Args:
        refusals: the reasons of all methods' errors.
        unary: whether how long they take means anything.
    """

    __slots__ = ("codes", "durations", "in_progress", "refusals", "seconds", "unary")

    def __init__(self, refusals: Counter[str], *, unary: bool) -> None:
        self.refusals = refusals
        self.unary = unary
        self.in_progress = 0
        self.codes: Counter[str] = Counter(OK=0, INTERNAL=0)
        self.durations = [0] * len(_BOUNDS)
        self.seconds = 0.0

    def begin(self) -> float:
        """One has begun; returns when, for ``end``."""
        self.in_progress += 1
        return time.perf_counter()

    def end(self, began: float, code: str) -> None:
        """It has ended with this status code."""
        elapsed = time.perf_counter() - began
        self.in_progress -= 1
        self.codes[code] += 1
        self.seconds += elapsed
        self.durations[bisect_left(_BOUNDS, elapsed)] += 1

    def refused(self, reason: str) -> None:
        """It ends with the reason of an ErrorInfo."""
        self.refusals[reason] += 1


class NoTally:
    """Counts nothing."""

    def begin(self) -> float:
        """Nothing."""
        return 0.0

    def end(self, began: float, code: str) -> None:
        """Nothing."""

    def refused(self, reason: str) -> None:
        """Nothing."""


class RpcTallies:
    """The rpcs of all methods; a collector of prometheus_client's registry."""

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter(dict.fromkeys(_reasons(), 0))
        self._methods: dict[str, MethodTally] = {}

    def of(self, method: str, *, unary: bool) -> MethodTally:
        """That of one method."""
        tally = MethodTally(self.refusals, unary=unary)
        return self._methods.setdefault(method, tally)

    def collect(self) -> Iterator[Family]:
        """The metrics of rpcs, as prometheus_client wants them."""
        rpcs = CounterMetricFamily(**_head(table.RPCS))
        durations = HistogramMetricFamily(**_head(table.RPC_DURATION))
        in_progress = GaugeMetricFamily(**_head(table.RPCS_IN_PROGRESS))
        refusals = CounterMetricFamily(**_head(table.REFUSALS))
        for method, tally in sorted(self._methods.items()):
            in_progress.add_metric([method], tally.in_progress)
            for code, count in sorted(tally.codes.items()):
                rpcs.add_metric([method, code], count)
            if tally.unary:
                buckets = list(zip(_LABELS, accumulate(tally.durations), strict=True))
                durations.add_metric([method], buckets, tally.seconds)
        for reason, count in sorted(self.refusals.items()):
            refusals.add_metric([reason], count)
        yield from (rpcs, durations, in_progress, refusals)


def _reasons() -> Iterator[str]:
    """All that an ErrorInfo can say."""
    yield from (code.reason for code in ErrorCode)
    yield "INTERNAL"
    yield from (
        error.reason
        for error in vars(errors).values()
        if isinstance(error, type)
        and issubclass(error, BrokerError)
        and isinstance(getattr(error, "reason", None), str)
    )


def _head(metric: table.Metric) -> Any:
    return {"name": metric.name, "documentation": metric.meaning, "labels": metric.labels}
