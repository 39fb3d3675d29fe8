"""The manifest of a stored result: written last, it makes a folder of files a result, and says what they must be.

It is a JSON object: `metrics`, `curves`, `seconds`, `stage`, `key` (its parts) as the stage recorded them; `files`, a
sha256 by name, and `bytes`, their sum; `format` and `digest`, of the manifest itself. What is not of this form, or not
as it was written, is no manifest.
"""

from __future__ import annotations

import contextlib
import json
import re
import stat
from pathlib import Path
from typing import Any

from semples.digests import digest, file_digest
from semples.formats import WRITTEN_BY, json_object, newer

MANIFEST = "result.json"  # the manifest's own name
USED = "used"  # beside it: its time is that of the last use
FORMAT = 2  # of manifests; those of version 0.1.0 have neither a format nor a digest of their own
SHA = re.compile("[0-9a-f]{64}")
STAGE = re.compile("[a-z_]{1,30}")
LARGEST = 1e18
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a file in a result


def intact(folder: Path) -> bool:
    """Whether a folder holds a result as it was written; a link is none. Raises NewerError for one of a later
    version."""
    try:
        files = read_manifest(folder)["files"]
        return not folder.is_symlink() and all(
            stat.S_ISREG((folder / name).lstat().st_mode) and file_digest(folder / name) == sha
            for name, sha in files.items()
        )
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return False


class NewerError(Exception):
    """A manifest of a format that only a later version knows: not damaged, and nothing to be read or removed here."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a result folder. Raises FileNotFoundError where there is none, and what `parse` raises."""
    path = folder / MANIFEST
    if path.exists() and not path.is_file():
        raise ValueError("no plain file")  # a pipe would never end
    return parse(path.read_bytes())


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with its format, the version that writes it and its digest. Raises ValueError for one that would not
    be read again."""
    sealed = {**manifest, "format": FORMAT, "written_by": WRITTEN_BY}
    sealed["digest"] = digest(json.dumps(sealed, sort_keys=True))
    return parse(json.dumps(sealed).encode())


def files_of(content: bytes | None) -> list[str]:
    """The files that a manifest names; none where there is no manifest, or one that is damaged or newer."""
    with contextlib.suppress(ValueError, NewerError):
        return list(parse(content or b"")["files"])
    return []


def parse(content: bytes) -> dict[str, Any]:
    """A manifest from its JSON. Raises ValueError where anything in it is not of its form, NewerError for one of a
    later version."""
    manifest = json_object(content)
    if isinstance(form := manifest.get("format", FORMAT), int) and form > FORMAT:
        raise NewerError(newer(form, FORMAT, manifest.get("written_by")))
    own = {key: value for key, value in manifest.items() if key != "digest"}
    if "format" in manifest and manifest.get("digest") != digest(json.dumps(own, sort_keys=True)):
        raise ValueError("its digest is another")
    files, curves = manifest.get("files"), manifest.get("curves")
    if not (isinstance(files, dict) and files and all(_is_file(*item) for item in files.items())):
        raise ValueError("files")
    if not (STAGE.fullmatch(str(manifest.get("stage", "stage"))) and isinstance(manifest.get("key", {}), dict)):
        raise ValueError("stage or key")
    if not (
        _is_amount(manifest.get("bytes"))
        and _is_amount(manifest.get("seconds"))
        and all(_is_amount(manifest.get(name, 0)) for name in ("gpu_gb", "cpu_seconds", "gpu_seconds"))
    ):
        raise ValueError("bytes, seconds or gpu_gb")
    if not (isinstance(curves, list) and all(map(_are_numbers, [manifest.get("metrics"), *curves]))):
        raise ValueError("metrics or curves")
    return manifest


def _is_file(name: str, sha: Any) -> bool:
    return (
        bool(NAME.fullmatch(name))
        and name not in (MANIFEST, USED)
        and isinstance(sha, str)
        and bool(SHA.fullmatch(sha))
    )


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < LARGEST


def _are_numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(
        isinstance(v, float) or (isinstance(v, int) and not isinstance(v, bool) and abs(v) < LARGEST)
        for v in values.values()
    )
