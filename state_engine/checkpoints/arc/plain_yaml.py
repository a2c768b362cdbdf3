"""YAML that strangers wrote, as strings, numbers, lists and dictionaries: no tags, no aliases (each can unfold without end)."""

from __future__ import annotations

from typing import Final

import yaml

MOST_CHARACTERS: Final = 1 << 20  # a configuration has some kB; PyYAML reads about a million characters a second


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases and without dates."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases (*name), which a configuration does not need")
        return super().compose_node(parent, index)


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str) -> object:
    """Return the value of a YAML text.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is damaged, nested too deep, or asks for more than plain values.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"it has {len(text):,} characters, which no configuration has")
    return yaml.load(text, Loader=_PlainLoader)
