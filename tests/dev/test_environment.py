"""What dev.py makes before anything else: stamps, unpacking, hosts, and errors that tell what to do."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from provoke.tools import demo, environment, pack, scripts, templates
from provoke.tools.console import CommandError, DevError, run_logged, took
from provoke.tools.environment import Host
from provoke.tools.server import Rejected
from provoke.tools.server_log import problems

ROOT = Path(__file__).resolve().parents[2]


def archive(path: Path, files: dict[str, bytes], link: tuple[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if link:
            member = tarfile.TarInfo(link[0])
            member.type, member.linkname = tarfile.SYMTYPE, link[1]
            tar.addfile(member)
    return path


def test_unpack_takes_the_inner_folder_only(tmp_path: Path) -> None:
    files = {"top-1/setup.py": b"no", "top-1/vendor/ComfyUI/main.py": b"yes", "top-1/vendor/ComfyUI/comfy/a.py": b"a"}
    source = archive(tmp_path / "a.tar.gz", files, link=("top-1/vendor/ComfyUI/escape", "/etc"))
    environment.unpack(source, "vendor/ComfyUI", tmp_path / "out")
    found = sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    )
    assert found == ["comfy/a.py", "main.py"]  # and no link


@pytest.mark.parametrize("name", ["../../evil.py", "x/../../../evil.py", "c:/evil.py", "a\\..\\evil.py", "/evil.py"])
def test_unpack_refuses_paths_that_lead_elsewhere(name: str, tmp_path: Path) -> None:
    source = archive(tmp_path / "a.tar.gz", {"top-1/vendor/ComfyUI/" + name: b"x"})
    with pytest.raises(DevError, match="leads elsewhere"):
        environment.unpack(source, "vendor/ComfyUI", tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("evil.py"))


def test_unpack_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(DevError, match="holds nothing under vendor/ComfyUI"):
        environment.unpack(archive(tmp_path / "a.tar.gz", {"top/x": b""}), "vendor/ComfyUI", tmp_path / "out")


def test_the_stamp_sees_requirements_not_comments(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    first.write_text("torch==1\nnumpy\n")
    second.write_text("# why\n\ntorch==1  # pinned\r\nnumpy\n")
    third.write_text("torch==2\nnumpy\n")
    assert environment.stamp_of([first]) == environment.stamp_of([second]) != environment.stamp_of([third])
    assert environment.stamp_of([first, third]) != environment.stamp_of([third, first])


class Made:
    """A stand-in `.venv` folder, and what pip was asked."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.venv, self.asked = folder / ".venv", 0
        self.host = Host("1", folder)
        self.venv.mkdir()
        (folder / "requirements.txt").write_text("torch\n")
        patch.setattr(environment, "VENV", self.venv)
        patch.setattr(environment, "_pip", self.pip)

    def pip(self, *_arguments: object, **_named: object) -> None:
        self.asked += 1


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(tmp_path, monkeypatch)


def test_installing_twice_asks_pip_once(made: Made) -> None:
    environment.install(made.host)
    environment.install(made.host)
    assert made.asked == 1


def test_a_stamp_that_was_cut_off_is_none(made: Made) -> None:
    environment.install(made.host)
    stamp = made.venv / environment.STAMP
    stamp.write_text(stamp.read_text()[:20])
    environment.install(made.host)
    assert made.asked == 2
    assert "requirements" in json.loads(stamp.read_text())


def test_two_at_once_wait_for_each_other(tmp_path: Path) -> None:
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from tools.alone import alone\n"
        "with alone(Path('lock'), 'another'):\n"
        "    Path('busy').mkdir()\n"  # fails where one is inside already
        "    time.sleep(0.5)\n"
        "    Path('busy').rmdir()\n"
    )
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(said) == ["", "-- another: waiting for it\n"]


def test_a_script_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = ROOT / "tools" / "sheet.py"
    for folder, name in ((tmp_path, str(script)), (tmp_path, "tools/sheet.py"), (script.parent, "sheet.py")):
        monkeypatch.chdir(folder)
        assert scripts.find(name) == script
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    for name, words in (("no.py", "There is no script"), ("mine.py", "no script of"), ("README.md", "a plain name")):
        with pytest.raises(DevError, match=words):
            scripts.find(name)


def test_the_readme_names_the_space_that_is_warned_about() -> None:
    assert f"about {environment.SPACE / 1e9:.0f} GB of disk" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_arguments_of_a_script_are_written_behind_two_dashes() -> None:
    """As dev.py wants them: `python dev.py run SCRIPT -- ARGUMENTS`, in every docstring and page that says how."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in pack.NOT_PACK]
    files = [file for folder in folders for file in folder.rglob("*.*") if file.suffix in (".py", ".md")]
    wrong = []
    for file in (ROOT / "README.md", *files):
        for rest in re.findall(r"dev\.py run [\w/]+\.py +([^`\n]+)", file.read_text(encoding="utf-8")):
            if not rest.startswith(("-- ", "[-- ")):
                wrong.append(f"{file.name}: {rest}")
    assert not wrong


def test_other_requirements_ask_pip_again(made: Made) -> None:
    environment.install(made.host)
    (made.host.path / "requirements.txt").write_text("torch>2\n")
    environment.install(made.host)
    assert made.asked == 2


def test_an_installation_that_was_cut_off_is_done_again(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*_arguments: object, **_named: object) -> None:
        raise KeyboardInterrupt

    environment.install(made.host)
    (made.host.path / "requirements.txt").write_text("torch>2\n")
    with monkeypatch.context() as patch:
        patch.setattr(environment, "_pip", cut_off)
        with pytest.raises(KeyboardInterrupt):
            environment.install(made.host)
    (made.host.path / "requirements.txt").write_text("torch\n")  # back to what the old stamp says
    environment.install(made.host)
    assert made.asked == 2


def test_a_half_made_environment_is_made_anew(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    (made.venv / "old").touch()
    (made.venv / environment.UNFINISHED).write_text("new")
    monkeypatch.setattr(environment, "run_logged", lambda *_a, **_n: made.venv.mkdir())
    environment.create_venv()
    assert not (made.venv / "old").exists()
    assert (made.venv / environment.UNFINISHED).read_text() == "new"


def test_an_environment_made_by_hand_is_adopted(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    (made.venv / "kept").touch()
    monkeypatch.setattr(environment, "_works", lambda python: True)
    environment.create_venv()
    environment.install(made.host)
    assert (made.venv / "kept").exists()
    assert "requirements" in json.loads((made.venv / environment.STAMP).read_text())


def test_which_hosts_a_command_needs() -> None:
    assert environment.versions(False, own_host=False) == ["0.30.0"]
    assert environment.versions(True, own_host=False) == ["0.30.0", "0.24.0", "0.18.2"]
    assert environment.versions(False, own_host=True) == []
    assert set(environment.SDISTS) == set(environment.versions(True, own_host=False))


def test_a_folder_that_is_no_comfyui(tmp_path: Path) -> None:
    with pytest.raises(DevError, match=r"No ComfyUI at .*main\.py, requirements\.txt, comfyui_version\.py not found"):
        environment.existing(tmp_path)


def test_a_comfyui_that_a_person_has(tmp_path: Path) -> None:
    (tmp_path / "main.py").touch()
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "9.8.7"\n')
    assert environment.existing(tmp_path) == Host("9.8.7", tmp_path)


def test_a_failed_command_says_why(tmp_path: Path) -> None:
    code = "import sys; print('first'); print('ERROR: No matching distribution found for x'); sys.exit(3)"
    with pytest.raises(CommandError) as caught:
        run_logged([sys.executable, "-c", code], what="Installing x", log=tmp_path / "a" / "log", check="the network.")
    said = str(caught.value)
    assert "Installing x failed (exit status 3)" in said
    assert "No matching distribution found for x" in said
    assert "To check: the network." in said
    assert "no build for this system" in environment._diagnosis(caught.value.tail)
    assert "first" in (tmp_path / "a" / "log").read_text()


def test_times_are_written_for_people() -> None:
    assert [took(3.21), took(59.6), took(83), took(10)] == ["3.2 s", "1 min 00 s", "1 min 23 s", "10 s"]


def test_the_link_into_custom_nodes_comes_and_goes(tmp_path: Path) -> None:
    root = tmp_path / "my pack"
    root.mkdir()
    (root / "__init__.py").touch()
    target = pack.link(tmp_path / "custom_nodes", root)
    assert target.name == "provoke"
    assert (target / "__init__.py").exists()
    pack.unlink(target)
    assert not target.exists()
    assert (root / "__init__.py").exists()


def test_every_demo_has_a_folder_of_its_own(tmp_path: Path) -> None:
    assert demo.fresh_folder(tmp_path / "demo").name == "run-001"
    (tmp_path / "demo" / "run-007").mkdir()
    assert demo.fresh_folder(tmp_path / "demo").name == "run-008"


def test_captions() -> None:
    nodes = [{"id": 3, "type": "SaveImage", "title": "Results"}, {"id": 4, "type": "SaveImage"}]
    graph = {"nodes": nodes, "extra": {"provoke": {"shows": {"3": "Four results."}}}}
    template = templates.Template("a", graph)
    assert [template.shows(node) for node in "345"] == ["Four results.", "SaveImage", "node 5"]


def test_templates_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DevError, match="No template in"):
        templates.load(tmp_path)
    (tmp_path / "a.json").write_text('{"1": {"class_type": "X"}}')
    with pytest.raises(DevError, match="not a workflow as the page saves it"):
        templates.load(tmp_path)


def test_problems_are_the_packs_own() -> None:
    log = [
        "[WARNING] ****** User settings have been changed ******",
        "   0.0 seconds: /base/custom_nodes/provoke",
        "/base/custom_nodes/provoke/nodes/a.py:3: UserWarning: old",
        "0.1 seconds (IMPORT FAILED): /base/custom_nodes/other",
        "Traceback (most recent call last):",
        '  File "/home/me/provoke/.hosts/0.24.0/nodes.py", line 2, in load',
        "ImportError: OpenGL",
        "0.1 seconds (IMPORT FAILED): /base/custom_nodes/provoke",
        "[ERROR] Traceback (most recent call last):",
        '  File "/home/me/.hosts/0.24.0/execution.py", line 2, in run',
        '  File "/base/custom_nodes/provoke/nodes/a.py", line 3, in execute',
        "ValueError: no",
        "[WARNING] Provoke: out of memory, in smaller parts",
    ]
    assert problems("\n".join(log)) == [log[2], log[7], "Traceback: ValueError: no", log[12]]


def test_a_refused_prompt_reads_like_a_sentence() -> None:
    errors = [{"message": "Value -1 smaller than min of 0", "details": "steps"}]
    body = {"error": {"message": "Bad"}, "node_errors": {"4": {"class_type": "A", "errors": errors}}}
    assert Rejected(400, body).text == "Bad\nnode 4 (A): Value -1 smaller than min of 0 steps"


def test_dev_runs_from_any_folder_and_explains_itself(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "dev.py"), "--help"]
    helped = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert helped.returncode == 0
    assert "demo | test | serve" in helped.stdout


def test_dev_and_its_preparation_need_only_the_standard_library(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "before = set(sys.modules)\n"
        "import dev\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'dev', 'tools'}))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_page_of_a_host_is_got_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def pip(command: list[str], arguments: list[str], what: str) -> None:
        asked.append(arguments)
        folder = Path(command[command.index("--target") + 1]) / "comfyui_frontend_package" / "static"
        folder.mkdir(parents=True)
        (folder / "index.html").touch()

    monkeypatch.setattr(environment, "HOSTS", tmp_path / "hosts")
    monkeypatch.setattr(environment, "_pip", pip)
    (tmp_path / "hosts").mkdir()
    (tmp_path / "requirements.txt").write_text("torch\ncomfyui-frontend-package==1.2.3\n")
    for _ in range(2):
        found = environment.page_of(Host("1", tmp_path))
        assert found == tmp_path / "hosts" / "pages" / "1.2.3" / "comfyui_frontend_package" / "static"
        assert (found / "index.html").exists()
    assert asked == [["comfyui-frontend-package==1.2.3"]]
    (tmp_path / "requirements.txt").write_text("torch\n")
    with pytest.raises(DevError, match="names no version"):
        environment.page_of(Host("1", tmp_path))
