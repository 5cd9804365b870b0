"""The page of the errors that callers get, from the comments of the contract."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_PROTO: Final = (
    Path(__file__).resolve().parent.parent / "proto" / "ibgateway" / "broker" / "v1" / "error.proto"
)
_ROW: Final = re.compile(r"((?:^  // .*\n)+)^  ERROR_REASON_(\w+) = (\d+);", re.MULTILINE)


def errors(notice: str) -> str:
    """Status, meaning and example of every reason."""
    rows = "\n".join(_rows())
    return f"""# Errors
{notice}

Every error of the API is a gRPC status with `google.rpc.ErrorInfo` in its details: `reason` is one
of these, `domain` is `ibgateway.broker.v1`, and every dynamic part of the message is in `metadata`.
Where it applies there are also `RetryInfo` (when to try again), `BadRequest` (which fields),
`ResourceInfo`, and our `ConnectionFailure` (phase, the Gateway's own error number, a hint). What to
do about each: [runbook](runbooks/connection-troubleshooting.md#reasons-that-callers-get).

| reason | status | meaning | example |
|---|---|---|---|
{rows}
"""


def _rows() -> list[str]:
    rows = []
    for comment, reason, number in _ROW.findall(_PROTO.read_text()):
        if number == "0":
            continue
        text = " ".join(line.strip().removeprefix("// ") for line in comment.splitlines())
        told, _, example = text.partition(' {"reason"')
        status, _, meaning = told.partition(". ")
        shown = f'`{{"reason"{example}`' if example else ""
        rows.append(f"| {reason} | {status} | {meaning} | {shown} |")
    return rows
