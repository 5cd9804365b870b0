"""The command that runs the simulated Gateway, and its page in the documentation."""

import asyncio
import re
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import typer
from google.protobuf import json_format
from ibgateway.simulator.v1 import simulator_service_pb2 as pb
from ibgateway.simulator.v1 import simulator_service_pb2_grpc as pb_grpc
from typer.testing import CliRunner

from broker.cli.simulate import simulate
from broker.simulator.control import ControlServer
from broker.simulator.faults import Fault, markdown_table
from broker.simulator.gateway import SimulatedGateway
from broker.simulator.journal import End
from broker.simulator.raw_client import RawClient
from broker.simulator.upstream import KNOWN_CODES

ROOT = Path(__file__).parents[2]
PROGRAM = """
import typer
from broker.cli.simulate import simulate
app = typer.Typer()
app.command()(simulate)
app()
"""


def _command() -> typer.Typer:
    app = typer.Typer()
    app.command()(simulate)
    return app


async def _start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *arguments,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_says_what_it_is_serves_and_stops_cleanly(stop: signal.Signals) -> None:
    process = await _start(
        "--listen",
        "127.0.0.1:0",
        "--control-listen",
        "127.0.0.1:0",
        "--fault",
        "reset-after-accept:1",
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(10):
            banner = (await process.stdout.readuntil(b"Ctrl-C to stop.\n")).decode()
            assert "SIMULATOR: this is not an IB Gateway" in banner
            assert "reset-after-accept, for 1 connections" in banner
            [port] = re.findall(r"TWS clients: 127\.0\.0\.1:(\d+)\n", banner)
            [control] = re.findall(r"control: +127\.0\.0\.1:(\d+)\n", banner)
            async with RawClient("127.0.0.1", int(port)) as client:
                assert (await client.end())[1] is End.RESET
            async with RawClient("127.0.0.1", int(port)) as client:
                await client.ready(7)
                async with grpc.aio.insecure_channel(f"127.0.0.1:{control}") as channel:
                    stub: Any = pb_grpc.SimulatorServiceStub(channel)
                    answer = await stub.GetSimulator(pb.GetSimulatorRequest())
                    assert answer.port == int(port)
                process.send_signal(stop)
                assert (await client.end())[1] is End.FIN
            rest, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, errors.decode()) == (0, "")
    assert "has stopped" in rest.decode()


async def test_the_limits_of_the_gateway_are_set_on_the_command_line() -> None:
    process = await _start(
        "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0",
        "--read-only", "--rate-limit", "0", "--hold-after-reset", "0.5",
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(10):
            banner = (await process.stdout.readuntil(b"Ctrl-C to stop.\n")).decode()
            [control] = re.findall(r"control: +127\.0\.0\.1:(\d+)\n", banner)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{control}") as channel:
                stub: Any = pb_grpc.SimulatorServiceStub(channel)
                settings = (await stub.GetSimulator(pb.GetSimulatorRequest())).settings
            assert (settings.read_only, settings.rate_limit) == (True, 0)
            assert settings.hold_after_reset.nanos == 500_000_000
            process.send_signal(signal.SIGTERM)
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_port_that_is_taken_is_told_with_exit_code_1() -> None:
    async with SimulatedGateway() as sim:
        process = await _start("--listen", f"127.0.0.1:{sim.port}", "--no-control")
        async with asyncio.timeout(10):
            _, errors = await process.communicate()
        assert process.returncode == 1
        assert f"cannot listen on 127.0.0.1:{sim.port}" in errors.decode()
        assert "Traceback" not in errors.decode()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--listen", "4002"], "not HOST:PORT"),
        (["--listen", "127.0.0.1:70000"], "not HOST:PORT"),
        (["--listen", "::1:4002"], "not HOST:PORT"),
        (["--control-listen", "here:there"], "not HOST:PORT"),
        (["--server-version", "156"], "157 to 200"),
        (["--server-version", "new"], "not a valid int"),
        (["--account", "DU1,DU2"], "letters and digits"),
        (["--rate-limit", "-1"], "rate_limit is -1"),
        (["--hold-after-reset", "-1"], "hold_after_reset is -1"),
        (["--hold-after-reset", "nan"], "hold_after_reset is nan"),
        (["--fault", "no-such"], "no fault is named"),
        (["--fault", "http:often"], "NAME:TIMES"),
        (["--fault", "http:0"], "1 to 1000000"),
        (["--fault", "http", "--fault", "garbage"], "never act"),
    ],
)
def test_bad_input_is_explained_with_exit_code_2(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(_command(), arguments, terminal_width=300)
    assert result.exit_code == 2
    told = re.sub(r"[\s│]+", " ", result.output)
    assert says in told or (says == "not a valid int" and "integer" in told)


def test_list_faults_shows_each_with_what_it_does() -> None:
    result = CliRunner().invoke(_command(), ["--list-faults"])
    assert result.exit_code == 0
    lines = [line.split(None, 1) for line in result.output.splitlines()]
    assert lines == [[fault.label, fault.value] for fault in Fault]


def _page() -> str:
    return (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")


def test_the_table_of_faults_in_the_documentation_is_current() -> None:
    _, _, rest = _page().partition("<!-- faults -->\n")
    table, end, _ = rest.partition("<!-- end of faults -->")
    assert end
    assert table == markdown_table(), "replace it with broker.simulator.faults.markdown_table()"


def _python_examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", _page(), re.DOTALL)


def _calls() -> list[tuple[str, str]]:
    """The rpc and the request of each grpcurl example."""
    found = re.findall(r"^grpcurl -plaintext(?: -d '(.*)')? \S+ \$S/(\w+)$", _page(), re.MULTILINE)
    return [(rpc, request or "{}") for request, rpc in found]


async def test_every_rpc_has_an_example_in_the_documentation_that_works() -> None:
    service = pb.DESCRIPTOR.services_by_name["SimulatorService"]
    assert {rpc for rpc, _ in _calls()} == {method.name for method in service.methods}
    async with (
        SimulatedGateway() as sim,
        ControlServer(sim) as control,
        grpc.aio.insecure_channel(f"{control.host}:{control.port}") as channel,
    ):
        stub = pb_grpc.SimulatorServiceStub(channel)
        for rpc, text in _calls():
            kind = service.methods_by_name[rpc].input_type.name
            await getattr(stub, rpc)(json_format.Parse(text, getattr(pb, kind)()), timeout=5)


@pytest.mark.parametrize("example", _python_examples())
async def test_each_python_example_in_the_documentation_works(example: str) -> None:
    program = f"import asyncio\nasync def main():\n{textwrap.indent(example, '    ')}\n"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", f"{program}\nasyncio.run(main())",
        cwd=ROOT, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(20):
        _, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")


def test_the_documentation_tells_every_code_that_has_words() -> None:
    _, _, rest = _page().partition("<!-- codes -->\n")
    assert rest.split("\n", 1)[0] == ", ".join(map(str, KNOWN_CODES)) + "."
