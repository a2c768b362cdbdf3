"""Containerfile and compose file, as far as they can be checked without a container runtime: what they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from state_engine.cli.main import build_parser
from state_engine.jobs.shutdown import GRACE_SECONDS

ROOT = Path(__file__).resolve().parents[1]


def commands_of(text: str) -> list[list[str]]:
    """The commands of state-explorer in a file."""
    found = re.findall(r'\["state-explorer"(?:, "[^"]+")*\]', text)
    return [re.findall(r'"([^"]+)"', one)[1:] for one in found]


def test_every_command_is_one_of_ours() -> None:
    for name in ("Containerfile", "compose.yaml"):
        commands = commands_of((ROOT / name).read_text())
        assert commands
        for words in commands:
            build_parser(words[:1]).parse_args(words)


def test_the_containerfile_takes_torch_from_the_requirements() -> None:
    text = (ROOT / "Containerfile").read_text()
    assert re.search(r"^torch==", (ROOT / "requirements.txt").read_text(), re.M) and "'^torch=='" in text
    known = {"FROM", "ARG", "RUN", "ENV", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "CMD"}
    assert set(re.findall(r"^([A-Z]+) ", text, re.M)) == known
    for line in re.findall(r"^COPY (?!--from)(\S+) ", text, re.M):
        assert (ROOT / line).exists()


def test_services_share_a_home_and_end_in_time() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        assert service["image"].startswith("state-explorer") and service["build"]["dockerfile"] == "Containerfile"
        (volume,) = service["volumes"]
        assert (
            volume.split(":")[0] in compose["volumes"] and volume.split(":")[1] == service["environment"]["STATE_EXPLORER_HOME"]
        )
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        if name.startswith("worker"):
            assert int(service["stop_grace_period"].rstrip("s")) > GRACE_SECONDS
    # secrets stay out of images
    assert ".streamlit/secrets.toml" in (ROOT / ".dockerignore").read_text().split()
