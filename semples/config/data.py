"""The section `data`: one model a layout of a data set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from semples.config.classes import COCO_CLASSES, VOC_CLASSES
from semples.config.section import Args, Count, Images, Root, Section, Seed


class ScenesData(Section):
    """The built-in world, drawn when it is needed."""

    kind: Literal["scenes"] = Field(default="scenes", description="Scenes that are drawn: nothing to download.")
    train: Count = Field(default=480, description="Number of training images.")
    holdout: Count = Field(default=64, description="Number of images whose masks choose.")
    test: Count = Field(default=128, description="Number of test images.")
    seed: Seed = Field(default=0, description="Seed that the scenes are drawn from.")


class VocData(Section):
    """PASCAL VOC 2012, or any data set in its layout. Its lists are those of ImageSets/Segmentation."""

    kind: Literal["voc"] = Field(default="voc", description="A data set in the layout of PASCAL VOC 2012.")
    root: Root = Field(description="Folder with JPEGImages/ and ImageSets/.")
    classes: tuple[str, ...] = Field(
        default=VOC_CLASSES,
        description="Names of the classes as CLIP is told them, in the order of the mask values 1..K; the default is "
        "the released one, with 'player' for person.",
    )
    ignore: tuple[str, ...] = Field(
        default=(), description="Names of objects in Annotations/ that are not to be learned."
    )
    train_list: str = Field(default="train_aug", description="List of the training images; released: train_aug.")
    mask_list: str = Field(
        default="train",
        description="List of the training images whose masks choose (the holdout) or measure pseudo masks; released: "
        "train.",
    )
    test_list: str = Field(default="val", description="List of the test images; released: val.")
    holdout: Images = Field(
        default=100,
        description="Number of images of mask_list that are drawn to choose; they leave the training set. Released: "
        "none, the measured masks choose.",
    )
    seed: Seed = Field(default=0, description="Seed that the holdout is drawn with.")


class CocoData(Section):
    """COCO 2014 in its official layout (or 2017, or as CVAT and Roboflow write it) or in those of WeakTr and ToCo."""

    kind: Literal["coco"] = Field(default="coco", description="A data set in one of the layouts of COCO.")
    root: Root = Field(description="Folder with annotations/, voc_format/ or SegmentationClass/train2014/.")
    classes: tuple[str, ...] = Field(
        default=COCO_CLASSES,
        description="Names of the classes as CLIP is told them, in the order of COCO's category numbers; released: "
        "COCO's 80.",
    )
    ignore: tuple[str, ...] = Field(default=(), description="Categories of the annotations that are not to be learned.")
    holdout: Images = Field(
        default=500,
        description="Number of the measured images that are drawn to choose; they leave the training set. Released: "
        "none, the measured masks choose.",
    )
    test: Images = Field(default=100, description="Number of test images where the annotations have no test set.")
    measured: Images = Field(
        default=5000,
        description="Number of training images whose masks are looked at: the holdout, and those that pseudo masks are "
        "measured on.",
    )
    seed: Seed = Field(default=0, description="Seed that these images are drawn with.")


class FolderData(Section):
    """A plain folder: images/, masks/ (for some of the images), labels.csv; see semples.data.folder."""

    kind: Literal["folder"] = Field(default="folder", description="A folder with images/ and labels.csv or masks/.")
    root: Root = Field(description="Folder with images/, and masks/ or labels.csv.")
    ignore: tuple[str, ...] = Field(default=(), description="Labels of labels.csv that are not to be learned.")
    holdout: Images = Field(
        default=50, description="Number of images with masks that choose; they leave the training set."
    )
    test: Images = Field(
        default=100, description="Number of images with masks that are the test set where labels.csv names none."
    )
    seed: Seed = Field(default=0, description="Seed that these images are drawn with.")


class OtherData(Section):
    """A data set in a layout of another package."""

    kind: str = Field(
        description="Name of the layout in the entry point group semples.data.",
        json_schema_extra={"not": {"enum": ["scenes", "voc", "coco", "folder"]}},
    )
    root: str = Field(default="", description="Folder of the data set, '' where the layout needs none.")
    holdout: Images = Field(
        default=50, description="Number of images with masks that choose; they leave the training set."
    )
    seed: Seed = Field(default=0, description="Seed that the holdout is drawn with.")
    args: Args = Field(default={}, description="The layout's own settings.")


DataConfig = ScenesData | VocData | CocoData | FolderData | OtherData
