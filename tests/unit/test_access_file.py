"""The access file and the files beside it: what is read, what is refused, what two writers do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.access import certificates, roster, tokens
from broker.access.doorkeeper import Doorkeeper, Unknown
from broker.access.guarded import LARGEST, GuardedFile, Watched
from broker.access.identity import Identity, Role
from broker.access.roster import Entry
from broker.access.trial import Trial
from broker.errors import UnusableFileError
from tests.harness import eventually

NOW = datetime(2027, 1, 1, tzinfo=UTC)
KEY = "sha256:" + "ab" * 32


def entry(name: str = "momentum", role: Role = Role.TRADER, until: datetime | None = None) -> Entry:
    return Entry(Identity(name, role), until, tokens.digest(tokens.new_token()))


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def parse(text: str) -> roster.Roster:
    return roster.parse(text.encode(), Path("access"))


# -- tokens ------------------------------------------------------------------------


def test_a_token_has_256_random_bits_and_a_mark_that_scanners_find() -> None:
    made = {tokens.new_token() for _ in range(1000)}
    assert len(made) == 1000
    assert all(token.startswith("gwb_") and len(token) == 47 for token in made)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "password",
        "gwb_short",
        "gwb_" + "x" * 44,
        "gwb_" + "x" * 42 + "\n",
        "gwb_" + "x" * 43 + "\n",
        " gwb_" + "x" * 43,
        "gwb_" + "é" * 43,
        "x" * 1_000_000,
    ],
)
def test_what_is_no_token_of_ours_is_not_looked_up(token: str) -> None:
    assert tokens.digest(token) is None


# -- lines -------------------------------------------------------------------------


def test_a_line_says_who_with_which_key_and_until_when() -> None:
    found = parse(
        f"""# name role until key

        momentum trader never {KEY}
        risk VIEWER 2027-01-31T00:00:00+01:00 sha256:{"cd" * 32}
        spiffe://desk/ops operator never certificate
        """
    )
    assert [item.identity for item in found.entries] == [
        Identity("momentum", Role.TRADER),
        Identity("risk", Role.VIEWER),
        Identity("spiffe://desk/ops", Role.OPERATOR),
    ]
    assert found.tokens[bytes.fromhex("ab" * 32)] is found.entries[0]
    assert found.entries[1].until == datetime(2027, 1, 30, 23, tzinfo=UTC)
    assert found.certificates["spiffe://desk/ops"] is found.entries[2]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("momentum trader never", "3 words"),
        (f"momentum trader never {KEY} more", "5 words"),
        (f"momentum admin never {KEY}", "'admin'"),
        (f"{'x' * 129} trader never {KEY}", "a name is"),
        (f"mom\x07entum trader never {KEY}", "a name is"),
        (f"momentum trader tomorrow {KEY}", "'tomorrow'"),
        (f"momentum trader 2027-01-31T00:00:00 {KEY}", "with its zone"),
        (f"momentum trader 0001-01-01T00:00:00+14:00 {KEY}", "with its zone"),
        ("momentum trader never sha256:abcd", "64 hexadecimal"),
        (f"momentum trader never {KEY.upper()}", "64 hexadecimal"),
        ("momentum trader never gwb_" + "x" * 43, "64 hexadecimal"),
        (f"a trader never {KEY}\nb viewer never {KEY}", "in another line"),
        ("a trader never certificate\na viewer never certificate", "in another line"),
    ],
)
@pytest.mark.requirement("AC-015")
def test_a_bad_line_is_refused_by_its_number(line: str, said: str) -> None:
    with pytest.raises(UnusableFileError) as caught:
        parse(f"# heading\n{line}\n")
    assert said in str(caught.value)
    assert "line " in str(caught.value)
    assert "gwb_" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", "zoë trader never x".encode()])
def test_what_is_no_text_is_refused(content: bytes) -> None:
    with pytest.raises(UnusableFileError):
        roster.parse(content, Path("access"))


@given(
    st.lists(
        st.builds(
            Entry,
            st.builds(
                Identity,
                st.from_regex(r"[!-\"$-~][!-~]{0,127}", fullmatch=True),
                st.sampled_from(Role),
            ),
            st.none()
            | st.datetimes(timezones=st.just(UTC)).map(lambda t: t.replace(microsecond=0)),
            st.binary(min_size=32, max_size=32),
        ),
        max_size=5,
        unique_by=lambda item: item.digest,
    )
)
def test_a_line_that_is_written_is_read_as_it_was(entries: list[Entry]) -> None:
    text = roster.HEADER + "".join(item.line() for item in entries)
    assert list(parse(text).entries) == entries


# -- editing -----------------------------------------------------------------------


def test_an_edit_leaves_comments_and_other_lines_and_the_mode_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "access", f"# mine\nrisk viewer never {KEY}", mode=0o640)
    first, second = entry(), entry()
    roster.add(path, first)
    roster.add(path, second)
    assert roster.revoke(path, "momentum", first.key_id) == [first]
    assert path.read_text() == f"# mine\nrisk viewer never {KEY}\n{second.line()}"
    assert path.stat().st_mode & 0o777 == 0o640
    assert roster.revoke(path, "nobody", None) == []
    assert [item.name for item in tmp_path.iterdir()] == ["access"]


def test_when_the_last_line_is_revoked_nobody_may_come_in(tmp_path: Path) -> None:
    path = written(tmp_path / "access", f"risk viewer never {KEY}\n")
    roster.revoke(path, "risk", None)
    assert roster.read(path).entries == []


def test_an_edit_through_a_link_changes_the_file_and_not_the_link(tmp_path: Path) -> None:
    path = written(tmp_path / "real", roster.HEADER)
    link = tmp_path / "access"
    link.symlink_to(path)
    roster.add(link, entry())
    assert link.is_symlink()
    assert len(roster.read(path).entries) == 1


def test_what_two_writers_add_and_revoke_at_once_is_all_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "access", roster.HEADER)
    old = [entry(f"old-{number}") for number in range(20)]
    for item in old:
        roster.add(path, item)
    new = [entry(f"new-{number}") for number in range(20)]

    def revoke() -> None:
        for item in old:
            roster.revoke(path, item.identity.name, None)

    def add() -> None:
        for item in new:
            roster.add(path, item)

    threads = [threading.Thread(target=work) for work in (revoke, add)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert list(roster.read(path).entries) == new


def test_an_edit_of_a_broken_file_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "access", "what is this\n")
    with pytest.raises(UnusableFileError):
        roster.add(path, entry())
    assert path.read_text() == "what is this\n"


# -- files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "is_secret", "said"),
    [
        (0o660, False, "changed by others"),
        (0o602, False, "changed by others"),
        (0o644, True, "read by everybody"),
        (0o604, True, "read by everybody"),
    ],
)
@pytest.mark.requirement("AC-015")
def test_a_file_that_is_open_to_others_is_refused(
    tmp_path: Path, mode: int, said: str, *, is_secret: bool
) -> None:
    path = written(tmp_path / "file", "x", mode)
    with pytest.raises(UnusableFileError, match=said):
        GuardedFile(path, is_secret=is_secret).read()
    # What is behind a link counts, not the link, which is open to everybody.
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(UnusableFileError, match=said):
        GuardedFile(link, is_secret=is_secret).read()


@pytest.mark.parametrize(("mode", "is_secret"), [(0o640, True), (0o400, True), (0o644, False)])
def test_a_file_that_only_its_owner_can_change_is_read(
    tmp_path: Path, mode: int, *, is_secret: bool
) -> None:
    path = written(tmp_path / "file", "x", mode)
    assert GuardedFile(path, is_secret=is_secret).read() == b"x"


def test_a_file_is_refused_in_whose_directory_everybody_may_put_another(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    path = written(shared / "file", "x")
    link = tmp_path / "link"
    link.symlink_to(path)
    shared.chmod(0o777)
    for name in (path, link):
        with pytest.raises(UnusableFileError, match="put another file"):
            GuardedFile(name).read()
    # With the sticky bit, as /tmp has it, nobody replaces what is another's.
    shared.chmod(0o1777)
    assert GuardedFile(path).read() == b"x"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "file", "x")
    os.chown(path, 12345, -1)
    with pytest.raises(UnusableFileError, match="12345"):
        GuardedFile(path).read()


def test_a_pipe_a_directory_and_a_huge_file_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UnusableFileError, match="is not a file"):
        GuardedFile(tmp_path / "pipe").read()
    with pytest.raises(UnusableFileError, match=r"directory|not a file"):
        GuardedFile(tmp_path).read()
    with pytest.raises(UnusableFileError, match="larger than"):
        GuardedFile(written(tmp_path / "huge", "x" * (LARGEST + 1))).read()


def test_half_of_a_write_never_counts(tmp_path: Path) -> None:
    lines = [entry(f"caller-{number}").line() for number in range(3)]
    path = written(tmp_path / "access", "".join(lines))
    watched = Watched([GuardedFile(path)], lambda contents: roster.parse(contents[0], path))
    path.write_text(lines[0])
    assert not watched.look()
    path.write_text("".join(lines[:2]))
    assert not watched.look()
    assert len(watched.value.entries) == 3
    assert watched.look()
    assert len(watched.value.entries) == 2
    assert watched.problem == ""


def test_a_change_that_leaves_size_and_time_alone_is_seen(tmp_path: Path) -> None:
    path = written(tmp_path / "access", "a" * 10)
    watched = Watched([GuardedFile(path)], lambda contents: contents[0])
    before = path.stat()
    path.write_text("b" * 10)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [watched.look(), watched.look()] == [False, True]
    assert watched.value == b"b" * 10


# -- who ---------------------------------------------------------------------------


def test_a_token_is_good_until_just_before_it_expires(tmp_path: Path) -> None:
    token = tokens.new_token()
    until = NOW + timedelta(hours=1)
    line = Entry(Identity("risk", Role.VIEWER), until, tokens.digest(token)).line()
    path = written(tmp_path / "access", line)
    time = [NOW]
    doorkeeper = Doorkeeper(access_file=path, now=lambda: time[0])
    assert doorkeeper.is_required
    assert doorkeeper.authenticate(token) == Identity("risk", Role.VIEWER)
    time[0] = until - timedelta(microseconds=1)
    assert doorkeeper.authenticate(token) is not None
    time[0] = until
    assert doorkeeper.authenticate(token) is None
    digest = tokens.digest(token)
    assert digest is not None
    assert doorkeeper.identify(digest) is Unknown.EXPIRED
    assert doorkeeper.authenticate(tokens.new_token()) is None
    assert doorkeeper.authenticate("") is None


def test_without_any_file_nobody_is_asked_and_nobody_is_known() -> None:
    doorkeeper = Doorkeeper(now=lambda: NOW)
    assert not doorkeeper.is_required
    assert doorkeeper.authenticate(tokens.new_token()) is None


def test_the_digest_of_a_token_is_no_token(tmp_path: Path) -> None:
    item = entry()
    assert item.digest is not None
    doorkeeper = Doorkeeper(access_file=written(tmp_path / "access", item.line()), now=lambda: NOW)
    for stolen in (item.digest.hex(), f"sha256:{item.digest.hex()}", f"gwb_{item.digest.hex()}"):
        assert doorkeeper.authenticate(stolen) is None


async def test_that_a_certificate_expires_soon_is_said_once_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial = Trial(tmp_path / "trial")
    trial.make(["localhost"], {}, now=NOW, days=30)
    time = [NOW + timedelta(days=15)]
    looks: list[datetime] = []

    def now() -> datetime:
        looks.append(time[0])
        return time[0]

    async def said_at(moment: datetime) -> int:
        """How often it has been said, once there was a second look at this time."""
        time[0] = moment
        await eventually(lambda: looks.count(moment) > 5)
        return sum("expires_soon" in record.message for record in caplog.records)

    doorkeeper = Doorkeeper(tls=(trial.certificate, trial.key), now=now, interval=0.01)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(doorkeeper.run(), name="doorkeeper")
        assert await said_at(NOW + timedelta(days=15, hours=1)) == 0
        assert await said_at(NOW + timedelta(days=17)) == 1
        assert await said_at(NOW + timedelta(days=17, hours=23)) == 1
        assert await said_at(NOW + timedelta(days=18, hours=1)) == 2
        running.cancel()


# -- whatever else a file may hold -------------------------------------------------

CA = certificates.new_authority("test", now=NOW, days=9)
SERVER = certificates.new_server(CA, ["localhost"], now=NOW, days=9)
PATHS = (Path("server.pem"), Path("server-key.pem"), Path("ca.pem"))


def changed(data: st.DataObject, content: bytes) -> bytes:
    """The content with some bytes replaced, or cut off."""
    begin = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(begin, min(begin + 40, len(content))))
    tail = content[end:] if data.draw(st.booleans()) else b""
    return content[:begin] + data.draw(st.binary(max_size=40)) + tail


@given(st.data())
def test_a_damaged_certificate_is_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    contents = [SERVER.certificate, SERVER.key, CA.certificate]
    index = data.draw(st.integers(0, 2))
    contents[index] = changed(data, contents[index])
    with contextlib.suppress(UnusableFileError):
        found = certificates.material(contents, PATHS, NOW)
        # What is still taken is what gRPC will be given.
        assert [found.certificate, found.key, found.client_ca] == contents


@given(st.data())
def test_a_damaged_access_file_is_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    content = roster.HEADER + entry().line() + "desk operator 2027-01-31T00:00:00Z certificate\n"
    with contextlib.suppress(UnusableFileError):
        found = roster.parse(changed(data, content.encode()), Path("access"))
        # What is still taken says the same when it is written anew.
        again = roster.HEADER + "".join(item.line() for item in found.entries)
        assert parse(again).entries == found.entries


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ([b"", SERVER.key], "server.pem: is no certificate"),
        ([SERVER.certificate, b""], "server-key.pem: is no private key"),
        ([SERVER.certificate, SERVER.certificate], "server-key.pem: is no private key"),
        ([SERVER.certificate, CA.key], "is not the key of the certificate"),
        ([SERVER.certificate, SERVER.key, b""], "ca.pem: is no certificate"),
    ],
)
def test_a_certificate_that_grpc_would_refuse_is_refused_by_its_name(
    contents: list[bytes], said: str
) -> None:
    with pytest.raises(UnusableFileError, match=said):
        certificates.material(contents, PATHS, NOW)


def test_a_certificate_that_has_expired_is_refused() -> None:
    with pytest.raises(UnusableFileError, match="has expired at 2027-01-10"):
        certificates.material(
            [SERVER.certificate, SERVER.key], PATHS, NOW + timedelta(days=9, seconds=1)
        )
