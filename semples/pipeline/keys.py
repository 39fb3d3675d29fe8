"""The key of a stage's result: a digest of everything that determines its bytes. What a stage may read is what counts.

That is: the code of the stage and of all that it imports, the versions of the libraries that compute, the parameters
that it reads, the content of files that these name, the keys of its inputs, the data, seed, selection and runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from semples import data, generator_kinds, pretrained
from semples.config import Config, Section, flatten, to_dict
from semples.digests import file_digest
from semples.pipeline.graph import ALWAYS, covers, graph
from semples.results import Entry, make_key
from semples.sources import Origin, origin
from semples.stage import Stage

COMPUTING = ("code", "libraries", "stream", "version")  # parts that tell how; "version" is what 0.1.0 had for them


def key_parts(config: Config, fingerprint: str, stages: Mapping[str, Stage] | None = None) -> dict[str, dict[str, Any]]:
    """What the key of every stage's result is made of under this (resolved) configuration; see make_key. stages: those
    of the run, where not all are in it."""
    flat = dict(flatten(to_dict(config)))
    # of files that the configuration names, the content counts
    files = {"clip": pretrained.of_clip(config.clip), "generator": pretrained.of_generator(config.generator)}
    content = {section: file_digest(file) if file else "" for section, file in files.items()}
    result: dict[str, dict[str, Any]] = {}
    for name, stage in (stages or graph(config)).items():
        reads = stage.reads(config)
        made_by = _origin(stage, config, reads)
        result[name] = {
            "stage": name,
            "stream": stage.stream or name,
            "code": made_by.code,
            "libraries": made_by.libraries,
            "parameters": {k: v for k, v in flat.items() if covers(reads, k)},
            "inputs": {key: make_key(**result[source]) for key, source in stage.sources.items()},
            "files": {section: sha for section, sha in content.items() if section in reads},
            "data": fingerprint,
            "seed": config.seed,
            "selection": config.selection,
            "runtime": {k: v for k, v in flat.items() if k.startswith("runtime.")},
        }
    return result


def _origin(stage: Stage, config: Config, reads: tuple[str, ...]) -> Origin:
    """Of the stage, of what reads its images, and of the generator where it uses one."""
    used = [data.find(config.data.kind).module]
    if "generator" in reads:
        used.append(generator_kinds.find(config.generator.kind).module)
    return origin(stage.module, *used)


def stage_keys(config: Config, fingerprint: str) -> dict[str, str]:
    """The store key of every stage's result under this (resolved) configuration."""
    return {name: make_key(**parts) for name, parts in key_parts(config, fingerprint).items()}


class View:
    """The part of a configuration, or of a section of it, that a stage declares to read. Anything else is an
    AttributeError, so that nothing can determine a result that its key does not tell."""

    def __init__(self, section: Section, stage: str, reads: tuple[str, ...], path: str = ""):
        self._section, self._stage, self._reads, self._path = section, stage, reads, path

    def __getattr__(self, name: str) -> Any:
        key = f"{self._path}{name}"
        value = getattr(self._section, name)
        if covers(self._reads, key):
            return value
        if any(read.startswith(f"{key}.") for read in self._reads):
            if isinstance(value, Mapping):
                return {own: of for own, of in value.items() if covers(self._reads, f"{key}.{own}")}
            return View(value, self._stage, self._reads, f"{key}.")
        raise AttributeError(f"stage {self._stage} reads {key}, which its `reads` does not name")


def view(config: Config, stage: str) -> Config:
    """What a stage is given as its configuration."""
    return cast(Config, View(config, stage, (*graph(config)[stage].reads(config), *ALWAYS)))


def recorded(entries: Iterable[Entry]) -> dict[str, dict[str, Any]]:
    """By key, what the keys of stored results are made of, as far as their manifests tell."""
    return {entry.key: entry.manifest["key"] for entry in entries if "key" in entry.manifest}


def declared(parts: dict[str, Any], known: Mapping[str, dict[str, Any]]) -> str:
    """The key of these parts without code and libraries, its own and those of its inputs: equal for results of which
    the configuration and the data are the same. known: parts by key; inputs that are not known count by their keys."""
    kept = {name: part for name, part in parts.items() if name not in COMPUTING}
    inputs = {name: declared(known[of], known) if of in known else of for name, of in parts["inputs"].items()}
    return make_key(**{**kept, "inputs": inputs})


def differences(a: dict[str, Any], b: dict[str, Any], known: Mapping[str, dict[str, Any]]) -> list[str]:
    """Why two results have different keys: "what: this, that" for everything in their parts that differs.

    known: parts by key, as far as they are known: what differs in an input is looked for in the input's own parts.
    """
    found = []
    for name in sorted({*a, *b}):
        left, right = a.get(name), b.get(name)
        if left == right:
            continue
        if name != "inputs":
            pairs = [(name, left, right)]
            if isinstance(left, dict) and isinstance(right, dict):
                label = {"code": "code of ", "libraries": "version of "}.get(name, "")
                keys = sorted({*left, *right})
                pairs = [
                    (label + key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)
                ]
            found += [f"{what}: {one}, {other}" for what, one, other in pairs]
            continue
        for stage in sorted({*left, *right}):  # type: ignore[misc]
            one, other = left.get(stage), right.get(stage)  # type: ignore[union-attr]
            if one != other:
                inner = differences(known[one], known[other], known) if {one, other} <= {*known} else []
                found += inner or [f"result of {stage}: {one}, {other}"]
    return list(dict.fromkeys(found))
