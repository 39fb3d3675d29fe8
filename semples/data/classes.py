"""The names of classes: how they are compared, and which cannot be."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from semples.data.dataset import IGNORE
from semples.data.names import UNUSABLE
from semples.errors import UserError, cut, quoted

BACKGROUND = ("background", "ignore")  # without the strokes around them: _background_, __ignore__ of labelme


def plain(name: str) -> str:
    """A name as it is compared with others: Unicode's form, case, blanks and strokes make no difference."""
    return " ".join(re.split(r"[\s_-]+", unicodedata.normalize("NFKC", name).casefold())).strip()


def is_background(name: str) -> bool:
    """Whether a name is what labelling programs call the ground or what does not count."""
    return plain(name) in BACKGROUND


def check_classes(classes: Sequence[str], source: str) -> None:
    """Raises UserError where a name is empty, of the background or there twice, or there are more classes than 8-bit
    masks can tell apart."""
    seen: dict[str, str] = {}
    for name in classes:
        if not plain(name) or UNUSABLE.search(name):
            raise UserError(f"{source}: {quoted(name)} is no name of a class; give each a word that CLIP can be told")
        if is_background(name):
            raise UserError(
                f"{source}: '{name}' is no class: in masks the background is 0, what does not count 255; take the name "
                "away, the classes are 1..K"
            )
        other = seen.setdefault(plain(name), name)
        if classes.count(name) > 1 or other != name:
            also = "" if other == name else f" (once as '{other}')"
            raise UserError(f"{source}: class '{name}' is there twice{also}; keep one")
    if not 1 <= len(classes) < IGNORE:
        raise UserError(f"{source}: {len(classes)} classes; there must be 1 to {IGNORE - 1}")


def check_ignored(ignore: Iterable[str], classes: Iterable[str]) -> None:
    """Raises UserError where a class is also said to be none."""
    if both := {plain(name) for name in ignore} & {plain(name) for name in classes}:
        raise UserError(f"data.ignore: '{min(both)}' is also a class; take it away from one of them")


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names for a message, in quotes, the first few of them."""
    all_of_them = list(names)
    more = f" and {len(all_of_them) - most} more" if len(all_of_them) > most else ""
    return ", ".join(quoted(name) for name in all_of_them[:most]) + more


def as_key(names: Iterable[str], key: str = "classes") -> str:
    """`key=[a, b]` as a command line takes it."""
    return f'"{key}=[{", ".join(cut(name) for name in names)}]"'
