"""Every hyperparameter of one run: one frozen model a stage, YAML in and out.

The values here are those of the built-in world `scenes`; the released values for VOC are in the docstrings. Whatever
can change a bit of the result is in here, the number of threads included: a saved configuration repeats its run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from semples import strict_yaml
from semples.errors import UserError, cut, nearest, quoted

PRESETS = Path(__file__).parent / "presets"


def no_flag(value: Any) -> Any:
    """For a validator of numbers: Python counts true as 1."""
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    for key, value in flatten(values):
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{key} must be a finite number")
    return values


# bounds from above where more would take all of a machine's memory or time before anything is said
Whole = Annotated[int, BeforeValidator(no_flag)]
Real = Annotated[float, BeforeValidator(no_flag)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Share = Annotated[Real, Field(ge=0, le=1)]
Scale = Annotated[Real, Field(ge=0.05, le=8)]
Width = Annotated[Real, Field(ge=0.01, le=10_000)]  # the dense CRF's library dies of smaller ones
Compat = Annotated[Real, Field(ge=0, le=10_000)]
Rate = Annotated[Real, Field(gt=0, le=1e30)]
Decay = Annotated[Real, Field(ge=0, le=1e6)]
Root = Annotated[str, Field(min_length=1)]
Count = Annotated[Whole, Field(ge=1, le=100_000)]
Images = Annotated[Whole, Field(ge=1, le=10**9)]
Side = Annotated[Whole, Field(ge=32, le=4096)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Args = Annotated[dict[str, Any], AfterValidator(_finite)]


# the names that the released SemPLeS gives to CLIP: VOC's, but "player" for person and "tv monitor" in two words
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "player", "pottedplant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip


# COCO's own, in the order of their category numbers
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip


class Section(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ScenesData(Section):
    """The built-in world: numbers of images in the three splits and the seed they are drawn from."""

    kind: Literal["scenes"] = "scenes"
    train: Count = 480
    holdout: Count = 64
    test: Count = 128
    seed: Seed = 0


class VocData(Section):
    """PASCAL VOC 2012 (or any data set in its layout) below `root`; lists are those of ImageSets/Segmentation.

    classes: names as CLIP is told them, in the order of the mask values 1..K; ignore: names of objects in Annotations/
    that are not to be learned. The holdout is drawn, with `seed`, from the images of `mask_list`, and leaves the
    training set.
    """

    kind: Literal["voc"] = "voc"
    root: Root
    classes: tuple[str, ...] = VOC_CLASSES
    ignore: tuple[str, ...] = ()
    train_list: str = "train_aug"
    mask_list: str = "train"
    test_list: str = "val"
    holdout: Images = 100
    seed: Seed = 0


class CocoData(Section):
    """COCO 2014 below `root`, in its official layout (or 2017, or as CVAT and Roboflow write it) or in those of WeakTr
    and ToCo.

    classes: the 80 names as CLIP is told them, in the order of COCO's category numbers; ignore: categories of the
    annotations that are not to be learned. The holdout is drawn, with `seed`, from the `measured` training images whose
    masks are looked at, and leaves the training set; the others of these are what pseudo masks are measured on. `test`
    images are the test set where the annotations have none.
    """

    kind: Literal["coco"] = "coco"
    root: Root
    classes: tuple[str, ...] = COCO_CLASSES
    ignore: tuple[str, ...] = ()
    holdout: Images = 500
    test: Images = 100
    measured: Images = 5000
    seed: Seed = 0


class FolderData(Section):
    """A plain folder: images/, masks/ (for some of the images), labels.csv; see semples.data.folder.

    `holdout` images with masks choose and leave the training set; `test` images with masks are the test set where
    labels.csv does not say which are. ignore: labels of labels.csv that are not to be learned.
    """

    kind: Literal["folder"] = "folder"
    root: Root
    ignore: tuple[str, ...] = ()
    holdout: Images = 50
    test: Images = 100
    seed: Seed = 0


DataConfig = ScenesData | VocData | CocoData | FolderData


class ClipConfig(Section):
    """open_clip model and its `pretrained` tag or weights file ("" = random weights, for tests of size and speed).

    normalise: "imagenet" as released, or "clip" for the mean and deviation that this CLIP was trained with.
    """

    model: str = "scenes-mini"
    pretrained: str = "scenes"
    normalise: Literal["imagenet", "clip"] = "imagenet"


class CnnConfig(Section):
    """A timm network without its head, then 1x1 convolutions to K class activation maps (CAMs), as CLIMS has one.

    maps: the feature maps (timm's out_indices) that get such a convolution; their CAMs are added at the finest one's
    size. CLIMS has the last one only; the scenes are so small that finer maps are needed. stride: of the last map.
    pretrained: begin with timm's weights. args go to timm.create_model as they are; the default narrows the network to
    the size of the scenes.
    """

    kind: Literal["cnn"] = "cnn"
    body: str = "resnet10t"
    pretrained: bool = False
    stride: Literal[8, 16, 32] = 8
    maps: tuple[Annotated[Whole, Field(ge=0, le=100)], ...] = Field(default=(1, 2, 3, 4), min_length=1)
    args: Args = {"channels": [24, 48, 96, 192], "stem_width": 16}

    @field_validator("maps")
    @classmethod
    def _from_fine_to_coarse(cls, maps: tuple[int, ...]) -> tuple[int, ...]:
        if list(maps) != sorted(set(maps)):
            raise ValueError("name each feature map once, from the finest to the coarsest")
        return maps


class WeakTrConfig(Section):
    """WeakTr (arXiv 2304.01184): a timm vision transformer with one class token a class and adaptive attention fusion.

    body: any ViT or DeiT of timm; the small `scenes_vit` ships with the package. pretrained: begin with timm's weights.
    weights: a checkpoint of the official WeakTr to begin with instead ("" = none; with classify.epochs 0 it is taken as
    it is). pool: how an attention head's output is described, the released "max" (VOC) or "mean" (COCO). reduction: of
    the layer that weighs the heads, released 8 (VOC) and 4 (COCO). args go to timm.create_model as they are.
    """

    kind: Literal["weaktr"]
    body: str = "scenes_vit"
    pretrained: bool = True
    weights: str = ""
    pool: Literal["max", "mean"] = "max"
    reduction: Count = 8
    args: Args = {}


class OtherGenerator(Section):
    """A mask generator of another package, by its name in the entry point group `semples.generators`; args are its own
    settings."""

    kind: str
    args: Args = {}


def _by_kind(value: Any) -> str:
    kind = value.get("kind", "cnn") if isinstance(value, Mapping) else getattr(value, "kind", "cnn")
    return str(kind) if kind in ("cnn", "weaktr") else "other"


GeneratorConfig = CnnConfig | WeakTrConfig | OtherGenerator


class AugmentConfig(Section):
    """Random resized crop to `size` pixels with area share at least `scale_min`, and flip; the stages that train the
    mask generator add RandAugment (`randaugment`, a timm policy, "" for none) and random erasing (probability).
    Released: 224, 0.08, "rand-m9-mstd0.5-inc1", 0.25."""

    size: Side = 64
    scale_min: Annotated[Real, Field(gt=0, le=1)] = 0.8
    randaugment: str = ""
    erasing: Share = 0.0


class Training(Section):
    """AdamW (eps 1e-8), cosine to 0. lr: as it is used; the released commands' lr times batch / 512. warmup: epochs in
    which the learning rate rises first, at most all; released: 5 in classify of WeakTr, else none."""

    epochs: Count
    batch: Count
    lr: Rate
    weight_decay: Decay = 0.03
    warmup: NotNegative = 0.0

    @model_validator(mode="after")
    def _warm_in_time(self) -> Training:
        if self.epochs and self.warmup > self.epochs:
            raise ValueError(f"warmup {self.warmup:g} is longer than the {self.epochs} epochs; lower warmup, too")
        return self


class ClassifyConfig(Training):
    """a. Image labels only (multi-label soft margin). Released, WeakTr on VOC: 60 epochs, batch 64, lr 7.5e-5, 5 epochs
    of warm-up. epochs: 0 takes the initial weights as they are."""

    epochs: Annotated[Whole, Field(ge=0, le=100_000)] = 10
    batch: Count = 32
    lr: Rate = 2e-3


class MatchConfig(Training):
    """b. Segment-Label Matching. Released, VOC: 60 epochs, batch 64, lr 6.4e-5, lambda_b 2.4.

    mask_eps: in the min-max that makes masks of CAMs, here and in refine: CAMs whose range is well below it give faint
    masks.
    """

    epochs: Count = 10
    batch: Count = 8
    lr: Rate = 3e-3
    lambda_b: NotNegative = 1.0
    mask_eps: Positive = 1e-1


class PromptsConfig(Training):
    """c. Contrastive Prompt Learning. Released, VOC: 60 epochs, batch 128, lr 0.025, one prompt of 30, lambda_t 0.02.

    count: prompts a class; length: learned tokens in a prompt; init: "uniform" U[0, 1) as released, "normal" with the
    deviation of the text tower's own tokens, or "word" (the tokens of the word "background", noise added).
    label_term: "released" adds lambda_t * log s(t, u), "paper" adds -lambda_t * log(1 - s(t, u)).
    """

    epochs: Count = 6
    batch: Count = 64
    lr: Rate = 0.025
    count: Annotated[Whole, Field(ge=1, le=16)] = 1
    length: Annotated[Whole, Field(ge=1, le=64)] = 30
    init: Literal["uniform", "normal", "word"] = "uniform"
    lambda_t: NotNegative = 0.02
    mask_eps: Positive = 1e-4
    label_term: Literal["released", "paper"] = "released"


class RefineConfig(Training):
    """d. Prompt-guided Semantic Refinement. Released, VOC: as match, lambda_r 0.05; lambda_b is match's.

    start: the weights it starts from, "classify" as released or "match".
    """

    epochs: Count = 10
    batch: Count = 8
    lr: Rate = 3e-3
    lambda_r: NotNegative = 1.0
    start: Literal["classify", "match"] = "classify"


class HeatmapsConfig(Section):
    """e. Scales of the image (1.0 = native size), each also mirrored where `flip`. Released, VOC: 1.0 and 1.2, flip."""

    scales: tuple[Scale, ...] = Field(default=(1.0, 1.5), min_length=1, max_length=20)
    flip: bool = True


class CrfConfig(Section):
    """Dense CRF over position (`gaussian_*`) and over position and colour (`bilateral_*`); sxy in pixels, srgb in grey
    levels. gt_prob: how far the label going in is trusted. iterations 0 = no CRF. Released, VOC: 10 iterations, 4/3 and
    83/5/3, gt_prob 0.7."""

    iterations: Annotated[Whole, Field(ge=0, le=1000)] = 10
    gt_prob: Annotated[Real, Field(gt=0, lt=1)] = 0.7
    gaussian_sxy: Width = 3.0
    gaussian_compat: Compat = 3.0
    bilateral_sxy: Width = 24.0
    bilateral_srgb: Width = 5.0
    bilateral_compat: Compat = 3.0


class MasksConfig(Section):
    """f. background: the constant score that a class's heatmap must exceed. Released evaluation scans 0.40 to 0.60.

    band: the masks at background - band / 2 and background + band / 2 are both made, and where they differ the pseudo
    mask is 255, from which the network learns nothing (0 = one mask, no such pixels, as released).
    """

    background: Share = 0.5
    band: Share = 0.0
    crf: CrfConfig = CrfConfig()


class TestCrfConfig(CrfConfig):
    """The same on the network's probabilities, where gt_prob means nothing."""

    bilateral_compat: Compat = 5.0


class TestConfig(Section):
    """How the trained network is used: scales of the image, each also mirrored where `flip`, whose probabilities are
    averaged, and a dense CRF on them (iterations 0 = none). The epoch is chosen at one scale without any of it."""

    scales: tuple[Scale, ...] = Field(default=(1.0,), min_length=1, max_length=20)
    flip: bool = True
    crf: TestCrfConfig = TestCrfConfig()


class SegmentConfig(Training):
    """g. A segmentation-models-pytorch network by architecture (DeepLabV3Plus, Segformer, UPerNet, ...) and encoder
    name (any of theirs; "tu-NAME" is timm's NAME), trained on crops of `size` pixels.

    schedule: of the learning rate. label_smoothing: share of the target that is spread over all classes. train_on:
    "truth" trains on the true masks of the training images that have one: the bound of what pseudo masks can reach, and
    stamped so. args go to smp.create_model as they are. The network of the scenes begins without pretrained weights.
    """

    architecture: str = "Unet"
    encoder: str = "tu-test_resnet"
    pretrained: bool = False
    args: Args = {"encoder_depth": 3, "decoder_channels": [64, 32, 16]}
    size: Annotated[Side, Field(multiple_of=32)] = 64
    epochs: Count = 20
    batch: Annotated[Whole, Field(ge=2, le=100_000)] = 8
    lr: Rate = 4e-3
    schedule: Literal["cosine", "poly"] = "cosine"
    label_smoothing: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    train_on: Literal["pseudo", "truth"] = "pseudo"
    test: TestConfig = TestConfig()


class RuntimeConfig(Section):
    """Where and how numbers are computed; all of it can change the last bits. device "auto" is resolved when a run
    starts. threads: CPU threads of one run. workers: processes that load images (0 = none besides the run itself)."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Annotated[Whole, Field(ge=1, le=512)] = 1
    workers: Annotated[Whole, Field(ge=0, le=128)] = 0


class Config(Section):
    """One run. selection: what may choose thresholds, epochs and trials: "holdout" (the masks of a small subset that no
    reported figure uses), "proxy" (no mask at all, but what CLIP sees in the cut-outs of that subset: for data without
    masks) or "oracle" (the evaluation masks themselves, as the released scripts do)."""

    seed: Seed = 0
    selection: Literal["holdout", "proxy", "oracle"] = "holdout"
    data: Annotated[DataConfig, Field(discriminator="kind")] = ScenesData()
    clip: ClipConfig = ClipConfig()
    generator: Annotated[
        Annotated[CnnConfig, Tag("cnn")]
        | Annotated[WeakTrConfig, Tag("weaktr")]
        | Annotated[OtherGenerator, Tag("other")],
        Discriminator(_by_kind),
    ] = CnnConfig()
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


# the sections that have several forms, by their kind; the first is the default
UNIONS: dict[str, dict[str, type[Section]]] = {
    "data": {"scenes": ScenesData, "voc": VocData, "coco": CocoData, "folder": FolderData},
    "generator": {"cnn": CnnConfig, "weaktr": WeakTrConfig, "other": OtherGenerator},
}


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
    location, members = [str(p) for p in first["loc"]], None
    # pydantic puts the chosen union member into the location: data.scenes.train
    if len(location) > 1 and location[0] in UNIONS and location[1] in UNIONS[location[0]]:
        members = UNIONS[location[0]][location.pop(1)]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        if members is OtherGenerator:
            return f"{source}: unknown key '{key}': only the kinds cnn and weaktr have it, others have kind and args"
        known = set(keys(Config()))
        if members:
            known = {f"{location[0]}.{name}" for name in members.model_fields}
        sections = {".".join(k.split(".")[:i]) for k in known for i in range(1, k.count(".") + 1)}
        if key in known and len(location) == 1:
            section, _, rest = key.partition(".")
            return f"{source}: the key '{key}' must stand in its section, {section}: {{{rest}: ...}}"
        return f"{source}: unknown key '{key}'{nearest(key, known | sections)}"
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
        if last == "kind" and path and node.get("kind", next(iter(UNIONS.get(path[-1], [""])))) != changes[key]:
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


def find_config(word: str | Path) -> Path:
    """A path, or the name of a preset that ships with the package (`voc`, `coco`, ...)."""
    preset = PRESETS / f"{word}.yaml"
    return preset if not Path(word).is_file() and preset.is_file() else Path(word)


def load(path: Path | None, changes: Mapping[str, Any] = {}) -> Config:
    """The configuration of a YAML file (defaults without one) with dotted keys changed."""
    return parse(override(read_yaml(path) if path else {}, changes), str(path) if path else "command line")


def with_changes(config: Config, changes: Mapping[str, Any], source: str) -> Config:
    """The same configuration with dotted keys changed."""
    return parse(override(to_dict(config), changes), source)


def dump(config: Config, heading: str = "") -> str:
    """YAML of the whole configuration, `heading` as comment lines on top."""
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    return comment + strict_yaml.dumps(to_dict(config), flat=True)
