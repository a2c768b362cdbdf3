"""What becomes of small uploads (lists, tables): the server's memory holds each once, and a file that stays is named by its content.

Larger files come through `upload_box`.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from streamlit.runtime.uploaded_file_manager import UploadedFile

from pages.parts import session


def _sharing(upload: UploadedFile, memo: dict[int, object]) -> UploadedFile:
    """Return a copy of an upload that has its bytes in common with it."""
    copy = UploadedFile.__new__(UploadedFile)
    io.BytesIO.__init__(copy, upload.getvalue())
    vars(copy).update(vars(upload))
    return copy


# Streamlit copies the value of each widget for the page: of an upload it would copy every byte, and the server need memory for two
UploadedFile.__deepcopy__ = _sharing  # type: ignore[attr-defined]


def keep_by_content(path: Path, folder: str) -> Path:
    """Move a file into a folder of the home, named by its content, so that the same file is there once; return its place."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    place = session.settings().home / folder / f"{digest[:16]}{path.suffix}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
    return place
