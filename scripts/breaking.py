"""Check that the contract breaks no client that was written against the last release."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def last_release() -> str | None:
    """The newest release tag that HEAD descends from, if there is one."""
    found = subprocess.run(  # nosec B603 B607 # git, of whoever runs this
        ["git", "describe", "--tags", "--abbrev=0", "--match=v[0-9]*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None


def main() -> int:
    """Run; returns the exit code."""
    tag = last_release()
    if tag is None:
        sys.stdout.write("no release yet: there is no contract to break\n")
        return 0
    buf = Path(sys.executable).with_name("buf")
    against = f"{ROOT / '.git'}#tag={tag}"
    command = [buf, "breaking", "--against", against]
    return subprocess.run(command, cwd=ROOT, check=False).returncode  # nosec B603 # a locked tool


if __name__ == "__main__":
    sys.exit(main())
