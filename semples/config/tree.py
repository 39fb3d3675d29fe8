"""Configurations as YAML and nested mappings: read, change by dotted keys, check, write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from semples import strict_yaml
from semples.config.schema import UNIONS, Config
from semples.config.section import Section, flatten
from semples.errors import UserError, cut, nearest, quoted
from semples.formats import Format, renamed
from semples.manifest import STAGE
from semples.stage import find

PRESETS = Path(__file__).parent.parent / "presets"
# keys of version 0.1.0, and what they are called now
RENAMED = {"generator.body": "generator.backbone", "generator.maps": "generator.out_indices"}


def in_format_2(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of version 0.1.0, as nested mappings, with today's names of keys and values."""
    result = renamed(tree, RENAMED)
    segment = result.get("segment")
    if isinstance(segment, dict) and segment.get("train_on") == "truth":
        result["segment"] = {**segment, "train_on": "ground_truth"}
    return result


FORMAT = Format((in_format_2,))


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dictionary, as it goes into YAML."""
    return config.model_dump(mode="json")


def keys(config: Config) -> list[str]:
    """All dotted keys, `masks.crf.gt_prob` for one."""
    return [key for key, _ in flatten(to_dict(config))]


def parse(tree: Mapping[str, Any], source: str) -> Config:
    """Validate a nested mapping; `source` names it in errors. Raises UserError for the first thing wrong."""
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(error, source)) from None
    if not config.stages:
        return config
    settings = {name: _settings(name, given, source) for name, given in config.stages.items()}
    return config.model_copy(update={"stages": settings})


def _settings(name: str, given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """All settings of a stage of another package. Raises UserError where it is unknown or does not take these."""
    if name in Config.model_fields or not STAGE.fullmatch(name):
        raise UserError(
            f"{source}: stages.{cut(name)} cannot be the name of a stage; it needs one of letters a-z and _ that no "
            "section of the configuration has"
        )
    model = find(name).settings or Section
    if not (isinstance(model, type) and issubclass(model, Section)):  # whose unknown keys are an error
        raise UserError(
            f"stages.{name}: its settings {quoted(model)} are no Section of semples.config; mend its package"
        )
    try:
        return model.model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        raise UserError(_explain(error, source, ("stages", name), model)) from None


def _explain(
    error: ValidationError, source: str, at: tuple[str, ...] = (), members: type[Section] | None = None
) -> str:
    """The first thing wrong, as a sentence. at: the section that was validated, where it was not all; members: its
    model."""
    first = error.errors()[0]
    location = [*at, *map(str, first["loc"])]
    # pydantic puts the chosen union member into the location: data.scenes.train
    if len(location) > 1 and location[0] in UNIONS and location[1] in UNIONS[location[0]]:
        members = UNIONS[location[0]][location.pop(1)]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        if members and members is UNIONS.get(location[0], {}).get("other"):
            *own, last = [kind for kind in UNIONS[location[0]] if kind != "other"]
            return (
                f"{source}: unknown key '{key}': only the kinds {', '.join(own)} and {last} can have it, others have "
                f"{', '.join(members.model_fields)}"
            )
        known = set(keys(Config()))
        if members:
            known = {".".join([*location[:-1], name]) for name in members.model_fields}
        sections = {".".join(k.split(".")[:i]) for k in known for i in range(1, k.count(".") + 1)}
        if key in known and len(location) == 1:
            section, _, rest = key.partition(".")
            return f"{source}: the key '{key}' must stand in its section, {section}: {{{rest}: ...}}"
        return f"{source}: unknown key '{key}'{nearest(key, known | sections, RENAMED)}"
    if first["type"] == "missing":
        return f"{source}: key '{key}' is missing; give it a value"
    what = f"{key} is" if isinstance(first["input"], Mapping | Section) else f"{key} = {quoted(first['input'])} is"
    return f"{source}: {what} not allowed: {reason(error)}"


def reason(error: ValidationError) -> str:
    """What is wrong, in the middle of a sentence: the first thing that pydantic found."""
    text = cut(error.errors()[0]["msg"].removeprefix("Value error, "), 300)
    return text[0].lower() + text[1:]


def override(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the nested mapping with dotted keys set. Another `kind` of data or generator takes away the section's
    other keys, which belonged to the kind before."""
    result: dict[str, Any] = {k: override(v, {}) if isinstance(v, Mapping) else v for k, v in tree.items()}
    for key in sorted(changes, key=lambda key: not key.endswith(".kind")):
        *path, last = key.split(".")
        node = result
        for part in path:
            if not isinstance(node.setdefault(part, {}), dict):
                raise UserError(f"key '{key}': '{part}' is a value, not a section")
            node = node[part]
        forms = UNIONS.get(path[-1]) if path and last == "kind" else None
        if forms and node.get("kind", next(iter(forms))) != changes[key]:
            node.clear()
        node[last] = changes[key]
    return result


def assignments(words: Iterable[str]) -> dict[str, Any]:
    """`key=value` words of a command line, values read as YAML."""
    result = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UserError(f"'{cut(word)}' is not of the form key=value, for example match.lambda_b=1.5")
        result[key] = strict_yaml.loads(value, f"'{cut(word)}'")
    return result


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file with a mapping at its top. Raises UserError if it is missing, unreadable or of another form."""
    tree = strict_yaml.read(path)
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise UserError(f"{path}: expected 'key: value' lines at the top of the file")
    return tree


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file, which may be partial, in today's format. Raises UserError like read_yaml, and where the
    file is of a newer format."""
    return FORMAT.read(read_yaml(path), str(path))


def find_config(word: str | Path) -> Path:
    """A path, or the name of a preset that ships with the package (`voc`, `coco`, ...)."""
    preset = PRESETS / f"{word}.yaml"
    return preset if not Path(word).is_file() and preset.is_file() else Path(word)


def load(
    source: str | Path | Mapping[str, Any] | Config | None = None,
    changes: Mapping[str, Any] = {},
    called: str = "configuration",
) -> Config:
    """A configuration, complete and checked.

    source: a YAML file or the name of a preset (`voc`, `coco`, `scenes`, ...), what stands in such a file as nested
    mappings, or a configuration; None = the defaults. changes: values by dotted key, {"match.lambda_b": 1.5} for one.
    called: what errors call a source that is no file. Raises UserError, with file and key, for the first thing that is
    wrong.
    """
    if isinstance(source, Config):
        return with_changes(source, changes, called)
    if isinstance(source, str | Path):
        source = find_config(source)
        return parse(override(read_config(source), changes), str(source))
    return parse(override(FORMAT.read(source or {}, called), changes), called)


def with_changes(config: Config, changes: Mapping[str, Any], source: str) -> Config:
    """The same configuration with dotted keys changed."""
    return parse(override(to_dict(config), changes), source)


def dump(config: Config, heading: str = "") -> str:
    """YAML of the whole configuration, `heading` as comment lines on top."""
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    return comment + strict_yaml.dumps(FORMAT.stamp() | to_dict(config), flat=True)
