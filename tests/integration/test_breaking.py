"""What the contract is compared with, in real repositories; scripts/breaking.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTO = """\
syntax = "proto3";
package desk.v1;
{options}
message Order {{
{fields}
}}
"""
SIZE, PRICE = "  int32 size = 1;", "  string price = 2;"
RETYPED = "  string size = 1;"
NOBODY = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "desk",
    "GIT_AUTHOR_EMAIL": "desk@localhost",
    "GIT_COMMITTER_NAME": "desk",
    "GIT_COMMITTER_EMAIL": "desk@localhost",
}
"""An environment without the settings of whoever runs this."""


class Project:
    """A directory with a small project in it: a contract and the script."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def new(cls, root: Path) -> Project:
        (root / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "breaking.py", root / "scripts")
        shutil.copy(ROOT / "buf.yaml", root)
        made = cls(root)
        made.git("init", "--initial-branch=main")
        return made

    def git(self, *arguments: str) -> None:
        command = ["git", *arguments]
        subprocess.run(
            command, cwd=self.root, env=NOBODY, check=True, capture_output=True, timeout=20
        )

    def write(self, *fields: str, options: str = "") -> None:
        path = self.root / "proto" / "desk" / "v1" / "desk.proto"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PROTO.format(fields="\n".join(fields), options=options))

    def commit(self, *fields: str, options: str = "") -> None:
        """Commit the contract with these fields; without any, something else."""
        if fields:
            self.write(*fields, options=options)
        else:
            with (self.root / "notes").open("a") as notes:
                notes.write("more\n")
        self.git("add", "--all")
        self.git("commit", "--message", "more")

    def clone(self, target: Path, *options: str) -> Project:
        """A clone of it; by an address, as local paths are never shallow."""
        self.git("clone", *options, self.root.as_uri(), str(target))
        return Project(target)

    def check(self) -> tuple[bool, str]:
        """Whether nothing is broken, and what was said."""
        done = subprocess.run(
            [sys.executable, "scripts/breaking.py"],
            cwd=self.root,
            env=NOBODY,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert not done.stderr, done.stderr
        return done.returncode == 0, done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose main has a contract of two fields, and a commit after that."""
    made = Project.new(tmp_path / "project")
    made.commit(SIZE, PRICE)
    made.commit()
    return made


def test_a_field_that_changed_since_the_newest_release_is_found(project: Project) -> None:
    project.git("tag", "v0.1.0")
    project.commit()
    project.git("tag", "nightly")
    project.commit(RETYPED, PRICE)
    fine, said = project.check()
    assert not fine
    assert "release v0.1.0" in said
    assert 'Field "1"' in said


def test_what_came_and_went_between_two_releases_binds_nobody(project: Project) -> None:
    project.git("tag", "v0.1.0")
    project.commit(SIZE, PRICE, "  bool urgent = 3;")
    project.commit(SIZE, PRICE)
    assert project.check() == (True, "the contract is compared with release v0.1.0\n")


def test_a_release_of_another_branch_does_not_bind(project: Project) -> None:
    project.git("switch", "--create", "old")
    project.commit(SIZE)
    project.git("tag", "v0.1.0")
    project.git("switch", "main")
    fine, said = project.check()
    assert fine
    assert "v0.1.0" not in said


@pytest.mark.parametrize("detached", [False, True])
def test_a_branch_is_compared_with_where_it_left_main(project: Project, detached: bool) -> None:
    project.git("switch", "--create", "topic")
    project.commit()
    project.git("switch", "main")
    project.commit(SIZE, PRICE, "  bool urgent = 3;")
    project.git("switch", *(["--detach"] if detached else []), "topic")
    fine, said = project.check()
    assert fine, "a field that main has got meanwhile is none that the branch has taken away"
    assert "where this branch left main" in said
    project.commit(SIZE)
    project.commit()
    assert not project.check()[0]


def test_a_pull_request_is_compared_with_main_of_origin(project: Project, tmp_path: Path) -> None:
    project.git("switch", "--create", "topic")
    project.commit(RETYPED, PRICE)
    clone = project.clone(tmp_path / "clone", "--branch", "topic")
    # As it is checked out there: the merge that it would be, of no branch.
    clone.git("switch", "--detach", "origin/main")
    clone.git("merge", "--no-ff", "--message", "merge", "origin/topic")
    fine, said = clone.check()
    assert not fine
    assert "where this branch left main" in said


@pytest.mark.parametrize("branch", ["main", "trunk"])
def test_main_and_what_has_no_main_are_compared_with_before_their_last_change(
    project: Project, branch: str
) -> None:
    project.git("branch", "--move", branch)
    fine, said = project.check()
    assert fine
    assert "not compared with an earlier one: proto/ has never changed since it came" in said
    project.commit(SIZE)
    project.commit()
    fine, said = project.check()
    assert not fine
    assert "before the last change of proto/" in said
    project.commit(SIZE, "  int64 amount = 4;")
    assert project.check()[0], "what broke before the last change was told then"


def test_a_merge_into_main_is_compared_with_main_before_it(project: Project) -> None:
    project.git("switch", "--create", "topic")
    project.commit(SIZE)
    project.commit(SIZE, "  int64 amount = 4;")
    project.git("switch", "main")
    project.git("merge", "--no-ff", "--message", "merge", "topic")
    assert not project.check()[0]


def test_a_change_that_is_not_committed_is_compared_with_the_last_commit(project: Project) -> None:
    project.write(RETYPED, PRICE)
    fine, said = project.check()
    assert not fine
    assert "with the last commit" in said
    project.write(SIZE, PRICE, "  bool urgent = 3;")
    assert project.check()[0]


def test_where_generated_code_lies_binds_from_the_first_release_on(project: Project) -> None:
    here = 'option go_package = "example.test/desk;desk";\noption java_package = "test.desk";'
    project.commit(SIZE, PRICE, options=here)
    assert project.check()[0]
    project.git("tag", "v0.1.0")
    project.commit(SIZE, PRICE, options=here.replace("desk", "floor"))
    fine, said = project.check()
    assert not fine
    assert "go_package" in said


def test_a_worktree_is_a_clone_like_any_other(project: Project, tmp_path: Path) -> None:
    project.git("worktree", "add", "-b", "topic", str(tmp_path / "topic"))
    topic = Project(tmp_path / "topic")
    topic.commit(SIZE)
    assert not topic.check()[0]


def test_a_shallow_clone_says_what_it_lacks(project: Project, tmp_path: Path) -> None:
    clone = project.clone(tmp_path / "clone", "--depth", "1")
    fine, said = clone.check()
    assert fine
    assert "`git fetch --unshallow` gets the history" in said
    clone.write(SIZE)
    assert not clone.check()[0], "what can be compared is"


def test_a_source_archive_is_not_compared(project: Project, tmp_path: Path) -> None:
    shutil.rmtree(project.root / ".git")
    expected = "the contract is not compared with an earlier one: this is no clone of the project\n"
    assert project.check() == (True, expected)
    # Nor with what others have, in whose repository it lies.
    Project(tmp_path).git("init")
    assert project.check() == (True, expected)


def test_before_the_first_commit_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    project = Project.new(tmp_path / "project")
    project.write(SIZE)
    fine, said = project.check()
    assert fine
    assert "nothing was committed yet" in said
