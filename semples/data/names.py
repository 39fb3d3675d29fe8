"""How lists, tables and annotations name images, and which file such a name means.

A name is that of a file without its folders and the suffix of an image. What a list says may have either kind of
slash, blanks, and either of Unicode's forms for an accent; the files that are there decide what is meant.
"""

from __future__ import annotations

import filecmp
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from semples.data.files import SUFFIXES, entries, is_folder, read_text
from semples.errors import UserError, cut, quoted

UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and bytes that are no text
MASK_END = "_mask"  # NAME_mask.png is the mask of NAME, as U-Net's data sets have it


def canonical(name: str) -> str:
    """One of the forms in which Unicode writes the same text, to compare names by."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _path(word: str) -> PurePosixPath:
    return PurePosixPath(word.replace("\\", "/"))


def _suffix(word: str) -> str:
    suffix = _path(word).suffix.lower()
    return suffix if suffix in SUFFIXES else ""


def image_name(word: str) -> str:
    """The name of an image in a list: without folders and without the suffix of an image."""
    path = _path(word)
    return path.stem if _suffix(word) else path.name


def check_name(name: str, where: str) -> str:
    """The name. Raises UserError where it could not be that of a file."""
    if name in ("", ".", "..") or UNUSABLE.search(name):
        raise UserError(f"{where}: {quoted(name)} names no image; give the name of a file without control characters")
    return name


@dataclass(frozen=True)
class Files:
    """Image files of some folders by name, in the order of suffixes and names.

    found: canonical name -> all files that have it. layered: where several folders have a name, the first counts (true
    masks are corrected that way); else two files of one name compete, and only what names them can decide.
    """

    folders: tuple[Path, ...]
    found: Mapping[str, tuple[Path, ...]]
    subfolders: frozenset[str]
    layered: bool

    def __contains__(self, name: str) -> bool:
        return canonical(name) in self.found

    def __len__(self) -> int:
        return len(self.found)

    def names(self) -> tuple[str, ...]:
        """The name of every file, each once."""
        return tuple(paths[0].stem for paths in self.found.values())

    def paths(self) -> list[Path]:
        """One file a name."""
        return [paths[0] for paths in self.found.values()]

    def paths_of(self, name: str) -> tuple[Path, ...]:
        """All files that have the name."""
        return self.found.get(canonical(name), ())

    def has(self, word: str) -> bool:
        """Whether there is exactly what the word says, its suffix included."""
        paths = self.paths_of(image_name(word))
        return any(not _suffix(word) or path.suffix.lower() == _suffix(word) for path in paths)

    def find(self, name: str, word: str = "") -> Path | None:
        """The file of a name. word: what names it, whose folder and suffix decide between several.

        Raises UserError where two files compete, or the word is that of a file in a subfolder, where none is read.
        """
        said = _path(word)
        if said.parent.name in self.subfolders:
            deeper = [folder / said.parent.name / said.name for folder in self.folders]
            if path := next((p for p in deeper if p.is_file()), None):
                raise UserError(f"{path}: in a folder below that of the images, where none is read; move it up")
        paths = self.paths_of(name)
        if self.layered:
            paths = tuple(p for p in paths if p.parent == paths[0].parent)
        paths = tuple(p for p in paths if p.parent.name == said.parent.name) or paths
        paths = tuple(p for p in paths if p.suffix.lower() == _suffix(word)) or paths
        paths = tuple(p for p in paths if p.name == said.name) or paths
        if other := next((p for p in paths[1:] if not filecmp.cmp(paths[0], p, shallow=False)), None):
            raise UserError(
                f"{paths[0]} and {other} compete for the name '{cut(name)}'; take one away, or give the suffix of the "
                "one that is meant where it is named"
            )
        return paths[0] if paths else None


def index_files(folders: Sequence[Path], layered: bool = False) -> Files:
    """The image files of the folders; hidden ones (`._NAME.png` of a Mac's archive) are none."""
    found: dict[str, list[Path]] = {}
    subfolders = set()
    for folder in dict.fromkeys(folders):
        inside = entries(folder)
        subfolders |= {e.name for e in inside if is_folder(e)}
        paths = [folder / e.name for e in inside if Path(e.name).suffix.lower() in SUFFIXES]
        for path in sorted(paths, key=lambda p: (SUFFIXES.index(p.suffix.lower()), p.name)):
            found.setdefault(canonical(check_name(path.stem, str(folder))), []).append(path)
    apart = frozenset(subfolders - {folder.name for folder in folders})
    return Files(tuple(folders), {name: tuple(paths) for name, paths in found.items()}, apart, layered)


def find_mask(masks: Files, images: Files, name: str) -> Path | None:
    """The file of an image's mask: NAME.png, or NAME_mask.png where that is not another image's. Raises UserError where
    two compete."""
    return masks.find(name) or (None if name + MASK_END in images else masks.find(name + MASK_END))


def strays(masks: Files, images: Files, also: Callable[[str], str] = lambda name: name) -> list[Path]:
    """Masks that belong to no image. also: another name that the mask of an image may have."""
    known = {form for name in images.found for form in (name, also(name), name + MASK_END)}
    return [paths[0] for name, paths in masks.found.items() if name not in known]


@dataclass(frozen=True)
class Entry:
    """How an image is named: the word, and where it stands ("FILE, line 3")."""

    word: str
    where: str


def name_of(files: Files, word: str, where: str) -> str:
    """The name of an image as its file has it, or as the word says where there is no such file."""
    name = image_name(word)
    found = files.paths_of(name)
    return found[0].stem if found else check_name(name, where)


def read_list(path: Path, files: Files) -> dict[str, Entry]:
    """Images of a list, each once: a line is a name, which may have blanks, or "path/to/name.jpg path/to/name.png" or
    "name 0 14" (with class numbers) as some have it."""
    words: dict[str, Entry] = {}
    for number, line in enumerate(read_text(path, "list").splitlines(), 1):
        if line.strip():
            entry = Entry(_word(line.strip(), files), f"{path}, line {number}")
            name = name_of(files, entry.word, entry.where)
            first = words.setdefault(name, entry)
            if canonical(first.word) != canonical(entry.word):
                raise UserError(f"{path}: '{cut(entry.word)}' and '{cut(first.word)}' have the same name; rename one")
    return words


def _word(line: str, files: Files) -> str:
    """What of a line is the name of an image, judged by the files that are there."""
    ends = [match.end() for match in re.finditer(r"\S+", line)]
    first, last = line[: ends[0]], line[ends[-2] :].strip() if len(ends) > 1 else ""
    if not last or (re.search(r"\s", _path(line).name) and files.has(line)):
        return line
    if _suffix(last) and not _suffix(first) and "/" not in line.replace("\\", "/"):
        return line  # a name with blanks whose file is missing, and not the file that its first word happens to name
    if first in files:
        return first
    return next((line[:end] for end in reversed(ends) if files.has(line[:end])), first)
