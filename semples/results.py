"""Results in a storage, whoever put them there: their keys, what there is, what is damaged, and how one is dropped."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semples.digests import digest
from semples.errors import UserError, quoted
from semples.lease import Storage
from semples.manifest import MANIFEST, USED, NewerError, files_of, parse, read_manifest

KEY = re.compile("[0-9a-f]{32}")  # 32 hexadecimal digits


def make_key(**parts: Any) -> str:
    """Key of a result: hex digest of everything that determines its bytes, as JSON with sorted keys."""
    return digest(json.dumps(parts, sort_keys=True))[:32]


@dataclass(frozen=True)
class Entry:
    """A stored result: its key, its manifest, and when it was last used, in seconds since 1970 by the store's clock."""

    key: str
    manifest: dict[str, Any]
    used: float


def _keys(storage: Storage) -> list[str]:
    """Names of results; what else lies in the place is somebody's and is left alone, and so is a link."""
    return [name for name in storage.names() if KEY.fullmatch(name) and not os.path.islink(f"{storage.root}/{name}")]


def survey(storage: Storage) -> tuple[list[Entry], list[str]]:
    """The results of a storage, and the keys of the damaged ones, which are the trouble of themselves alone."""
    entries, damaged = [], []
    for key in _keys(storage):
        content = storage.read(f"{key}/{MANIFEST}")
        if content is None:
            continue  # dropped just now
        try:
            entries.append(Entry(key, parse(content), storage.time(f"{key}/{USED}")))
        except NewerError:
            continue
        except FileNotFoundError:
            entries.append(Entry(key, parse(content), 0.0))  # never used since somebody took that file away
        except ValueError:
            damaged.append(key)
    return entries, damaged


def holds_result(folder: Path) -> bool:
    """Whether a folder is a result, of this version or a later one."""
    try:
        return bool(KEY.fullmatch(folder.name) and read_manifest(folder))
    except NewerError:
        return True
    except (OSError, ValueError):
        return False


def check_key(key: str) -> None:
    """Raises UserError for what is no key."""
    if not KEY.fullmatch(key):
        raise UserError(f"{quoted(key)} is no key of a result: expected 32 hexadecimal digits")


def drop(storage: Storage, key: str) -> None:
    """Remove a result, the manifest first: what is left of it is no result. Files that are not of it stay."""
    content = storage.read(f"{key}/{MANIFEST}")
    storage.delete(f"{key}/{MANIFEST}")
    for name in (*files_of(content), USED):
        storage.delete(f"{key}/{name}")
    storage.delete_folder(key)
