"""A folder that a browser sent as one tar, turned into the zip that `other_formats` opens. Runs in a child.

A browser can put a tar together without reading the files first; a zip needs their checksums. Only regular files come through.
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

from state_engine.data.files.other_formats import MOST_MEMBERS
from state_engine.data.files.unpacking import BLOCK
from state_engine.errors import UnreadableFileError, UnsafeFileError

FOLDER = ".folder.tar"  # how such a file is called: NAME.folder.tar


def zip_of_folder(path: Path, output: Path, name: str) -> None:
    """Write the files of a tar as a zip without compression.

    Raises:
        UnreadableFileError: it is no tar. UnsafeFileError: it holds too many files, links or devices.
    """
    try:
        with tarfile.open(path, "r:") as archive, zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as target:
            for number, member in enumerate(archive):
                if number >= MOST_MEMBERS or not member.isfile():
                    raise UnsafeFileError(
                        f"{name} holds {member.name[:80]!r}.", "It is no file, or one too many.", "Zip it yourself."
                    )
                source = archive.extractfile(member)
                if source is None:
                    continue
                with source, target.open(zipfile.ZipInfo(member.name), "w", force_zip64=True) as inside:
                    shutil.copyfileobj(source, inside, BLOCK)
    except (tarfile.TarError, EOFError) as error:
        raise UnreadableFileError(
            f"{name} did not come whole.", f"{error}.", "Upload the folder again, or zip it first."
        ) from error
