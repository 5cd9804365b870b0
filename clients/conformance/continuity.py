"""Whether the items that a watch has told are complete: judged here, not by the runner. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Item = Mapping[str, Any]


def gaps(items: Sequence[Item], history: Sequence[Item] | None = None) -> Iterator[str]:
    """What is missing, doubled or out of order.

    Args:
        items: of one watch, or of several that continued each other, in their order.
        history: the recorded events of one session; those that fall within what was watched must
            have been told.
    """
    last: dict[str, int] = {}
    revision, told = 0, set()
    in_snapshot = False
    for item in items:
        match item["kind"]:
            case "reset":
                last.clear()
                revision, in_snapshot = 0, False
            case "snapshot":
                if not in_snapshot:
                    last.clear()
                in_snapshot = True
                session = item["session"]
                last[session["session_id"]] = session["sequence"]
            case "snapshot_complete":
                in_snapshot = False
            case "event" if item["persisted"]:
                session_id, sequence = item["session_id"], item["sequence"]
                expected = last.get(session_id, sequence - 1) + 1
                if sequence != expected:
                    yield f"event {sequence} of {session_id} came where {expected} was due"
                if item["revision"] <= revision:
                    yield f"revision {item['revision']} came after {revision}"
                if item["session"]["sequence"] != sequence:
                    yield f"event {sequence} has the session of {item['session']['sequence']}"
                last[session_id], revision = sequence, item["revision"]
                told.add((session_id, sequence))
    if history is None:
        return
    mine = [event for event in history if (event["session_id"], event["sequence"]) in told]
    if not mine:
        yield "no event of the history was told"
        return
    first, newest = mine[0]["sequence"], last[mine[0]["session_id"]]
    for event in history:
        place = event["session_id"], event["sequence"]
        if first <= event["sequence"] <= newest and place not in told:
            yield f"event {place[1]} of {place[0]} is on record, and was not told"
