"""What a user can put right is said in one sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

LONGEST = 80  # characters of a value in a message


class UserError(Exception):
    """One clear sentence: the file or key, what was wrong with it and what to do. Commands print it and exit with 2."""


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether this machine or its GPU ran out of memory: torch says so by kinds and words of its own."""
    words = re.search("allocate memory|bad_alloc", str(error))
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or bool(words)


def nearest(word: str, known: Iterable[str], renamed: Mapping[str, str] = {}) -> str:
    """' (did you mean X?)' for the known word closest to `word`, or '' when none is close. renamed: what words of
    earlier versions are called now."""
    if word in renamed:
        return f" (it is '{renamed[word]}' now)"
    match = difflib.get_close_matches(word[:LONGEST], [k for k in known if k != word], n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""


def quoted(value: Any) -> str:
    """A value for a message: as Python writes it, without line ends or control characters, cut to 80 characters."""
    return cut(repr(value))


def cut(text: str, most: int = LONGEST) -> str:
    """A text of somebody else for a message: on one line, without control characters, cut to `most` characters."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(str(text).split()))
    return line if len(line) <= most else f"{line[: most - 3]}..."
