"""Which code and which libraries a result comes from: digests of syntax trees, followed through imports.

A module counts by its syntax tree without comments and docstrings and without what only type checkers see (`if
TYPE_CHECKING:`), and so does every module of the same package that it imports, and so on. Of another package that
imports this one, all files count. Trees are taken when a module is first asked for, and again when it was reloaded:
what a running process has loaded counts, not what has been written since.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from semples.digests import digest, file_digest

OWN, ROOT = __name__.partition(".")[0], Path(__file__).parent
# libraries that compute: the name under which they are imported, and that of their distribution
LIBRARIES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "open_clip": "open_clip_torch",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "pydensecrf": "pydensecrf2",
    "numpy": "numpy",
    "PIL": "Pillow",
}


@dataclass(frozen=True)
class Source:
    """A module. loaded: the spec with which it was loaded when it was read, None if it was not. imports: full names of
    what it imports, a module or something in one."""

    loaded: object
    digest: str
    imports: tuple[str, ...]


_sources: dict[str, Source] = {}
_version = cache(version)  # what is installed later is not what a process has loaded


@dataclass(frozen=True)
class Origin:
    """code: digest by file of this package, and by name of other packages. libraries: version by name."""

    code: dict[str, str]
    libraries: dict[str, str]


def origin(*modules: str) -> Origin:
    """What results of these modules come from: they themselves, all that they need of this package, all files of other
    packages, and those libraries that any of it imports."""
    code: dict[str, str] = {}
    used: set[str] = set()
    left, seen = [*modules], set[str]()
    while left:
        name = left.pop()
        package = name.partition(".")[0]
        name = name if package == OWN else package
        if name in seen:
            continue
        seen.add(name)
        if package != OWN:
            code[package], imports = _package(package)
        else:
            path = _file(name)
            if path is None:
                continue
            source = _source(name, path)
            code[path.relative_to(ROOT).as_posix()], imports = source.digest, [*source.imports]
        used |= {imported.partition(".")[0] for imported in imports}
        left += [module for imported in imports if (module := _module(imported))]
    libraries = {distribution: _version(distribution) for name, distribution in LIBRARIES.items() if name in used}
    return Origin(dict(sorted(code.items())), libraries)


def _source(name: str, path: Path) -> Source:
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    known = _sources.get(name)
    if known is None or (known.loaded is not None and known.loaded is not loaded):
        tree = ast.parse(path.read_bytes(), str(path))
        known = Source(loaded, _digest(tree), tuple(imports_of(tree, name, path)))
    _sources[name] = Source(loaded, known.digest, known.imports)
    return known


def _package(package: str) -> tuple[str, list[str]]:
    """Digest of all files of another package (Python by its trees), and full names of what they import."""
    spec = find_spec(package)
    root = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    files = sorted(root.rglob("*")) if root else [Path(str(spec.origin))] if spec else []
    parts: list[str] = []
    imports: list[str] = []
    for path in files:
        name = str(path.relative_to(root)) if root else path.name
        if not path.is_file() or any(part == "__pycache__" or part.startswith(".") for part in Path(name).parts):
            continue
        if path.suffix != ".py":
            parts += [name, file_digest(path)]
            continue
        module = ".".join([package, *Path(name).with_suffix("").parts]) if root else package
        source = _source(module.removesuffix(".__init__"), path)
        parts += [name, source.digest]
        imports += source.imports
    return digest(*parts), imports


def _file(name: str) -> Path | None:
    """The file of a module of this package, or None where the name is not one's."""
    path = ROOT.joinpath(*name.split(".")[1:])
    files = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in files if file.is_file()), None)


def _module(imported: str) -> str | None:
    """The module of this package in which the imported name is; None for other packages."""
    if imported.partition(".")[0] != OWN:
        return None
    return imported if _file(imported) else imported.rpartition(".")[0]


def _digest(tree: ast.Module) -> str:
    return digest(repr(_plain(tree)))[:16]


def _plain(node: Any) -> Any:
    """A syntax tree as nested tuples that are the same in every version of Python."""
    if isinstance(node, list):
        return [_plain(child) for child in node if not _is_silent(child)]
    if not isinstance(node, ast.AST):
        return node
    fields = [(name, _plain(value)) for name, value in ast.iter_fields(node) if value not in (None, [])]
    return type(node).__name__, fields


def _is_silent(node: Any) -> bool:
    """Whether a statement does nothing in a run: a docstring, or imports for type checkers."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def imports_of(tree: ast.Module, name: str, path: Path) -> Iterator[str]:
    """Full names of all that a module imports, wherever in it."""
    here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        left += [child for child in ast.iter_child_nodes(node) if not _is_silent(child)]
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
