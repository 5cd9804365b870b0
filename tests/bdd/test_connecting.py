"""The plan's scenarios (BDD-001, BDD-007): opening a session. The steps are in conftest.py."""

from __future__ import annotations

from functools import partial

import pytest
from pytest_bdd import scenario

told = partial(scenario, "features/connecting.feature")


@pytest.mark.requirement("BDD-007")
@told("successful_connection")
def test_successful_connection() -> None:
    pass


@pytest.mark.requirement("BDD-001", "AC-004")
@told("authentication_error")
def test_authentication_error() -> None:
    pass


@pytest.mark.requirement("BDD-001")
@told("version_mismatch")
def test_version_mismatch() -> None:
    pass


@pytest.mark.requirement("BDD-001")
@told("client_id_conflict")
def test_client_id_conflict() -> None:
    pass


@told("an id that must not change")
def test_an_id_that_must_not_change() -> None:
    pass


@pytest.mark.requirement("BDD-007")
@told("connection_timeout")
def test_connection_timeout() -> None:
    pass


@pytest.mark.requirement("BDD-007", "AC-010")
@told("circuit_breaker_open")
def test_circuit_breaker_open() -> None:
    pass
