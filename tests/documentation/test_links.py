"""No link leads nowhere, and every page can be found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documentation.pages import PAGES, ROOT, anchors, links

INDEX = ROOT / "docs" / "README.md"
OURS = "https://github.com/gateway-broker/gateway-broker/blob/main/"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_is_dead(page: Path) -> None:
    for link in links(page):
        base = ROOT if link.startswith(OURS) else page.parent
        link = link.removeprefix(OURS)  # noqa: PLW2901
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, section = link.partition("#")
        target = (base / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leaves the project"
        if section:
            assert section in anchors(target), f"{link}: there is no such heading"


def test_what_pypi_shows_has_no_relative_links() -> None:
    """It takes them for pages of its own. npm, crates.io and pkg.go.dev ask for the repository."""
    for link in links(ROOT / "clients" / "python" / "README.md"):
        assert "://" in link or link.startswith("#"), link


def test_the_index_leads_to_every_page() -> None:
    listed = {(INDEX.parent / link.partition("#")[0]).resolve() for link in links(INDEX)}
    pages = {
        page
        for page in (ROOT / "docs").rglob("*.md")
        if page.parent.name != "decisions" and page != INDEX
    }
    assert pages <= listed, sorted(str(page.relative_to(ROOT)) for page in pages - listed)
