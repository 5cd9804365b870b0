"""What a session goes through without its owner doing anything. The steps are in conftest.py."""

from __future__ import annotations

from pytest_bdd import scenarios

scenarios("features/outages.feature")
