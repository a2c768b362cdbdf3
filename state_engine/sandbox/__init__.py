"""Foreign bytes are parsed in a disposable child process: with a deadline, limits, no rights to other files and no network.

    isolated(open_dataset, path, choices, reads=(path,))   the same value or error as the call itself, or an error about the file

`client` is what the caller's process does, `server` forks a child for each call, `limits` takes the child's rights away, `wire` carries
values between them, `places` shares the children between callers.
"""

from state_engine.sandbox.client import PLACES, Limits, isolated

__all__ = ["PLACES", "Limits", "isolated"]
