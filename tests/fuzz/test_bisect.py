"""Bisection, over the history of a small repository whose `replay` says what each commit tells it to."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.bisect import AGREES, BisectError, Sides, bisect, git


@pytest.fixture
def history(tmp_path: Path) -> tuple[Path, list[str]]:
    """Seven commits: three agree, one is broken, three differ."""
    repository = tmp_path / "repository"
    (repository / "fuzz").mkdir(parents=True)
    git(repository, "init", "--quiet")
    (repository / "fuzz/__init__.py").touch()
    commits = []
    for i, signature in enumerate(("null", "null", "null", "BROKEN", '"a|b"', '"a|b"', '"a|b"')):
        code = "raise SystemExit(3)" if signature == "BROKEN" else f"""print('[{{"signature": {signature}}}]')"""
        (repository / "fuzz/cli.py").write_text(f"# {i}\n{code}\n")
        git(repository, "add", ".")
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        git(repository, *who, "commit", "--quiet", "-m", f"change {i}")
        commits.append(git(repository, "rev-parse", "HEAD"))
    return repository, commits


def test_finds_the_first_commit_and_names_what_was_passed_over(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    repository, commits = history
    found = bisect(repository, commits[0], "HEAD", tmp_path / "x.vmm", Sides())
    assert (found.commit, found.subject) == (commits[4], "change 4")
    assert (found.good, found.bad) == (AGREES, "a|b")
    assert found.skipped == (commits[3],)
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_ends_that_show_the_same_are_refused(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    repository, commits = history
    with pytest.raises(BisectError, match="show the same"):
        bisect(repository, commits[0], commits[2], tmp_path / "x.vmm", Sides())
    with pytest.raises(BisectError, match="cannot run"):
        bisect(repository, commits[3], "HEAD", tmp_path / "x.vmm", Sides())
