"""Folders that this product writes: each says so itself, and nothing in them is replaced or removed that is not ours.

A folder carries a file MARKER. Its first line, after an empty one, is JSON and says what the folder is and who wrote
it; every further line is the SHA-256 and the name of a file that was written into the folder, as sha256sum has them. A
file is ours if it is as one of these lines says. Whatever else lies in the folder, or was changed since, is somebody's
and stays as it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from semples.data.names import UNUSABLE
from semples.digests import file_digest
from semples.errors import UserError, quoted
from semples.formats import WRITTEN_BY, newer

MARKER = ".semples-tune"
NEW = ".semples-tune-new"  # files on their way into the folder
FORMAT = 1
NOBODYS = (".DS_Store", "lost+found")  # what a system puts into folders unasked


@dataclass(frozen=True)
class Folder:
    """A folder of this product. Made by `claim`."""

    path: Path

    @contextmanager
    def publishing(self, replaced: Sequence[str] = (), last: str = "") -> Iterator[Path]:
        """An empty folder to write files into. When the block ends without an error they come into place, the file
        `last` after all others; before that nothing is seen of them.

        replaced: subfolders from which the files of earlier times go, unless they are written again.
        Raises UserError where a file of somebody else has the name of one of them.
        """
        with _locked(self.path):
            new = self.path / NEW
            shutil.rmtree(new, ignore_errors=True)  # of one that was killed
            new.mkdir()
            try:
                yield new
                found = sorted(p.relative_to(new).as_posix() for p in new.rglob("*") if p.is_file())
                names = sorted(found, key=lambda name: name == last)
                if odd := next((name for name in names if UNUSABLE.search(name)), None):
                    raise UserError(f"{quoted(odd)}: is no name of a file that can be recorded; rename its source")
                known = _recorded(self.path)
                _refuse_foreign(self.path, names, known)
                for name in names:
                    if (sha := file_digest(new / name)) not in known.get(name, ()):
                        _append(self.path, f"{sha}  {name}")  # first said, then done: a crash leaves nothing unknown
                if last in known and last in names:
                    (self.path / last).unlink(missing_ok=True)  # it tells of all others, which are replaced now
                for name in names:
                    (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(new / name, self.path / name)
                gone = {folder.rstrip("/") for folder in replaced}
                for name in {*known} - {*names}:
                    if name.split("/")[0] in gone and _is_ours(self.path, name, known):
                        (self.path / name).unlink(missing_ok=True)
            finally:
                shutil.rmtree(new, ignore_errors=True)


def claim(path: Path, kind: str, writes: Iterable[str] = (), apart_from: str = "", adopt: bool = False) -> Folder:
    """The folder `path` as one of ours: a new or empty one, or one that says that it is of this kind.

    kind: what it is, as it is said to people, "run" for example. writes: names of files and, with a slash at the end,
    subfolders that will be written into it. apart_from: a folder of data that must not overlap it. adopt: take it
    without a marker, too: its content shows that it is ours.

    Raises UserError, before anything is written, where it holds somebody's files or is something else.
    """
    if apart_from and overlap(path, Path(apart_from).expanduser()):
        raise UserError(f"{path}: overlaps the data in {apart_from}; choose another folder")
    if os.path.lexists(path) and not path.is_dir():
        raise UserError(f"{path}: is not a folder; choose another one")
    found = kind_of(path)
    if found == kind:
        _refuse_foreign(path, writes, _recorded(path))
        return Folder(path)
    if found:
        raise UserError(f"{path}: is the folder of a {found}, not of a {kind}; choose another folder")
    if not adopt and (others := foreign(path)):
        raise UserError(
            f"{path}: holds files that no {kind} has written ({quoted(others[0])}); choose a new or empty folder"
        )
    path.mkdir(parents=True, exist_ok=True)
    head = {"kind": kind, "format": FORMAT, "written_by": WRITTEN_BY}
    _append(path, json.dumps(head))  # of two processes at once the first line counts, and both say the same
    for name in writes if adopt else ():
        if (path / name).is_file() and not (path / name).is_symlink():
            _append(path, f"{file_digest(path / name)}  {name}")
    return Folder(path)


def kind_of(path: Path) -> str:
    """What a folder says that it is, "" where it says nothing.

    Raises UserError where the marker is damaged or of a newer format.
    """
    if not (lines := _lines(path)):
        return ""
    try:
        head = json.loads(lines[0])
        kind, form = head["kind"], head["format"]
        if not (isinstance(kind, str) and isinstance(form, int)):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path / MARKER}: damaged, so nobody knows whose folder this is; choose another") from None
    if form > FORMAT:
        raise UserError(f"{path / MARKER}: {newer(form, FORMAT, head.get('written_by'))}")
    return kind


def foreign(path: Path) -> list[str]:
    """Names of what lies in a folder without a marker."""
    try:
        return sorted(name for name in os.listdir(path) if name not in (*NOBODYS, MARKER))
    except FileNotFoundError:
        return []


def overlap(one: Path, other: Path) -> bool:
    """Whether two folders are the same or one lies in the other, links followed."""
    a, b = (Path(os.path.realpath(path.expanduser())) for path in (one, other))
    return a == b or a in b.parents or b in a.parents


def _refuse_foreign(path: Path, names: Iterable[str], known: dict[str, set[str]]) -> None:
    """Raise UserError where one of these files or subfolders is there and not ours."""
    for name in names:
        parts = Path(name).parts
        way = [path.joinpath(*parts[:i]) for i in range(1, len(parts) + 1)]
        if link := next((p for p in way if p.is_symlink()), None):
            raise UserError(f"{link}: is a link, and links are not followed; take it away or choose another folder")
        # what stands in the way is looked at, and of a folder all files in it
        whole = next((p for p in way if os.path.lexists(p) and not p.is_dir()), way[-1])
        if whole.is_dir() and not name.endswith("/"):
            raise UserError(f"{whole}: is a folder in the place of a file; move it away or choose another folder")
        inside = [Path(folder) / file for folder, _, files in os.walk(whole) for file in files if file not in NOBODYS]
        for file in sorted(inside) if whole.is_dir() else [whole] * os.path.lexists(whole):
            if not _is_ours(path, file.relative_to(path).as_posix(), known):
                raise UserError(
                    f"{file}: is not what was written there, so it is left as it is; "
                    "move it away or choose another folder"
                )


def _is_ours(path: Path, name: str, known: dict[str, set[str]]) -> bool:
    file = path / name
    return (
        name in known
        and os.path.lexists(file)
        and stat.S_ISREG(file.lstat().st_mode)
        and file_digest(file) in known[name]
    )


def _recorded(path: Path) -> dict[str, set[str]]:
    """Name -> digests of what was written under it."""
    known: dict[str, set[str]] = {}
    for line in _lines(path)[1:]:
        sha, gap, name = line.partition("  ")
        if gap and name:
            known.setdefault(name, set()).add(sha)
    return known


def _lines(path: Path) -> list[str]:
    """Those of the marker, none where there is none."""
    try:
        with _opened(path, os.O_RDONLY) as file:
            return file.read().decode(errors="replace").split("\n")[1:]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _append(path: Path, line: str) -> None:
    with _opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
        left = f"\n{line}".encode()  # begins a line even after one that a full disk cut short
        while left:
            left = left[file.write(left) :]


def _opened(path: Path, flags: int) -> FileIO:
    """The marker as a file, never through a link and never waiting for somebody at the other end of a pipe."""
    try:
        return FileIO(
            os.open(path / MARKER, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666),
            mode="ab" if flags & os.O_APPEND else "rb",
        )
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise UserError(f"{path / MARKER}: is no plain file; take it away or choose another folder") from None
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; where the file system has no locks, the last one's files stand."""
    with _opened(path, os.O_RDONLY) as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
