"""Nouns for what is behind objects, by which `semples prompts` describes learned prompts."""

from __future__ import annotations

from semples.data.scenes import GROUNDS

# the stuff classes of COCO-Stuff, as one would say them
STUFF = (
    "banner", "blanket", "branch", "bridge", "building", "bush", "cabinet", "cage", "cardboard", "carpet",
    "ceiling", "tiled ceiling", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk", "dirt",
    "door", "fence", "marble floor", "floor", "stone floor", "tiled floor", "wooden floor", "flower", "fog",
    "food", "fruit", "furniture", "grass", "gravel", "ground", "hill", "house", "leaves", "light", "mat", "metal",
    "mirror", "moss", "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow", "plant", "plastic",
    "platform", "playing field", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand",
    "sea", "shelf", "sky", "skyscraper", "snow", "solid", "stairs", "stone", "straw", "structure", "table",
    "tent", "textile", "towel", "tree", "vegetable", "brick wall", "concrete wall", "wall", "panelled wall",
    "stone wall", "tiled wall", "wooden wall", "water", "waterdrops", "window blind", "window", "wood",
)  # fmt: skip
NOUNS = tuple(dict.fromkeys((*GROUNDS, *STUFF)))
