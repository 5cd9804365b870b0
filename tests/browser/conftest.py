"""A real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright

from tests.program import missing

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

OpenPage = Callable[..., Awaitable[Page]]


def chromium() -> str:
    """Where the browser is; without one, skip, or fail where everything must be proven."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        missing("a browser is missing: apt-get install chromium")
    return found


@pytest.fixture
async def open_page(tmp_path: Path) -> AsyncIterator[OpenPage]:
    """Opens the console at a URL, in a browser that nobody has used.

    Whatever the page logs as an error fails the test, but for what it was told to expect: close it
    before its broker stops.
    """
    executable = chromium()
    errors: list[str] = []
    expected: list[str] = []
    async with AsyncExitStack() as stack:
        playwright = await stack.enter_async_context(async_playwright())
        context = await playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=executable,
            args=list(FLAGS),
            viewport={"width": 1300, "height": 900},
        )
        stack.push_async_callback(context.close)

        async def open_page(url: str, *, expect: str = "") -> Page:
            expected.append(expect)
            page = await context.new_page()
            page.set_default_timeout(10_000)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on(
                "console",
                lambda said: errors.append(said.text) if said.type == "error" else None,
            )
            await page.goto(url)
            return page

        yield open_page
    known = [text for text in expected if text]
    assert not [error for error in errors if not any(text in error for text in known)]
