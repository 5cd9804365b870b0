"""What the documentation says to type into grpcurl works, and is answered as it says."""

from __future__ import annotations

import asyncio
import functools
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from ibgateway.broker.v1 import broker_service_pb2, gateway_service_pb2, session_service_pb2
from ibgateway.simulator.v1 import simulator_service_pb2

from tests.documentation.brokers import dev
from tests.documentation.pages import GRPCURL, PAGES, ROOT, blocks
from tests.harness import eventually
from tests.program import ask, environment, missing

BIN = ROOT / ".tools" / "bin"
PATIENCE = 90
"""Seconds that all commands may take."""
SIMULATOR = "ibgateway.simulator.v1.SimulatorService"
RPCS = [
    f"{service.full_name}/{method.name}"
    for contract in (
        broker_service_pb2,
        gateway_service_pb2,
        session_service_pb2,
        simulator_service_pb2,
        health_pb2,
    )
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
STATUSES = {code.name.replace("_", "").lower(): code.value[0] for code in grpc.StatusCode}
NEWEST = {"SESSION_ID": "sessionId", "RESUME_TOKEN": "resumeToken", "PAGE_TOKEN": "nextPageToken"}
"""What readers put in themselves, and the field of an earlier answer that they take it from."""
STEPS = f"""
S={SIMULATOR}
newest() {{
    grep --only-matching "\\"$1\\": \\"[^\\"]*" said | tail -n 1 | cut --delimiter '"' --fields 4
}}
answered() {{
    echo $? >"$1.code"
    cat "$1" >>said
}}
"""


@dataclass(frozen=True)
class Example:
    """What is typed, and what is answered; nothing, where the page does not say."""

    page: Path
    line: int
    typed: str
    answer: str | None = None

    @property
    def name(self) -> str:
        return f"{self.page.stem}.{self.line}"

    @property
    def code(self) -> int:
        """The exit code: grpcurl's is 64 and the status, or 1 if it came to none."""
        if self.answer is None:
            return 64 + STATUSES["deadlineexceeded"] if "-max-time" in self.typed else 0
        if status := re.search(r"^  Code: (\w+)$", self.answer, re.MULTILINE):
            return 64 + STATUSES[status[1].lower()]
        if number := re.search(r'^  "code": (\d+),$', self.answer, re.MULTILINE):
            return 64 + int(number[1])
        return int(self.answer.startswith(("Failed to", "Error invoking")))


def transcript() -> Iterator[Example]:
    """What docs/grpcurl.md tells."""
    found = list(blocks(GRPCURL))
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.language == "sh":
            answer = after.text if after and after.language == "text" else None
            yield Example(GRPCURL, block.line, block.text.strip(), answer)


def elsewhere() -> Iterator[Example]:
    """The commands of other pages: lines of examples, and what stands in sentences."""
    command = r"^((?:grpcurl -|grpc_health_probe -)(?:.*\\\n)*.*)$|`(grpcurl -[^`]+)`"
    stop = f'grpcurl -plaintext -d \'{{"name": "restart"}}\' 127.0.0.1:50052 {SIMULATOR}/StopScript'
    for page in PAGES:
        if page == GRPCURL:
            continue
        text = page.read_text()
        for found in re.finditer(command, text, re.MULTILINE):
            typed = found[1] or found[2].replace("\n", " ")
            if "Watch" in typed:  # would go on
                typed = typed.replace("grpcurl ", "grpcurl -max-time 1 ")
            yield Example(page, text.count("\n", 0, found.start()) + 1, typed)
        if "StartRestart" in text:  # another page begins one, too
            yield Example(page, 0, stop)


TRANSCRIPT = list(transcript())
TOLD = "\n".join(found.typed for found in TRANSCRIPT if found.answer).replace("$S", SIMULATOR)


@pytest.mark.parametrize("rpc", RPCS)
def test_every_rpc_has_a_transcript(rpc: str) -> None:
    assert re.search(rf" {re.escape(rpc)}$", TOLD, re.MULTILINE)


@pytest.mark.parametrize("asked", [" list$", r" describe \S+$"])
def test_reflection_has_a_transcript(asked: str) -> None:
    assert re.search(asked, TOLD, re.MULTILINE)


def test_every_answer_follows_what_is_typed() -> None:
    answers = [block.text for block in blocks(GRPCURL) if block.language == "text"]
    assert answers == [found.answer for found in TRANSCRIPT if found.answer]


@pytest.mark.timeout(PATIENCE + 60)
async def test_what_is_typed_into_grpcurl_is_answered_so(tmp_path: Path) -> None:
    for program in ("grpcurl", "grpc_health_probe"):
        if not (BIN / program).exists():
            missing(f"{program} is missing; `make grpcurl` brings it, with Go")
    examples = [*TRANSCRIPT, *elsewhere()]
    async with brokers(tmp_path) as addresses:
        script = STEPS + "".join(step(found, addresses) for found in examples)
        await run(script, tmp_path)
    for found in examples:
        said = (tmp_path / found.name).read_text()
        where = f"{found.page}:{found.line}: {found.typed}"
        if found.answer is not None:
            assert not (wrong := differs(found.answer, said)), f"{where}\n{wrong}\n{said}"
        code = int((tmp_path / f"{found.name}.code").read_text())
        assert code == found.code, f"{where}\n{said}"


def step(found: Example, addresses: Mapping[str, str]) -> str:
    """An example as it is typed here, with a file for the answer and one for the exit code."""
    typed = found.typed
    for told, here in addresses.items():
        typed = typed.replace(told, here)
    for told, field in NEWEST.items():
        typed = typed.replace(told, f"""'"$(newest {field})"'""")
    return f"{{ {typed}\n}} >{found.name} 2>&1; answered {found.name}\n"


async def run(script: str, directory: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", script),
        cwd=directory,
        env={**environment(), "PATH": f"{BIN}:{os.environ['PATH']}"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert not said, said.decode()


@asynccontextmanager
async def brokers(directory: Path) -> AsyncIterator[dict[str, str]]:
    """Where the brokers are that pages speak of: one as `dev` is, and one with TLS and tokens.

    What callers of the second one need is where the pages have it.
    """
    made = await ask("access", "init", str(directory / "trial"), "--host", "broker.example.net")
    assert made.code == 0, made.err
    for name in ("ca.pem", "viewer.token"):
        (directory / name).symlink_to(directory / "trial" / name)
    async with AsyncExitStack() as stack:
        trusting, asking = await asyncio.gather(
            stack.enter_async_context(dev()),
            stack.enter_async_context(dev("--access", str(directory / "trial"))),
        )
        # As it is by the time that somebody has typed the first command.
        await eventually(functools.partial(reaches_its_gateway, trusting.grpc), timeout=40)
        yield {
            "127.0.0.1:50051": trusting.grpc,
            "127.0.0.1:50052": trusting.control,
            "broker.example.net:50051": asking.grpc,
            "broker.example:50051": asking.grpc,
        }


async def reaches_its_gateway(broker: str) -> bool:
    return (await ask("health", "gateways/default", "--broker", broker)).code == 0


def differs(told: str, said: str) -> str | None:
    """How an answer differs: `…` in a line is anything, and a line of nothing else any lines.

    Blanks do not count: grpcurl's JSON varies in them from build to build.
    """
    lines = [" ".join(line.split()) for line in said.splitlines()]
    parts: list[list[str]] = [[]]
    for line in told.splitlines():
        if line.strip() == "…":
            parts.append([])
        else:
            parts[-1].append(re.escape(" ".join(line.split())).replace("…", ".*"))
    at = 0
    for number, part in enumerate(parts):
        last = len(lines) - len(part)
        first = last if 0 < number == len(parts) - 1 else at
        for place in range(max(at, first), (at if number == 0 else last) + 1):
            if all(map(re.fullmatch, part, lines[place:])) and place <= last:
                at = place + len(part)
                break
        else:
            return "\n".join(["not answered:", *part])
    return None if at == len(lines) else "\n".join(["not told:", *lines[at:]])


@pytest.mark.parametrize(
    ("told", "said", "same"),
    [
        ("{}", "{}", True),
        ("{\n  a\n}", "{\n    a\n}", True),
        ("{\n}", "{\n  a\n}", False),
        ("{\n  …\n}", "{\n  a\n  b\n}", True),
        ("{\n  …\n}", "{\n}", True),
        ("a\n…\nb\nc\n…\nd", "a\nb\nx\nb\nc\nd", True),
        ("a\n…\nb\nc\n…\nd", "a\nb\nx\nc\nd", False),
        ("a: …", "a: 1 b", True),
        ("a: …", "a: 1\nb", False),
        ("…\nb", "a\nb\nc", False),
        ("a\n…", "b\na", False),
        ("a\nb", "a", False),
        ("a\n…\na", "a", False),
    ],
)
def test_an_answer_is_compared_with_what_is_told(told: str, said: str, same: bool) -> None:
    assert (differs(told, said) is None) is same
