"""Watching over a live link: whoever was silent is asked, and whoever does not answer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from broker.errors import GatewayError
from broker.gateway.base import Link, Probe
from broker.gateway.wire import PROBE_SPACING

_STANDS: Final = PROBE_SPACING + 0.01
"""Seconds for which a link gives an answer again, at once and without a pause, and a little more:
clocks are rounded."""


async def watch_over(
    link: Link, *, interval: float, timeout: float, answered: Callable[[Probe], None]
) -> GatewayError:
    """Return why the link was lost, once it is.

    A send that succeeds proves nothing, so that a link is judged by what it receives: after
    ``interval`` seconds without a byte the Gateway is asked for its time.

    Args:
        link: the link.
        interval: seconds of silence that are borne.
        timeout: seconds that an answer may take; the link is aborted when it does not come.
        answered: called with each answer.

    Cancellation is safe.
    """
    loop = asyncio.get_running_loop()
    earliest = loop.time()
    while True:
        rest = max(link.last_received + interval, earliest) - loop.time()
        if rest > 0:
            try:
                async with asyncio.timeout(rest):
                    return await link.wait_lost()
            except TimeoutError:
                continue
        try:
            probe = await link.probe(timeout)
        except GatewayError:
            return await link.wait_lost()
        answered(probe)
        earliest = probe.answered_at + _STANDS
