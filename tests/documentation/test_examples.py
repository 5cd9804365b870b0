"""What the documentation says to type works, and says what the documentation says that it says."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from broker.config import Settings
from broker.store.binaries import find_binaries
from tests.documentation.brokers import Broker, dev
from tests.documentation.pages import GRPCURL, MADE, PAGES, ROOT, Block, blocks
from tests.program import environment

BIN = Path(sys.executable).parent
POSTGRES = find_binaries(Path("/nowhere"), Path("/nowhere"), None).directory
"""Its own psql and pg_dump: others may be older than the server, and refuse it."""
TYPED = ("sh", "console")
EXAMPLES = {
    page: [block for block in blocks(page) if block.language in {*TYPED, "text"}]
    for page in PAGES
    if page != GRPCURL and MADE not in page.read_text()
}
PATIENCE = 90
"""Seconds that all examples of a page may take."""
STEPS = """
wait_for() {
    for _ in $(seq 600); do
        if grep --quiet --fixed-strings -e "$1" background; then return; fi
        sleep 0.1
    done
    echo "the one in the background has not said: $1" >&2
    return 1
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
"""


def is_run(block: Block) -> bool:
    return block.language in TYPED and not block.mark.startswith("not run")


RUN = [page for page, found in EXAMPLES.items() if any(map(is_run, found))]
MARKED = [(page, block) for page in PAGES for block in blocks(page) if block.mark]


@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
async def test_what_a_page_says_to_type_works(page: Path, tmp_path: Path) -> None:
    async with dev() as broker:
        (tmp_path / "background").touch()
        script = STEPS + "".join(steps(EXAMPLES[page], broker))
        process = await asyncio.create_subprocess_exec(
            *("bash", "-eu", "-o", "pipefail", "-c", script),
            cwd=tmp_path,
            env={
                **environment(
                    GATEWAY_BROKER_ADDRESS=broker.grpc,
                    GATEWAY_BROKER_DATA_DIR=str(broker.home),
                    DATABASE_URL=broker.database_url,
                ),
                "PATH": f"{BIN}:{POSTGRES}:{os.environ['PATH']}",
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(PATIENCE):
            said, _ = await process.communicate()
        last = max(map(int, re.findall(r"^\+\+\+ (\d+)$", said.decode(), re.MULTILINE)), default=0)
        assert process.returncode == 0, f"{page}:{last}\n{said.decode()}{read(tmp_path, last)}"
        for block in EXAMPLES[page]:
            if block.mark == "told: in the background":
                seen(block.text, read(tmp_path, "background"), page, block)
            elif is_run(block) and block.language == "console":
                name = "background" if block.mark == "run: background" else block.line
                seen(expected(block), read(tmp_path, name), page, block)


def read(directory: Path, name: str | int) -> str:
    path = directory / str(name)
    return path.read_text() if path.exists() else ""


def steps(found: Sequence[Block], broker: Broker) -> Iterator[str]:
    """What is typed, each block with a file for what it says."""
    for block in found:
        if not is_run(block):
            continue
        text = here(typed(block), broker)
        yield f"echo '+++ {block.line}'\n"
        if block.mark == "run: background":
            yield f"( {text}\n) >background 2>&1 &\n"
            continue
        if block.mark.startswith("wait for: "):
            yield f"wait_for {shlex.quote(block.mark.removeprefix('wait for: '))}\n"
        yield f"{{ {text}\n}} >{block.line} 2>&1\n"


def typed(block: Block) -> str:
    """The commands of a block."""
    if block.language == "sh":
        return block.text.strip()
    commands = [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
    return "\n".join(commands)


def expected(block: Block) -> str:
    """What a block says is seen."""
    return "\n".join(line for line in block.text.splitlines() if not line.startswith("$ "))


def here(text: str, broker: Broker) -> str:
    """Commands as they are typed here: where this test's broker and programs are."""
    text = re.sub(r"\.venv/bin/(gateway-broker|python)\b", lambda m: str(BIN / m[1]), text)
    text = text.replace("127.0.0.1:50051", broker.grpc).replace("127.0.0.1:50052", broker.control)
    newest = (
        "$(gateway-broker sessions list --output json | grep --only-matching "
        '--perl-regexp \'"session_id": "\\K[^"]+\' | tail --lines 1)'
    )
    return text.replace("SESSION_ID", newest)


def seen(told: str, said: str, page: Path, block: Block) -> None:
    """Each line that is told was said, in this order; times, ids and what `…` stands for differ."""
    lines = iter(map(plain, said.splitlines()))
    for line in filter(None, map(plain, told.splitlines())):
        pattern = re.escape(line).replace("…", ".*")
        if not any(re.fullmatch(pattern, candidate) for candidate in lines):
            pytest.fail(f"{page}:{block.line}: not seen: {line}\n{said}")


def plain(line: str) -> str:
    """A line without what differs from run to run, and with single blanks."""
    line = re.sub(r"\d\d:\d\d:\d\d(\.\d+)?", "T", line.rstrip())
    line = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{8}\b", "ID", line)
    line = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", line)
    line = re.sub(r"\b\d+\.\d+ s\b", "N s", line)
    return re.sub(r" +", " ", line.strip())


def name(case: object) -> str:
    if isinstance(case, Path):
        return case.relative_to(ROOT).as_posix()
    assert isinstance(case, Block)
    return str(case.line)


@pytest.mark.parametrize(("page", "block"), MARKED, ids=name)
def test_a_mark_of_an_example_is_one_that_is_understood(page: Path, block: Block) -> None:
    marks = r"not run: \S.+|run: background|wait for: \S.+|told: in the background"
    assert re.fullmatch(marks, block.mark)


CONFIGURATIONS = [
    (page, block)
    for page in PAGES
    for block in blocks(page)
    if block.language == "toml" and not block.mark.startswith("not run")
]


@pytest.mark.parametrize(("page", "block"), CONFIGURATIONS, ids=name)
def test_a_configuration_that_is_shown_is_one(page: Path, block: Block) -> None:
    assert Settings(**tomllib.loads(block.text)).gateways
