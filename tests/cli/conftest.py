"""Small submissions for the commands of a challenge."""

from tests.challenge.conftest import packer_python, vcc2025, vcc2026

__all__ = ["packer_python", "vcc2025", "vcc2026"]
