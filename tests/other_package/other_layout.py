"""A layout of data: ROOT/tiles/NAME.png, ROOT/truth/NAME.png, and in ROOT/names.txt the names of the classes, one
a line.

Every image whose number in the order of the names can be divided by `args.every` (4) is of the test set.
"""

from __future__ import annotations

from pathlib import Path

from semples.config import OtherData
from semples.data.dataset import Dataset
from semples.data.files import GroundTruth, expand, mask_file, read_text
from semples.data.labels import labels_from_masks
from semples.data.listing import Images, Listing, assemble
from semples.data.names import index_files
from semples.errors import UserError


def recognises(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (root / "tiles").is_dir()


def read_listing(config: OtherData) -> Listing:
    """Names, labels and paths. Raises UserError where the root is none."""
    root = expand(config.root)
    if not recognises(root):
        raise UserError(f"data.root '{config.root}' has no folder tiles/; put the images there")
    classes = tuple(read_text(root / "names.txt", "list of classes").splitlines())
    images, masks = index_files([root / "tiles"]), index_files([root / "truth"])
    names = sorted(images.names())
    test = names[:: config.args.get("every", 4)]
    train = tuple(name for name in names if name not in test)
    found = Images(images, {})

    def mask(name: str) -> GroundTruth | None:
        return mask_file(masks.find(name), len(classes))

    return Listing(
        layout="tiles",
        classes=classes,
        train=train,
        measured=tuple(name for name in train if name in masks),
        test=tuple(test),
        image=found.find,
        sought=found.sought,
        mask=mask,
        labels=labels_from_masks(mask, len(classes)),
        labels_from="the masks",
    )


def load(config: OtherData) -> Dataset:
    """The data set of a folder in this layout."""
    return assemble(read_listing(config), config.holdout, config.seed)
