"""The browser of the browser tests: found, installed where that may be, and never missing in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provoke.tools import chromium
from provoke.tools.console import DevError


@pytest.fixture
def none(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """No browser; gives the commands that would be run."""
    ran: list[list[str]] = []
    monkeypatch.setattr(chromium, "find", lambda: None)
    monkeypatch.setattr(chromium, "run_logged", lambda command, **_settings: ran.append(command))
    return ran


def test_a_person_can_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "my-chromium"
    monkeypatch.setenv("PROVOKE_CHROMIUM", str(program))
    assert chromium.find() is None
    program.touch()
    assert chromium.find() == program


def test_it_is_installed_where_we_may(none: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium, "can_install", lambda: True)
    chromium.ensure()
    assert [command[:2] for command in none] == [["apt-get", "update"], ["apt-get", "install"]]
    assert "chromium" in none[1]


def test_on_somebody_elses_machine_it_says_what_to_do(
    none: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chromium, "can_install", lambda: False)
    chromium.ensure()
    assert none == []
    assert "--no-browser" in capsys.readouterr().out


def test_a_failed_installation_says_both(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_command: Any, **_settings: Any) -> None:
        raise DevError("no network")

    monkeypatch.setattr(chromium, "find", lambda: None)
    monkeypatch.setattr(chromium, "can_install", lambda: True)
    monkeypatch.setattr(chromium, "run_logged", broken)
    chromium.ensure()
    said = capsys.readouterr().out
    assert "no network" in said
    assert "apt-get install chromium" in said


def test_without_it_a_tab_cannot_be_opened(none: list[list[str]]) -> None:
    from provoke.tools import browser

    with pytest.raises(DevError, match="PROVOKE_CHROMIUM"), browser.chromium():
        pass
