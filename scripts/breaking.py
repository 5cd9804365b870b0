"""Check that the contract, as it lies here, breaks no client that was written against it before.

It is compared with

- the newest release that this commit descends from; before the first one
- where this branch left main (of `origin`, or else the local one); on main itself, or without one,
- what there was before the last change of proto/, a change that is not committed yet included.

What cannot be compared is said, and is no error: a source archive has no history, and a shallow
clone may have too little.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
UNRELEASED: Final = (
    "FILE_SAME_GO_PACKAGE",
    "FILE_SAME_JAVA_MULTIPLE_FILES",
    "FILE_SAME_JAVA_PACKAGE",
)
"""What may still change before the first release: where generated code lies. Nobody has any yet,
and nothing of it is seen on the wire."""


@dataclass(frozen=True)
class Before:
    """A commit to compare with, what it is for people, and whether it binds in full."""

    commit: str
    name: str
    released: bool = False


class NothingToCompareError(Exception):
    """There is no earlier contract here; the text says why."""


def git(*arguments: str) -> str | None:
    """What git says; nothing if it fails, as it does for what there is not."""
    done = subprocess.run(  # nosec B603 B607 # git, of whoever runs this
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def earlier() -> Before:
    """What the contract is compared with."""
    try:
        # The prefix is where we are within a repository: an archive may lie in that of others.
        if git("rev-parse", "--show-prefix") != "":
            raise NothingToCompareError("this is no clone of the project")
    except FileNotFoundError:
        raise NothingToCompareError("git is not here") from None
    if git("rev-parse", "--verify", "HEAD") is None:
        raise NothingToCompareError("nothing was committed yet")
    tag = git("describe", "--tags", "--abbrev=0", "--match=v[0-9]*")
    if tag:
        return Before(tag, f"release {tag}", released=True)
    mains = ("refs/remotes/origin/main", "refs/heads/main")
    main = next((name for name in mains if git("rev-parse", "--verify", name)), None)
    left = git("merge-base", "HEAD", main) if main else None
    if left and left != git("rev-parse", "HEAD"):
        return Before(left, f"{left[:12]}, where this branch left main")
    return before_last_change()


def before_last_change() -> Before:
    """What there was before proto/ was last changed, by the first parents of HEAD."""
    if git("status", "--porcelain", "--", "proto"):
        return Before("HEAD", "the last commit")
    change = git("log", "-1", "--first-parent", "--format=%H", "--", "proto")
    if not change:
        raise NothingToCompareError("proto/ has no history")
    before = git("rev-parse", "--verify", f"{change}^1")
    if before and git("rev-parse", "--verify", f"{before}:proto"):
        return Before(before, f"{before[:12]}, before the last change of proto/")
    if git("rev-parse", "--is-shallow-repository") == "true":
        raise NothingToCompareError(
            "this clone is shallow; `git fetch --unshallow` gets the history"
        )
    raise NothingToCompareError("proto/ has never changed since it came")


def breaks(before: Before) -> bool:
    """Say what the contract breaks; whether it does."""
    config = yaml.safe_load((ROOT / "buf.yaml").read_text())
    if not before.released:
        config["breaking"]["except"] = list(UNRELEASED)
    rules = json.dumps(config)
    archive = subprocess.run(  # nosec B603 B607 # git, of whoever runs this
        ["git", "archive", "--format=zip", before.commit, "proto"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    with tempfile.TemporaryDirectory() as directory:
        # Not by buf's own reading of git, which knows no worktrees.
        with zipfile.ZipFile(io.BytesIO(archive.stdout)) as files:
            files.extractall(directory)
        buf = str(Path(sys.executable).with_name("buf"))
        command = [buf, "breaking", "--config", rules, "--against", directory]
        command += ["--against-config", rules]
        done = subprocess.run(command, cwd=ROOT, check=False)  # nosec B603 # a locked tool
        return done.returncode != 0


def main() -> int:
    """Run; returns the exit code."""
    try:
        before = earlier()
    except NothingToCompareError as why:
        sys.stdout.write(f"the contract is not compared with an earlier one: {why}\n")
        return 0
    sys.stdout.write(f"the contract is compared with {before.name}\n")
    sys.stdout.flush()
    return int(breaks(before))


if __name__ == "__main__":
    sys.exit(main())
