"""Stage results by content: a folder for every key, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semples.data.dataset import digest, file_digest
from semples.errors import UserError

MARK = "result.json"  # written last: metrics, curves, seconds and the digest of every file


def make_key(**parts: Any) -> str:
    """Key of a result: hex digest of everything that determines its bytes, as JSON with sorted keys."""
    return digest(json.dumps(parts, sort_keys=True))[:32]


class Store:
    """A folder of results. Concurrent writers of one key are safe: the first to finish is kept."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{root}: cannot be used as a store ({error.strerror}); choose another folder") from None

    def find(self, key: str) -> Path | None:
        """Folder of the result, or None. A result whose files changed since it was written is removed."""
        folder = self.root / key
        try:
            mark = json.loads((folder / MARK).read_text())
            intact = all(file_digest(folder / name) == sha for name, sha in mark["files"].items())
        except (FileNotFoundError, ValueError, KeyError):
            intact = False
        if not intact and folder.exists():
            self._discard(folder)
        return folder if intact else None

    def put(self, key: str, write: Callable[[Path], dict[str, Any]]) -> Path:
        """Let `write` fill an empty folder and return what goes into the mark, then publish it under the key."""
        temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=self.root))
        try:
            mark = write(temporary)
            mark["files"] = {p.name: file_digest(p) for p in sorted(temporary.iterdir())}
            (temporary / MARK).write_text(json.dumps(mark))
            folder = self.root / key
            try:
                os.rename(temporary, folder)
            except OSError:
                if self.find(key) is None:  # not the other writer's result but a real failure
                    raise
            return folder
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _discard(self, folder: Path) -> None:
        doomed = Path(tempfile.mkdtemp(prefix=".broken-", dir=self.root))
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.rename(folder, doomed / folder.name)
        shutil.rmtree(doomed, ignore_errors=True)


def read_mark(folder: Path) -> dict[str, Any]:
    """What was recorded with a result: `metrics`, `curves`, `seconds`, `files`."""
    mark: dict[str, Any] = json.loads((folder / MARK).read_text())
    return mark
