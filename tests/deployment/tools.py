"""Programs that are not ours and check what we deploy with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.program import missing

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
_FROM = {
    "promtool": "`.ci/tools`",
    "systemd-analyze": "Debian's package systemd",
    "hadolint": "`make .venv-deploy/.installed`",
    "kubernetes-validate": "`make .venv-deploy/.installed`",
    "docker-compose": "`make .venv-deploy/.installed`",
}


def tool(name: str) -> str:
    """Where a program is; the test is skipped, in CI failed, if it is nowhere."""
    ours = ROOT / ".venv-deploy" / "bin" / name
    found = str(ours) if ours.exists() else shutil.which(name)
    if found is None:
        missing(f"{name} is missing; it comes with {_FROM[name]}")
    return found


def ask(name: str, *arguments: str | Path, **environment: str) -> str:
    """Run a program that must find nothing wrong; returns what it said."""
    done = subprocess.run(
        [tool(name), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
