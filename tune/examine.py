"""What is looked at on a node of a cluster. It runs there as it is here, also where the package is missing: nothing of
it is imported before that is known, and Ray is given this module by value."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE, IMPORTS = "semples-tune", ("semples", "tune")
TRY_GPU = "import torch; (torch.ones(8, 8, device='cuda') @ torch.ones(8, 8, device='cuda')).sum().item()"
LONG = 100.0  # seconds that this may take


def code() -> str:
    """Digest of the package's Python files as they are on this node, "" where one of its packages is missing."""
    digest = hashlib.sha256()
    for name in IMPORTS:
        try:
            spec = find_spec(name)
        except ImportError:
            spec = None
        if spec is None or spec.origin is None:
            return ""
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def versions(libraries: list[str]) -> dict[str, str]:
    """By distribution its version on this node, "" where there is none."""
    found = {}
    for name in [PACKAGE, *libraries]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def examine(asked: dict[str, Any]) -> dict[str, Any]:
    """What is wrong on this node: {"time", "left", "defects"}. time: its clock. left: the files that it wrote into the
    shared folders, for the driver to read. defects: by part of a node, what is wrong and what to do.

    asked: code and versions, as above, of the driver; folders: by path of a shared folder the name of a file there and
    its content; config: tree of the configuration, and fingerprint of its data, or None for no look at data and
    weights; gpu: whether stages use one, and this node has one; room: bytes that must be free on its disk.
    """
    found: dict[str, Any] = {"time": time.time(), "left": [], "defects": {}}
    defects = found["defects"]
    own = versions([*asked["versions"]])
    if not (own_code := code()) or not own[PACKAGE]:
        missing = f"{PACKAGE} is not installed for {sys.executable}"
        defects["package"] = [missing, f"install {PACKAGE} {asked['versions'][PACKAGE]} there"]
    elif own[PACKAGE] != (wanted := asked["versions"][PACKAGE]):
        defects["package"] = [f"{PACKAGE} {own[PACKAGE]}, here {wanted}", f"install {wanted} there"]
    elif own_code != asked["code"]:
        defects["package"] = ["other code of the same version", "install the same commit there"]
    other = {name: number for name, number in own.items() if name != PACKAGE and number != asked["versions"][name]}
    if other:
        said = ", ".join(f"{name} {number or 'is missing'}" for name, number in other.items())
        wanted = " ".join(f"{name}=={asked['versions'][name]}" for name in other)
        defects["libraries"] = [said, f"pip install {wanted}"]
    _look_at_folders(asked["folders"], found)
    defects |= own_faults(asked["gpu"], asked["room"])
    if asked["config"] and "package" not in defects:
        _look_at_data(asked, defects)
    return found


def _look_at_folders(folders: dict[str, list[str]], found: dict[str, Any]) -> None:
    """A file of the driver must be there, and the driver must see one of this node."""
    for path, (mark, content) in folders.items():
        try:
            there = (Path(path) / mark).read_text()
        except OSError:
            there = ""
        if there != content:
            found["defects"]["folder"] = [f"{path} is not the shared one", "mount the shared file system there"]
            continue
        own = Path(path) / f"{mark}-{uuid.uuid4().hex}"
        try:
            own.write_text(content)
        except OSError as error:
            found["defects"]["folder"] = [f"{path} cannot be written ({error.strerror})", "let its user write there"]
            continue
        found["left"].append(str(own))


def own_faults(gpu: bool, room: float = 0.0) -> dict[str, list[str]]:
    """By part what is wrong with this node whatever it computes, and what to do. room: bytes that must be free."""
    defects: dict[str, list[str]] = {}
    _look_at_disk(defects, room)
    if gpu:
        _look_at_gpu(defects)
    return defects


def _look_at_disk(defects: dict[str, list[str]], room: float) -> None:
    place = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(os.urandom(1 << 16))
        free = shutil.disk_usage(place).free
    except OSError as error:
        defects["disk"] = [f"{place} cannot be written ({error.strerror})", "make room there, or set TMPDIR"]
        return
    if free < room:
        defects["disk"] = [
            f"{free / 1e9:.1f} GB are free in {place}",
            f"make room for {room / 1e9:.0f} GB, or set TMPDIR",
        ]


def _look_at_gpu(defects: dict[str, list[str]]) -> None:
    """In a process of its own, for an error of another one may have spoilt this one's GPU."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", TRY_GPU], capture_output=True, text=True, timeout=LONG, check=False
        )
        said = tried.stderr.strip().splitlines()[-1:] if tried.returncode else []
    except (OSError, subprocess.TimeoutExpired) as error:
        said = [str(error)]
    if said:
        cure = "look at nvidia-smi there: the driver, and whether torch was built for it"
        defects["GPU"] = [f"torch cannot use it ({said[0][:200]})", cure]


def _look_at_data(asked: dict[str, Any], defects: dict[str, list[str]]) -> None:
    from semples.config import parse
    from semples.data import load_data
    from semples.errors import UserError
    from semples.preflight import check

    try:
        config = parse(asked["config"], "base")
        data = load_data(config.data, config.selection)
    except UserError as error:
        defects["data"] = [str(error), "put the data at the same path there"]
        return
    if data.fingerprint != asked["fingerprint"]:
        defects["data"] = ["other images, labels or masks than here", "copy the data there again"]
        return
    try:
        check(config)
    except UserError as error:
        defects["weights"] = [str(error), "put the weights there, or let the node download them"]
