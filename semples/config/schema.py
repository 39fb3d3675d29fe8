"""Every hyperparameter of one run: one frozen model a stage, every key with its meaning.

The defaults are those of the built-in world `scenes`. "Released" is what the published commands of SemPLeS and WeakTr
use, for VOC unless it says COCO; presets/voc.yaml and presets/coco.yaml have all of it. Whatever can change a bit of
the result is in here, the number of threads included: a saved configuration repeats its run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from semples.config.data import CocoData, FolderData, OtherData, ScenesData, VocData
from semples.config.section import (
    NO_FLAG,
    Args,
    Compat,
    Count,
    Decay,
    NotNegative,
    Positive,
    Rate,
    Scale,
    Section,
    Seed,
    Share,
    Side,
    Width,
)

SCALES = "Scales of the image, 1.0 = its native size, whose results are averaged"


class ClipConfig(Section):
    """The CLIP model, as open_clip knows it, whose judgement trains the mask generator and the prompts."""

    model: str = Field(default="scenes-mini", description="Model by open_clip's name; released: ViT-B-32.")
    pretrained: str = Field(
        default="scenes",
        description="open_clip's tag of the weights, or a weights file; '' = random weights, for tests of size and "
        "speed. Released: openai.",
    )
    normalise: Literal["imagenet", "clip"] = Field(
        default="imagenet",
        description="Mean and deviation that images are normalised with for CLIP: ImageNet's, as released, or those "
        "that this CLIP was trained with.",
    )


class CnnConfig(Section):
    """A timm network without its head, then 1x1 convolutions to K class activation maps (CAMs), as CLIMS has one."""

    kind: Literal["cnn"] = Field(default="cnn", description="A convolutional network with CAMs.")
    backbone: str = Field(default="resnet10t", description="Convolutional network by timm's name; CLIMS: resnet50.")
    pretrained: bool = Field(default=False, description="Whether training begins with timm's weights.")
    stride: Literal[8, 16, 32] = Field(default=8, description="Stride of the last feature map, in pixels of the image.")
    out_indices: tuple[Annotated[int, Field(ge=0, le=100), NO_FLAG], ...] = Field(
        default=(1, 2, 3, 4),
        min_length=1,
        description="Feature maps, timm's out_indices from fine to coarse, that get a convolution; their CAMs are "
        "added at the finest one's size. CLIMS has the last one only; the small scenes need finer ones, too.",
    )
    args: Args = Field(
        default={"channels": [24, 48, 96, 192], "stem_width": 16},
        description="Further arguments of timm.create_model; the default narrows the network to the scenes' size.",
    )

    @field_validator("out_indices")
    @classmethod
    def _from_fine_to_coarse(cls, indices: tuple[int, ...]) -> tuple[int, ...]:
        if list(indices) != sorted(set(indices)):
            raise ValueError("name each feature map once, from the finest to the coarsest")
        return indices


class WeakTrConfig(Section):
    """WeakTr (arXiv 2304.01184): a vision transformer with one class token a class and adaptive attention fusion."""

    kind: Literal["weaktr"] = Field(description="WeakTr, the released generator.")
    backbone: str = Field(
        default="scenes_vit",
        description="ViT or DeiT by timm's name; the small scenes_vit ships with the package. Released: "
        "deit_small_patch16_224.",
    )
    pretrained: bool = Field(
        default=True, description="Whether training begins with timm's weights; released: true (ImageNet)."
    )
    weights: str = Field(
        default="",
        description="File of an official WeakTr checkpoint to begin with instead, '' = none; with classify.epochs 0 it "
        "is taken as it is.",
    )
    pool: Literal["max", "mean"] = Field(
        default="max", description="How an attention head's output is described; released: max (VOC), mean (COCO)."
    )
    reduction: Count = Field(
        default=8, description="Reduction of the layer that weighs the attention heads; released: 8 (VOC), 4 (COCO)."
    )
    args: Args = Field(default={}, description="Further arguments of timm.create_model.")


class OtherGenerator(Section):
    """A mask generator of another package."""

    kind: str = Field(
        description="Name of the generator in the entry point group semples.generators.",
        json_schema_extra={"not": {"enum": ["cnn", "weaktr"]}},
    )
    args: Args = Field(default={}, description="The generator's own settings.")


def _by_kind(*own: str) -> Discriminator:
    """Which form of a section a value has: that of its kind, the first where it says none, else that of others."""

    def tag(value: Any) -> str:
        kind = value.get("kind", own[0]) if isinstance(value, Mapping) else getattr(value, "kind", own[0])
        return str(kind) if kind in own else "other"

    return Discriminator(tag)


GeneratorConfig = CnnConfig | WeakTrConfig | OtherGenerator


class AugmentConfig(Section):
    """What is done to training images: random resized crop and flip everywhere, the rest where the mask generator is
    trained."""

    size: Side = Field(default=64, description="Side of a crop in pixels; released: 224.")
    scale_min: Annotated[float, Field(gt=0, le=1), NO_FLAG] = Field(
        default=0.8, description="Least share of the image's area in a crop; released: 0.08."
    )
    randaugment: str = Field(
        default="", description="RandAugment as a timm policy, '' = none; released: rand-m9-mstd0.5-inc1."
    )
    erasing: Share = Field(default=0.0, description="Probability of random erasing; released: 0.25.")


class Training(Section):
    """AdamW (eps 1e-8), cosine to 0. Learning rates are as used: of the released commands, their lr * batch / 512."""

    epochs: Count = Field(description="Epochs over the training images.")
    batch: Count = Field(description="Images in a batch.")
    lr: Rate = Field(description="Learning rate after warm-up.")
    weight_decay: Decay = Field(default=0.03, description="AdamW's weight decay; released: 0.03.")
    warmup: NotNegative = Field(
        default=0.0,
        description="Epochs, at most all, in which the learning rate rises from 0 first; released: 5 in classify, else "
        "0.",
    )

    @model_validator(mode="after")
    def _warm_in_time(self) -> Training:
        if self.epochs and self.warmup > self.epochs:
            raise ValueError(f"warmup {self.warmup:g} is longer than the {self.epochs} epochs; lower warmup, too")
        return self


class ClassifyConfig(Training):
    """a. The mask generator learns the image labels alone (multi-label soft margin), as WeakTr does."""

    epochs: Annotated[int, Field(ge=0, le=100_000), NO_FLAG] = Field(
        default=10,
        description="Epochs over the training images; 0 takes the initial weights as they are. Released: 60.",
    )
    batch: Count = Field(default=32, description="Images in a batch; released: 64.")
    lr: Rate = Field(default=2e-3, description="Learning rate after warm-up; released: 7.5e-5.")


class MatchConfig(Training):
    """b. Segment-Label Matching: CLIP sees labels in the foreground and none of them in the background."""

    epochs: Count = Field(default=10, description="Epochs over the training images; released: 60.")
    batch: Count = Field(default=8, description="Images in a batch; released: 64 (VOC), 32 (COCO).")
    lr: Rate = Field(default=3e-3, description="Learning rate after warm-up; released: 6.4e-5 (VOC), 3.2e-7 (COCO).")
    lambda_b: NotNegative = Field(
        default=1.0,
        description="Weight of the loss on the background, here and in refine; released: 2.4 (VOC), 0.75 (COCO).",
    )
    mask_eps: Positive = Field(
        default=1e-1,
        description="Added to the range of a CAM in the min-max that makes a mask of it, here and in refine: CAMs "
        "whose range is well below it give faint masks. Released: 0.1.",
    )


class PromptsConfig(Training):
    """c. Contrastive Prompt Learning: prompts learn what stands around each class."""

    epochs: Count = Field(default=6, description="Epochs over the training images; released: 60.")
    batch: Count = Field(default=64, description="Images in a batch; released: 128.")
    lr: Rate = Field(default=0.025, description="Learning rate after warm-up; released: 0.025 (VOC), 0.0025 (COCO).")
    count: Annotated[int, Field(ge=1, le=16), NO_FLAG] = Field(
        default=1, description="Prompts of a class; released: 1."
    )
    length: Annotated[int, Field(ge=1, le=64), NO_FLAG] = Field(
        default=30, description="Learned tokens in a prompt; released: 30."
    )
    init: Literal["uniform", "normal", "word"] = Field(
        default="uniform",
        description="What tokens begin as: uniform in [0, 1), as released; normal, with the deviation of the text "
        "tower's own tokens; or the tokens of the word 'background' with noise.",
    )
    lambda_t: NotNegative = Field(
        default=0.02,
        description="Weight of the loss that keeps prompts away from their label; released: 0.02 (VOC), 0.01 (COCO).",
    )
    mask_eps: Positive = Field(
        default=1e-4,
        description="Added to the range of a CAM in the min-max that makes a mask of it; released: 0.0001.",
    )
    label_term: Literal["released", "paper"] = Field(
        default="released",
        description="Loss on the similarity s of label t and prompt u: released adds lambda_t * log s(t, u), paper "
        "adds -lambda_t * log(1 - s(t, u)).",
    )


class RefineConfig(Training):
    """d. Prompt-guided Semantic Refinement: as match, and what the prompts describe is pushed out of the masks."""

    epochs: Count = Field(default=10, description="Epochs over the training images; released: 60.")
    batch: Count = Field(default=8, description="Images in a batch; released: 64 (VOC), 24 (COCO).")
    lr: Rate = Field(default=3e-3, description="Learning rate after warm-up; released: 6.4e-5 (VOC), 2.4e-7 (COCO).")
    lambda_r: NotNegative = Field(
        default=1.0, description="Weight of the loss on the prompts; released: 0.05 (VOC), 0.2 (COCO)."
    )
    start: Literal["classify", "match"] = Field(
        default="classify", description="Stage whose weights it starts from; released: classify."
    )


class HeatmapsConfig(Section):
    """e. CAMs of the refined generator over several views of an image."""

    scales: tuple[Scale, ...] = Field(
        default=(1.0, 1.5),
        min_length=1,
        max_length=20,
        description=f"{SCALES}; released: 1.0, 1.2 (VOC), 0.8, 1.0, 1.2 (COCO).",
    )
    flip: bool = Field(default=True, description="Whether each scale is also taken mirrored; released: true.")


class CrfConfig(Section):
    """Dense CRF over position (gaussian) and over position and colour (bilateral)."""

    iterations: Annotated[int, Field(ge=0, le=1000), NO_FLAG] = Field(
        default=10, description="Iterations, 0 = no CRF; released: 10."
    )
    gt_prob: Annotated[float, Field(gt=0, lt=1), NO_FLAG] = Field(
        default=0.7, description="Probability that the label going in is right; released: 0.7."
    )
    gaussian_sxy: Width = Field(default=3.0, description="Width over position, in pixels; released: 4 (VOC), 3 (COCO).")
    gaussian_compat: Compat = Field(default=3.0, description="Strength over position; released: 3.")
    bilateral_sxy: Width = Field(
        default=24.0,
        description="Width over position, in pixels, where colour counts too; released: 83 (VOC), 50 (COCO).",
    )
    bilateral_srgb: Width = Field(default=5.0, description="Width over colour, in grey levels of 255; released: 5.")
    bilateral_compat: Compat = Field(
        default=3.0, description="Strength over position and colour; released: 3 (VOC), 10 (COCO)."
    )


class MasksConfig(Section):
    """f. Pseudo masks of the heatmaps."""

    background: Share = Field(
        default=0.5,
        description="Score of the background, which a class's heatmap in [0, 1] must exceed; the released evaluation "
        "scans 0.40 to 0.60.",
    )
    band: Share = Field(
        default=0.0,
        description="Masks are made at background - band / 2 and background + band / 2, and where they differ the "
        "pseudo mask is 255, from which the network learns nothing; 0 = one mask, no such pixels, as released.",
    )
    crf: CrfConfig = Field(default=CrfConfig(), description="Dense CRF on the masks.")


class TestCrfConfig(CrfConfig):
    """The same dense CRF on the network's probabilities."""

    gt_prob: Annotated[float, Field(gt=0, lt=1), NO_FLAG] = Field(
        default=0.7, description="Means nothing here: the network gives probabilities."
    )
    bilateral_compat: Compat = Field(default=5.0, description="Strength over position and colour.")


class TestConfig(Section):
    """How the trained network is used. The epoch is chosen at one scale without any of it."""

    scales: tuple[Scale, ...] = Field(default=(1.0,), min_length=1, max_length=20, description=f"{SCALES}.")
    flip: bool = Field(default=True, description="Whether each scale is also taken mirrored.")
    crf: TestCrfConfig = Field(default=TestCrfConfig(), description="Dense CRF on the averaged probabilities.")


class SegmentConfig(Training):
    """g. A segmentation-models-pytorch (smp) network learns the pseudo masks; SemPLeS leaves the network open."""

    architecture: str = Field(default="Unet", description="Architecture by smp's name: DeepLabV3Plus, Segformer, ...")
    encoder: str = Field(default="tu-test_resnet", description="Encoder by smp's name; tu-NAME is timm's network NAME.")
    pretrained: bool = Field(default=False, description="Whether the encoder begins with weights of ImageNet.")
    args: Args = Field(
        default={"encoder_depth": 3, "decoder_channels": [64, 32, 16]},
        description="Further arguments of smp.create_model.",
    )
    size: Annotated[int, Field(ge=32, le=4096, multiple_of=32), NO_FLAG] = Field(
        default=64, description="Side of a training crop in pixels."
    )
    epochs: Count = Field(default=20, description="Epochs over the training images.")
    batch: Annotated[int, Field(ge=2, le=100_000), NO_FLAG] = Field(default=8, description="Crops in a batch.")
    lr: Rate = Field(default=4e-3, description="Learning rate after warm-up.")
    schedule: Literal["cosine", "poly"] = Field(default="cosine", description="How the learning rate falls to 0.")
    label_smoothing: Annotated[float, Field(ge=0, lt=1), NO_FLAG] = Field(
        default=0.0, description="Share of the target that is spread over all classes."
    )
    train_on: Literal["pseudo", "ground_truth"] = Field(
        default="pseudo",
        description="Masks that it learns: pseudo masks, or ground_truth, the true masks of the training images that "
        "have one: the bound of what pseudo masks can reach, and stamped so.",
    )
    test: TestConfig = Field(default=TestConfig(), description="How the trained network is used.")


class RuntimeConfig(Section):
    """Where and how numbers are computed; all of it can change the last bits."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Device; auto, the GPU where there is one, is resolved when a run starts."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Number format of the networks' arithmetic."
    )
    threads: Annotated[int, Field(ge=1, le=512), NO_FLAG] = Field(default=1, description="CPU threads of one run.")
    workers: Annotated[int, Field(ge=0, le=128), NO_FLAG] = Field(
        default=0, description="Processes that load images and share the dense CRF, 0 = none besides the run itself."
    )


class Config(Section):
    """One run of the method."""

    seed: Seed = Field(default=0, description="Seed of everything that a run draws; the data have one of their own.")
    selection: Literal["holdout", "proxy", "oracle"] = Field(
        default="holdout",
        description="What may choose thresholds, epochs and trials: holdout, the masks of a small subset that no "
        "reported figure uses; proxy, no mask at all, but what CLIP sees in the cut-outs of that subset, for data "
        "without masks; oracle, the evaluation masks themselves, as the released scripts do.",
    )
    data: Annotated[
        Annotated[ScenesData, Tag("scenes")]
        | Annotated[VocData, Tag("voc")]
        | Annotated[CocoData, Tag("coco")]
        | Annotated[FolderData, Tag("folder")]
        | Annotated[OtherData, Tag("other")],
        _by_kind("scenes", "voc", "coco", "folder"),
    ] = Field(default=ScenesData(), description="The data set: images, image labels and the masks that there are.")
    clip: ClipConfig = Field(default=ClipConfig(), description="The CLIP model that judges and teaches.")
    generator: Annotated[
        Annotated[CnnConfig, Tag("cnn")]
        | Annotated[WeakTrConfig, Tag("weaktr")]
        | Annotated[OtherGenerator, Tag("other")],
        _by_kind("cnn", "weaktr"),
    ] = Field(default=CnnConfig(), description="The mask generator: an image in, one CAM a class out.")
    augment: AugmentConfig = Field(default=AugmentConfig(), description="What is done to training images.")
    classify: ClassifyConfig = Field(
        default=ClassifyConfig(), description="Stage a: the mask generator learns the image labels."
    )
    match: MatchConfig = Field(default=MatchConfig(), description="Stage b: Segment-Label Matching.")
    prompts: PromptsConfig = Field(default=PromptsConfig(), description="Stage c: Contrastive Prompt Learning.")
    refine: RefineConfig = Field(default=RefineConfig(), description="Stage d: Prompt-guided Semantic Refinement.")
    heatmaps: HeatmapsConfig = Field(default=HeatmapsConfig(), description="Stage e: heatmaps over views of an image.")
    masks: MasksConfig = Field(default=MasksConfig(), description="Stage f: pseudo masks of the heatmaps.")
    segment: SegmentConfig = Field(default=SegmentConfig(), description="Stage g: the segmentation network.")
    stages: dict[str, Args] = Field(
        default={},
        description="Stages of other packages that a run has besides those of the method: by their names in the entry "
        "point group semples.stages their settings, {} for none.",
    )
    runtime: RuntimeConfig = Field(default=RuntimeConfig(), description="Where and how numbers are computed.")


# the sections that have several forms, by their kind; the first is the default
UNIONS: dict[str, dict[str, type[Section]]] = {
    "data": {"scenes": ScenesData, "voc": VocData, "coco": CocoData, "folder": FolderData, "other": OtherData},
    "generator": {"cnn": CnnConfig, "weaktr": WeakTrConfig, "other": OtherGenerator},
}
