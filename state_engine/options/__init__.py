"""Options: what each field of a request means, its bounds and its name on the command line, written once beside the field.

A request is a frozen dataclass. Its fields say `option(default, "help", least=1)` (with a default), `field(metadata=about("help"))`
(needed) or `part(Choices())` (a dataclass within). Four things are derived from that: the command line (`state_engine.cli.options`),
the labels, help and bounds of forms (`option_of`), the check of values (`check`), and the command that repeats a run (`command`).

`fields` describes, `values` checks and reads, `commands` is the way back to the command line.

Notation: a path names a field from the request down, as "choices.scale".
"""

from state_engine.options.commands import Repeatable, command, words
from state_engine.options.fields import SET, About, Option, Part, about, option, option_of, options_of, part, within
from state_engine.options.values import (
    MOST_COUNT,
    MOST_SEED,
    bounds_words,
    build,
    check,
    join_commas,
    near,
    setting,
    settings,
    split_commas,
)

__all__ = [
    "MOST_COUNT", "MOST_SEED", "SET", "About", "Option", "Part", "Repeatable", "about", "bounds_words", "build", "check", "command",
    "join_commas", "near", "option", "option_of", "options_of", "part", "setting", "settings", "split_commas", "within", "words",
]  # fmt: skip
