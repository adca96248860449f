"""comfy-cli: found, installed where it is missing, never missing in silence; and what it says of the pack itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provoke.tools import comfy_cli, registry
from provoke.tools.console import DevError


def test_the_registry_would_take_the_pack() -> None:
    """`comfy node validate`, without a warning."""
    assert registry.node() == []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it would be installed, empty."""
    monkeypatch.delenv("PROVOKE_COMFY_CLI", raising=False)
    monkeypatch.setattr(comfy_cli, "PLACE", tmp_path / "cli")
    monkeypatch.setattr(comfy_cli, "MARK", tmp_path / "cli" / "mark")
    return tmp_path / "cli"


def test_a_person_can_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "my-comfy"
    monkeypatch.setenv("PROVOKE_COMFY_CLI", str(program))
    with pytest.raises(DevError, match="my-comfy', where no program is"):
        comfy_cli.find()
    program.touch()
    assert comfy_cli.find() == program


def test_without_it_that_is_said(place: Path) -> None:
    with pytest.raises(DevError, match="PROVOKE_COMFY_CLI"):
        comfy_cli.ask("--version")


def test_it_is_installed_once_beside_the_environment_of_the_tests(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def install(command: list[str], **_settings: Any) -> None:
        ran.append(command)
        program = comfy_cli.python_of(place).with_name("comfy")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch()
        program.with_name("comfy.exe").touch()
        assert comfy_cli.find() is None  # cut off here, it would be done again

    monkeypatch.setattr(comfy_cli, "run_logged", install)
    comfy_cli.ensure()
    assert [command[1:3] for command in ran] == [["-m", "venv"], ["-m", "pip"]]
    assert ran[1][-1] == f"comfy-cli=={comfy_cli.VERSION}"
    assert comfy_cli.find() is not None
    comfy_cli.ensure()
    assert len(ran) == 2
    monkeypatch.setattr(comfy_cli, "VERSION", "9.9.9")
    assert comfy_cli.find() is None  # the pin has moved


def test_a_failed_installation_says_what_to_do(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_command: Any, **_settings: Any) -> None:
        raise DevError("no network")

    monkeypatch.setattr(comfy_cli, "run_logged", broken)
    comfy_cli.ensure()
    said = capsys.readouterr().out
    assert "no network" in said
    assert "PROVOKE_COMFY_CLI" in said
