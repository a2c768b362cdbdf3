"""The wheel holds the app: installed into an empty environment it starts with the demo, and its console script has every command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from state_engine import __version__
from state_engine.cli import serve
from state_engine.cli.main import main
from state_engine.config import APP, DEMO, Settings
from tests.jobs.workers import stopped

ROOT = Path(__file__).resolve().parents[1]
PACKED = (
    "state_engine",
    "pages",
    "assets",
    ".streamlit",
    "app.py",
    "setup.py",
    "pyproject.toml",
    "requirements.txt",
    "README.md",
    "LICENSE",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment of its own with the wheel; what the program needs is lent by this one, so that nothing is downloaded."""
    pytest.importorskip("setuptools", reason="the wheel is built with setuptools, which is not in this environment")
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKED:
        place = folder / "source" / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, place)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder / "dist"), str(folder / "source")]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    shutil.rmtree(folder / "source")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True, timeout=300)
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    )
    (Path(where.stdout.strip()) / "lent.pth").write_text(sysconfig.get_path("purelib"))
    yield folder
    assert stopped(Settings(folder / "home"))


def environment(installed: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STATE_EXPLORER", "STREAMLIT", "PYTHON"))}
    return kept | {"STATE_EXPLORER_HOME": str(installed / "home")}


def run(installed: Path, *words: str, script: str = "state-explorer") -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in an empty folder."""
    (installed / "elsewhere").mkdir(exist_ok=True)
    return subprocess.run(
        [str(installed / "env" / "bin" / script), *words], capture_output=True, text=True, timeout=300, cwd=installed / "elsewhere",
        env=environment(installed),
    )  # fmt: skip


@pytest.mark.slow
def test_the_wheel_holds_package_and_app(installed: Path) -> None:
    code = "import state_engine.config as c, state_engine; print(state_engine.__file__, c.APP, c.DEMO, sep='\\n')"
    engine, app, demo = run(installed, "-c", code, script="python").stdout.split()
    assert str(installed) in engine and Path(app) == Path(engine).parents[1] / "state_explorer"
    assert {p.name for p in Path(app).iterdir() if p.name != "__pycache__"} == {"app.py", "pages", "assets", ".streamlit"}
    for part in ("assets", ".streamlit"):
        ours = {p.relative_to(ROOT): p.read_bytes() for p in (ROOT / part).rglob("*") if p.is_file() and "build" not in p.parts}
        assert {p.relative_to(app): p.read_bytes() for p in (Path(app) / part).rglob("*") if p.is_file()} == ours
    assert Path(demo, "demo.h5ad").is_file()


@pytest.mark.slow
def test_the_script_has_the_commands_of_the_package(installed: Path) -> None:
    assert run(installed, "--version").stdout.strip() == __version__
    said = run(installed, "inspect", "--help").stdout
    assert said == run(installed, "-m", "state_engine", "inspect", "--help", script="python").stdout and "--model" in said
    assert "usage: python -m state_engine worker" in run(installed, "worker", "--help").stdout


USES = """
import os, sys
from pathlib import Path
from state_engine.cli.main import COMMANDS, main
from state_engine.config import DEMO

def ends(words):
    try:
        return main(words)
    except SystemExit as end:
        return end.code

def done(text):
    words = text.replace("DATA", f"{DEMO}/demo.h5ad").replace("MODEL", f"{DEMO}/model").split("|")
    assert ends(words) == 0, words

# these two are programs of their own: `app` and `worker` take the place of this one
helped = [name for name in COMMANDS if name not in ("app", "worker") and ends([name, "--help"]) == 0]
os.chdir(sys.argv[1])
Path("labels.csv").write_text("row,label\\n0,mine\\n")
for text in (
    "de|--data|p.h5ad|--output|genes.csv",
    "enrich|--data|p.h5ad|--output|sets.csv",
    "targets|--data|p.h5ad|--output|targets.csv",
    "compare|--first|p.h5ad|--first-perturbation|TNF|--second|p.h5ad|--second-perturbation|CRISPRi STAT1|--no-map|--output|compared",
    "report|--run|compared|--output|report.html",
    "screen|--data|DATA|--model|MODEL|--context|NK|--up-gene|ISG15|--up-gene|IFIT3|--up-gene|IRF7|--perturbation|TNF"
    "|--cells|8|--sample|8|--device|cpu|--output|screen",
    "label|--data|DATA|--labels|labels.csv|--output|labelled.h5ad",
    "people",
):
    done(text)
print("helped:", *helped, sep="\\n")
"""


@pytest.mark.slow
def test_each_command_helps_and_the_quick_ones_do_their_work(installed: Path, tmp_path: Path) -> None:
    """In one process of the environment, since imports take longer than the work."""
    from state_engine.cli.main import COMMANDS

    demo = run(installed, "-c", "from state_engine.config import DEMO; print(DEMO)", script="python").stdout.strip()
    predict = ("--model", f"{demo}/model", "--data", f"{demo}/demo.h5ad", "--output", str(tmp_path / "p.h5ad"), "--cells", "8")
    asked = ("--perturbation", "TNF", "--perturbation", "CRISPRi STAT1", "--context", "NK", "--device", "cpu")
    made = run(installed, "predict", *predict, *asked)
    assert made.returncode == 0, made.stderr
    done = run(installed, "-c", USES, str(tmp_path), script="python")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert set(done.stdout.rpartition("helped:")[2].split()) == set(COMMANDS) - {"app", "worker"}
    for name in ("genes.csv", "sets.csv", "targets.csv", "report.html", "labelled.h5ad"):
        assert (tmp_path / name).stat().st_size, name
    assert "usage" in run(installed, "app", "--help").stdout


@pytest.mark.slow
def test_it_starts_the_pages_with_the_demo(installed: Path) -> None:
    """Without a word: the server answers, tells its health, and Home offers the demo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (installed / "elsewhere").mkdir(exist_ok=True)
    server = subprocess.Popen(
        [str(installed / "env" / "bin" / "state-explorer")], cwd=installed / "elsewhere", stdin=subprocess.DEVNULL,
        env=environment(installed) | {"STREAMLIT_SERVER_PORT": str(port)}, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        health = json.loads(answer(f"http://127.0.0.1:{port}/healthz", server))
        assert health == {"status": "ok", "version": __version__}
        assert b"<title>" in answer(f"http://127.0.0.1:{port}/", server)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    code = (
        "from streamlit.testing.v1 import AppTest; from state_engine.config import APP; import sys; sys.path.insert(0, str(APP));"
        "page = AppTest.from_file(str(APP / 'app.py'), default_timeout=120).run();"
        "print(len(page.exception), [b.label for b in page.button])"
    )
    done = run(installed, "-c", code, script="python")
    assert done.stdout.startswith("0 [") and "demo" in done.stdout.lower(), done.stdout + done.stderr


def answer(address: str, server: subprocess.Popen[bytes]) -> bytes:
    """Return what the server answers once it is there."""
    for _ in range(300):
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(address, timeout=10) as got:
                return bytes(got.read())
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"{address} does not answer")


# Without a wheel


def test_the_source_tree_finds_its_own_app() -> None:
    assert APP == ROOT and DEMO == ROOT / "assets" / "demo"


def test_app_and_worker_take_the_place_of_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = []
    monkeypatch.setattr(serve.os, "execve", lambda program, words, variables: started.append((words[1:], variables)))
    monkeypatch.setenv("STREAMLIT_SERVER_MAX_UPLOAD_SIZE", "7")
    monkeypatch.delenv("STREAMLIT_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path))
    assert main(["app", "--port", "8600"]) == main(["worker", "--idle", "5"]) == 0
    (words, variables), (worker, _) = started
    assert words == ["-m", "streamlit", "run", str(ROOT / "app.py"), "--server.port", "8600"]
    assert variables["STREAMLIT_SERVER_ADDRESS"] == "127.0.0.1" and variables["STREAMLIT_CLIENT_SHOW_ERROR_DETAILS"] == "none"
    assert variables["STREAMLIT_SERVER_MAX_UPLOAD_SIZE"] == "7", "the user's environment comes first"
    assert variables["STREAMLIT_THEME_LIGHT_SIDEBAR_BACKGROUND_COLOR"] == "#f7f8f8"
    assert worker == ["-m", "state_engine.jobs.worker", "--home", str(tmp_path), "--idle=5"]


def test_every_setting_of_the_app_is_one_that_streamlit_reads() -> None:
    from streamlit import config
    from streamlit.config_option import ConfigOption

    known = {option.env_var for option in config.get_config_options().values() if isinstance(option, ConfigOption)}
    assert set(serve.streamlit_settings(ROOT / ".streamlit" / "config.toml")) <= known
