"""The wheel: the package `state_engine`, and the app (pages, assets, settings of Streamlit) as `state_explorer` beside it.

All that is no list of packages is in pyproject.toml.
"""

from __future__ import annotations

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

APP = "state_explorer"
PAGES = find_packages(include=["pages", "pages.*"])


class WithoutThisFile(build_py):
    """The root of the repository is the app's package; of its modules this one is not the app's."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found: list[tuple[str, str, str]] = super().find_package_modules(package, package_dir)
        return [module for module in found if package != APP or module[1] == "app"]


setup(
    packages=[*find_packages(include=["state_engine", "state_engine.*"]), APP, *(f"{APP}.{name}" for name in PAGES)],
    package_dir={APP: "."},
    package_data={
        "state_engine": ["__init__.pyi", "py.typed", "challenge/presets/*.toml", "data/*.tsv.gz", "gene_sets/*.gmt"],
        APP: ["assets/**/*", ".streamlit/config.toml", "docs/glossary.md"],
    },
    exclude_package_data={APP: ["assets/*/build/*"]},  # from which a component of the browser is bundled
    cmdclass={"build_py": WithoutThisFile},
)
