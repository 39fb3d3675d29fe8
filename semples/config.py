"""Every hyperparameter of one run: one frozen model a stage, YAML in and out.

The values here are those of the embedded world `scenes`; the released values for VOC are in the docstrings. Whatever
can change a bit of the result is in here, the number of threads included: a saved configuration repeats its run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from semples.errors import UserError, nearest

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


# the names that the released SemPLeS gives to CLIP: VOC's, but "player" for person and "tv monitor" in two words
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "player", "pottedplant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip


class Section(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ScenesData(Section):
    """The embedded world: numbers of images in the three splits and the seed they are drawn from."""

    kind: Literal["scenes"] = "scenes"
    train: Count = 480
    holdout: Count = 64
    test: Count = 128
    seed: int = 0


class VocData(Section):
    """PASCAL VOC 2012 (or any data set in its layout) below `root`; lists are those of ImageSets/Segmentation.

    classes: names as CLIP is told them, in the order of the mask values 1..K. The holdout is drawn, with `seed`, from
    the images of `mask_list`, and leaves the training set.
    """

    kind: Literal["voc"] = "voc"
    root: str
    classes: tuple[str, ...] = VOC_CLASSES
    train_list: str = "train_aug"
    mask_list: str = "train"
    test_list: str = "val"
    holdout: Count = 100
    seed: int = 0


class ClipConfig(Section):
    """open_clip model and its `pretrained` tag or weights file ("" = random weights, for tests of size and speed).

    normalise: "imagenet" as released, or "clip" for the mean and deviation that this CLIP was trained with.
    """

    model: str = "scenes-mini"
    pretrained: str = "scenes"
    normalise: Literal["imagenet", "clip"] = "imagenet"


class GeneratorConfig(Section):
    """Mask generator: a timm network without its head, then a 1x1 convolution to K class activation maps (CAMs).

    maps: the feature maps (timm's out_indices) that get such a convolution; their CAMs are added at the finest one's
    size. CLIMS has the last one only; the scenes are so small that finer maps are needed. stride: of the last map.
    args go to timm.create_model as they are; the default narrows the network to the size of the scenes.
    """

    kind: Literal["cnn"] = "cnn"
    body: str = "resnet10t"
    pretrained: bool = False
    stride: Literal[8, 16, 32] = 8
    maps: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(1, 2, 3, 4), min_length=1)
    args: dict[str, Any] = {"channels": [24, 48, 96, 192], "stem_width": 16}


class AugmentConfig(Section):
    """Random resized crop to `size` pixels with area share at least `scale_min`, and flip; the stages that train the
    mask generator add RandAugment (`randaugment`, a timm policy, "" for none) and random erasing (probability).
    Released: 224, 0.08, "rand-m9-mstd0.5-inc1", 0.25."""

    size: Annotated[int, Field(ge=32)] = 64
    scale_min: Annotated[float, Field(gt=0, le=1)] = 0.8
    randaugment: str = ""
    erasing: Share = 0.0


class Training(Section):
    """AdamW, cosine to 0 without warm-up."""

    epochs: Count
    batch: Count
    lr: Positive
    weight_decay: NotNegative = 0.03


class ClassifyConfig(Training):
    """a. Image labels only (multi-label soft margin)."""

    epochs: Count = 10
    batch: Count = 32
    lr: Positive = 2e-3


class MatchConfig(Training):
    """b. Segment-Label Matching. Released, VOC: 60 epochs, batch 64, lr 6.4e-5, lambda_b 2.4."""

    epochs: Count = 8
    batch: Count = 32
    lr: Positive = 4e-3
    lambda_b: NotNegative = 2.4


class PromptsConfig(Training):
    """c. Contrastive Prompt Learning. Released, VOC: 60 epochs, batch 128, lr 0.025, one prompt of 30, lambda_t 0.02.

    count: prompts a class; length: learned tokens in a prompt; init: "uniform" U[0, 1) as released, "normal" with the
    deviation of the text tower's own tokens, or "word" (the tokens of the word "background", noise added).
    label_term: "released" adds lambda_t * log s(t, u), "paper" adds -lambda_t * log(1 - s(t, u)).
    """

    epochs: Count = 6
    batch: Count = 64
    lr: Positive = 0.025
    count: Annotated[int, Field(ge=1, le=16)] = 1
    length: Annotated[int, Field(ge=1, le=64)] = 30
    init: Literal["uniform", "normal", "word"] = "uniform"
    lambda_t: NotNegative = 0.02
    label_term: Literal["released", "paper"] = "released"


class RefineConfig(Training):
    """d. Prompt-guided Semantic Refinement. Released, VOC: as match, lambda_r 0.05; lambda_b is match's.

    start: the weights it starts from, "classify" as released or "match".
    """

    epochs: Count = 8
    batch: Count = 32
    lr: Positive = 4e-3
    lambda_r: NotNegative = 0.05
    start: Literal["classify", "match"] = "classify"


class HeatmapsConfig(Section):
    """e. Scales of the image (1.0 = native size), each also mirrored where `flip`. Released, VOC: 1.0 and 1.2, flip."""

    scales: tuple[Positive, ...] = Field(default=(1.0, 1.5), min_length=1)
    flip: bool = True


class CrfConfig(Section):
    """Dense CRF over position (`gaussian_*`) and over position and colour (`bilateral_*`); sxy in pixels, srgb in grey
    levels. gt_prob: how far the label going in is trusted. iterations 0 = no CRF. Released, VOC: 10 iterations, 4/3 and
    83/5/3, gt_prob 0.7."""

    iterations: Annotated[int, Field(ge=0)] = 10
    gt_prob: Annotated[float, Field(gt=0, lt=1)] = 0.7
    gaussian_sxy: Positive = 3.0
    gaussian_compat: NotNegative = 3.0
    bilateral_sxy: Positive = 24.0
    bilateral_srgb: Positive = 5.0
    bilateral_compat: NotNegative = 3.0


class MasksConfig(Section):
    """f. background: the constant score that a class's heatmap must exceed. Released evaluation scans 0.40 to 0.60."""

    background: Share = 0.5
    crf: CrfConfig = CrfConfig()


class SegmentConfig(Training):
    """g. A segmentation-models-pytorch network by architecture and encoder name, trained on crops of `size` pixels.

    args go to smp.create_model as they are. The network of the scenes begins without pretrained weights.
    """

    architecture: str = "Unet"
    encoder: str = "tu-test_resnet"
    pretrained: bool = False
    args: dict[str, Any] = {"encoder_depth": 3, "decoder_channels": [64, 32, 16]}
    size: Annotated[int, Field(ge=32, multiple_of=32)] = 64
    epochs: Count = 12
    batch: Count = 8
    lr: Positive = 1e-3


class RuntimeConfig(Section):
    """Where and how numbers are computed; all of it can change the last bits. device "auto" is resolved when a run
    starts. threads: CPU threads of one run. workers: processes that load images (0 = none besides the run itself)."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Count = 1
    workers: Annotated[int, Field(ge=0)] = 0


class Config(Section):
    """One run. selection: which masks may choose thresholds and epochs, "holdout" (a small subset that no reported
    figure uses) or "oracle" (the evaluation masks themselves, as the released scripts do)."""

    seed: Annotated[int, Field(ge=0)] = 0
    selection: Literal["holdout", "oracle"] = "holdout"
    data: Annotated[Union[ScenesData, VocData], Field(discriminator="kind")] = ScenesData()  # noqa: UP007
    clip: ClipConfig = ClipConfig()
    generator: GeneratorConfig = GeneratorConfig()
    augment: AugmentConfig = AugmentConfig()
    classify: ClassifyConfig = ClassifyConfig()
    match: MatchConfig = MatchConfig()
    prompts: PromptsConfig = PromptsConfig()
    refine: RefineConfig = RefineConfig()
    heatmaps: HeatmapsConfig = HeatmapsConfig()
    masks: MasksConfig = MasksConfig()
    segment: SegmentConfig = SegmentConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @field_validator("data", mode="before")
    @classmethod
    def _scenes_by_default(cls, data: Any) -> Any:
        return {"kind": "scenes", **data} if isinstance(data, Mapping) else data


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as (dotted key, value) pairs in order."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dictionary, as it goes into YAML."""
    return config.model_dump(mode="json")


def keys(config: Config) -> list[str]:
    """All dotted keys, `masks.crf.gt_prob` for one."""
    return [key for key, _ in flatten(to_dict(config))]


def parse(tree: Mapping[str, Any], source: str) -> Config:
    """Validate a nested mapping; `source` names it in errors. Raises UserError for the first thing wrong."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(error, source)) from None


def _explain(error: ValidationError, source: str) -> str:
    first = error.errors()[0]
    # pydantic puts the tag of the chosen union member into the location: data.scenes.train
    location = [str(p) for p in first["loc"]]
    if location[:1] == ["data"] and len(location) > 1 and location[1] in ("scenes", "voc"):
        del location[1]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        known = set(keys(Config())) | {f"data.{name}" for name in VocData.model_fields}
        sections = {".".join(k.split(".")[:i]) for k in known for i in range(1, k.count(".") + 1)}
        return f"{source}: unknown key '{key}'{nearest(key, known | sections)}"
    if first["type"] == "missing":
        return f"{source}: key '{key}' is missing; give it a value"
    return f"{source}: {key} = {first['input']!r} is not allowed: {first['msg'][0].lower()}{first['msg'][1:]}"


def override(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the nested mapping with dotted keys set."""
    result: dict[str, Any] = {k: override(v, {}) if isinstance(v, Mapping) else v for k, v in tree.items()}
    for key, value in changes.items():
        *path, last = key.split(".")
        node = result
        for part in path:
            if not isinstance(node.setdefault(part, {}), dict):
                raise UserError(f"key '{key}': '{part}' is a value, not a section")
            node = node[part]
        node[last] = value
    return result


def assignments(words: Iterable[str]) -> dict[str, Any]:
    """`key=value` words of a command line, values read as YAML."""
    result = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UserError(f"'{word}' is not of the form key=value, for example match.lambda_b=1.5")
        try:
            result[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"'{word}': the value is not valid YAML") from None
    return result


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file with a mapping at its top. Raises UserError if it is missing, unreadable or of another form."""
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected 'key: value' lines at the top of the file")
    return tree


def load(path: Path | None, changes: Mapping[str, Any] = {}) -> Config:
    """The configuration of a YAML file (defaults without one) with dotted keys changed."""
    return parse(override(read_yaml(path) if path else {}, changes), str(path) if path else "command line")


def with_changes(config: Config, changes: Mapping[str, Any], source: str) -> Config:
    """The same configuration with dotted keys changed."""
    return parse(override(to_dict(config), changes), source)


def dump(config: Config, heading: str = "") -> str:
    """YAML of the whole configuration, `heading` as comment lines on top."""
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    return comment + yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None, width=120)
