"""Callers and watchers of a broker that is killed, in front of a Gateway and a database that fail.

`make robustness` runs it for long (MINUTES), round after round, the first with SEED and each with
the seed of the one before plus one; the suite runs one round. A seed brings a round's dice back.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from pathlib import Path

import pytest

from tests.postgres import data_directory
from tests.robustness.checker import check, report
from tests.robustness.database import database
from tests.robustness.history import Limits
from tests.robustness.nemesis import ALL, SHORT
from tests.robustness.run import Scenario, run

SECONDS = float(os.environ.get("MINUTES") or 0) * 60
SEED = int(os.environ.get("SEED") or 7)
ROUND, CARDS = (20.0, ALL) if SECONDS else (15.0, SHORT)
"""Seconds of faults in a round, and what befalls the broker: so much is judged at once."""


@pytest.mark.requirement("AC-008")
@pytest.mark.timeout(SECONDS * 3 + 240)
async def test_every_guarantee_holds_whatever_fails(tmp_path: Path) -> None:
    began = time.monotonic()
    seed = SEED
    with data_directory() as directory:
        async with database(directory) as cluster:
            while True:
                here = tmp_path / f"seed-{seed}"
                here.mkdir()
                result = await run(scenario(seed), cluster, here)
                judged = time.monotonic()
                violations = check(result.history)
                say(f"seed {seed}: judged in {time.monotonic() - judged:.1f} s\n{result}\n")
                if violations:
                    (here / "history.pickle").write_bytes(pickle.dumps(result.history))
                assert not violations, f"seed {seed}, logs in {here}:\n{report(violations)}"
                assert not result.unseen, f"seed {seed} has not tested enough"
                seed += 1
                if time.monotonic() - began >= SECONDS:
                    return


def scenario(seed: int) -> Scenario:
    """What happens in a round. In every other one no watcher is cut for its lag: what it has not
    read is deleted instead.
    """
    limits = Limits() if seed % 2 else Limits(watch_lag=1_000_000)
    return Scenario(seed=seed, seconds=ROUND, cards=CARDS, limits=limits)


def say(text: str) -> None:
    """Tell whoever runs it with -s."""
    sys.stdout.write(f"\n{text}")
