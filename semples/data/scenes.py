"""The built-in world: small drawn scenes whose backgrounds give the classes away.

Every class has a companion background (boat and sea, train and railway, ...) that is in the picture nine times of
ten. A classifier that sees image labels alone therefore learns the companion too, which is the problem that SemPLeS
solves. Everything is drawn from a seed: the same seed gives the same pixels.

The same brushes draw the captioned pictures on which the miniature CLIP is trained (`semples/pretrain.py`); there
objects and backgrounds are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from semples.data.dataset import Dataset, Split
from semples.digests import digest

if TYPE_CHECKING:
    from semples.config import ScenesData

Rng = np.random.Generator
Colour = tuple[int, int, int]

COMPANIONS: dict[str, str] = {
    "aeroplane": "sky",
    "boat": "sea",
    "train": "railway",
    "car": "road",
    "sheep": "meadow",
    "bird": "leaves",
    "chair": "floorboards",
    "bottle": "tablecloth",
}
CLASSES: tuple[str, ...] = tuple(COMPANIONS)
NEUTRAL: tuple[str, ...] = ("brick wall", "sand", "snow", "carpet")
GROUNDS: tuple[str, ...] = (*COMPANIONS.values(), *NEUTRAL)

SIZES: tuple[tuple[int, int], ...] = ((64, 64), (64, 96), (96, 64))
COMPANION_RATE = 0.9
OVERSAMPLE = 4  # objects are drawn this many times larger, then averaged down


# ---------------------------------------------------------------------------------------------------- backgrounds
def _noise(rng: Rng, h: int, w: int, cell: float) -> np.ndarray:
    """Smooth noise (h, w) in [0, 1]: a random grid with one value every `cell` pixels, enlarged bicubically."""
    grid = rng.random((max(2, round(h / cell) + 1), max(2, round(w / cell) + 1))).astype(np.float32)
    return np.clip(np.asarray(Image.fromarray(grid).resize((w, h), Image.Resampling.BICUBIC)), 0, 1)


def _tint(rng: Rng, colour: Colour, spread: int = 22) -> np.ndarray:
    return np.clip(np.array(colour) + rng.integers(-spread, spread + 1, 3), 0, 255).astype(np.float32)


def _mix(t: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Colour a where t is 0, colour b where t is 1; t (h, w) -> (h, w, 3)."""
    return a + t[..., None] * (b - a)


def _grain(rng: Rng, canvas: np.ndarray, strength: float) -> np.ndarray:
    return canvas + strength * rng.standard_normal(canvas.shape[:2]).astype(np.float32)[..., None]


def _strokes(canvas: np.ndarray) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    return picture, ImageDraw.Draw(picture)


def _rgb(colour: np.ndarray) -> Colour:
    r, g, b = np.clip(colour, 0, 255).astype(int)
    return int(r), int(g), int(b)


def _sky(rng: Rng, h: int, w: int) -> np.ndarray:
    height = np.linspace(0, 1, h, dtype=np.float32)[:, None] * np.ones((1, w), np.float32)
    canvas = _mix(height, _tint(rng, (70, 120, 225), 30), _tint(rng, (165, 195, 250), 20))
    clouds = np.clip((0.6 * _noise(rng, h, w, 16) + 0.4 * _noise(rng, h, w, 6) - rng.uniform(0.45, 0.6)) * 6, 0, 1)
    return _grain(rng, _mix(clouds, canvas, np.array([248, 248, 252], np.float32)), 2)


def _sea(rng: Rng, h: int, w: int) -> np.ndarray:
    y = np.arange(h, dtype=np.float32)[:, None]
    waves = np.sin(y / rng.uniform(0.9, 1.5) + 9 * _noise(rng, h, w, 14))
    deep, light = _tint(rng, (8, 50, 105)), _tint(rng, (40, 130, 170))
    return _grain(rng, _mix(0.5 + 0.5 * waves * _noise(rng, h, w, 10), deep, light), 4)


def _railway(rng: Rng, h: int, w: int) -> np.ndarray:
    canvas = _grain(rng, _mix(_noise(rng, h, w, 3), _tint(rng, (92, 80, 70)), _tint(rng, (138, 122, 100))), 13)
    picture, pen = _strokes(canvas)
    sleeper, rail = _rgb(_tint(rng, (62, 42, 28), 10)), _rgb(_tint(rng, (200, 202, 210), 15))
    gap, lean = int(rng.integers(5, 8)), int(rng.integers(-2, 3))
    for top in range(int(rng.integers(-6, 6)), h, int(rng.integers(17, 25))):
        for x in range(int(rng.integers(-gap, 1)), w + gap, gap):
            pen.line([(x + lean, top - 2), (x - lean, top + 11)], fill=sleeper, width=2)
        for y in (top + 1, top + 8):
            pen.line([(0, y), (w, y)], fill=rail, width=1)
    return np.asarray(picture, np.float32)


def _road(rng: Rng, h: int, w: int) -> np.ndarray:
    canvas = _grain(rng, _mix(_noise(rng, h, w, 12), _tint(rng, (70, 72, 82), 12), _tint(rng, (98, 98, 106), 12)), 7)
    picture, pen = _strokes(canvas)
    paint, dash = _rgb(_tint(rng, (238, 232, 205), 14)), int(rng.integers(7, 12))
    for y in range(int(rng.integers(2, 14)), h, int(rng.integers(18, 28))):
        for x in range(int(rng.integers(-dash, 1)), w, 2 * dash):
            pen.line([(x, y), (x + dash - 1, y)], fill=paint, width=2)
    return np.asarray(picture, np.float32)


def _meadow(rng: Rng, h: int, w: int) -> np.ndarray:
    canvas = _grain(rng, _mix(_noise(rng, h, w, 8), _tint(rng, (40, 110, 22)), _tint(rng, (112, 168, 40))), 10)
    picture, pen = _strokes(canvas)
    for x, y in zip(rng.integers(0, w, h * w // 40), rng.integers(0, h, h * w // 40), strict=True):
        blade = (int(rng.integers(50, 150)), int(rng.integers(160, 230)), int(rng.integers(10, 60)))
        pen.line([(x, y), (x + int(rng.integers(-1, 2)), y - 4)], fill=blade)
    return np.asarray(picture, np.float32)


def _leaves(rng: Rng, h: int, w: int) -> np.ndarray:
    picture, pen = _strokes(_mix(_noise(rng, h, w, 9), _tint(rng, (18, 42, 20), 8), _tint(rng, (40, 72, 30), 10)))
    bark = _rgb(_tint(rng, (88, 60, 36), 12))
    for _ in range(3):
        pen.line([(int(rng.integers(0, w)), 0), (int(rng.integers(0, w)), h)], fill=bark, width=2)
    for x, y in zip(rng.integers(-2, w, h * w // 34), rng.integers(-2, h, h * w // 34), strict=True):
        leaf = (int(rng.integers(25, 95)), int(rng.integers(85, 165)), int(rng.integers(25, 70)))
        a, b = (3, 5) if rng.random() < 0.5 else (5, 3)
        pen.ellipse([x, y, x + a, y + b], fill=leaf)
    return np.asarray(picture, np.float32)


def _floorboards(rng: Rng, h: int, w: int) -> np.ndarray:
    plank = int(rng.integers(8, 13))
    first = int(rng.integers(0, plank))
    row = (np.arange(h) + first) // plank
    shade = rng.uniform(-16, 16, row.max() + 1).astype(np.float32)[row][:, None, None]
    fibre = _noise(rng, h, max(2, w // 8), 1.2)
    fibre = np.asarray(Image.fromarray(fibre).resize((w, h), Image.Resampling.BICUBIC))
    picture, pen = _strokes(_mix(fibre, _tint(rng, (150, 96, 48)), _tint(rng, (190, 135, 80))) + shade)
    seam = _rgb(_tint(rng, (84, 50, 24), 8))
    for y in range(-first, h, plank):
        pen.line([(0, y), (w, y)], fill=seam)
        joint = int(rng.integers(0, w))
        pen.line([(joint, y), (joint, y + plank)], fill=seam)
    return np.asarray(picture, np.float32)


def _tablecloth(rng: Rng, h: int, w: int) -> np.ndarray:
    check = int(rng.integers(5, 9))
    y, x = np.mgrid[:h, :w] + rng.integers(0, 16, 2)[:, None, None]
    weave = 0.5 * ((y // check) % 2) + 0.5 * ((x // check) % 2)
    colour = [(200, 40, 50), (40, 80, 190), (30, 140, 90), (215, 130, 30)][rng.integers(4)]
    return _grain(rng, _mix(weave.astype(np.float32), _tint(rng, (246, 244, 238), 8), _tint(rng, colour)), 4)


def _brick_wall(rng: Rng, h: int, w: int) -> np.ndarray:
    picture, pen = _strokes(
        _grain(rng, _mix(_noise(rng, h, w, 5), _tint(rng, (150, 74, 56)), _tint(rng, (186, 108, 84))), 6)
    )
    mortar, height, width = _rgb(_tint(rng, (196, 184, 170), 12)), int(rng.integers(7, 10)), int(rng.integers(14, 19))
    for i, y in enumerate(range(-int(rng.integers(0, 7)), h, height)):
        pen.line([(0, y), (w, y)], fill=mortar)
        for x in range(-(i % 2) * width // 2, w, width):
            pen.line([(x, y), (x, y + height)], fill=mortar)
    return np.asarray(picture, np.float32)


def _sand(rng: Rng, h: int, w: int) -> np.ndarray:
    dunes = 0.7 * _noise(rng, h, w, 20) + 0.3 * _noise(rng, h, w, 5)
    return _grain(rng, _mix(dunes, _tint(rng, (196, 168, 116), 14), _tint(rng, (232, 210, 160), 12)), 8)


def _snow(rng: Rng, h: int, w: int) -> np.ndarray:
    drifts = 0.8 * _noise(rng, h, w, 18) + 0.2 * _noise(rng, h, w, 4)
    return _grain(rng, _mix(drifts, _tint(rng, (196, 206, 226), 10), _tint(rng, (248, 249, 252), 5)), 3)


def _carpet(rng: Rng, h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[:h, :w].astype(np.float32)
    zigzag = ((y + np.abs((x % 12) - 6)) // 4) % 2
    return _grain(rng, _mix(zigzag, _tint(rng, (110, 50, 110), 30), _tint(rng, (160, 110, 150), 30)), 9)


_PAINT_GROUND: dict[str, Callable[[Rng, int, int], np.ndarray]] = {
    "sky": _sky, "sea": _sea, "railway": _railway, "road": _road, "meadow": _meadow, "leaves": _leaves,
    "floorboards": _floorboards, "tablecloth": _tablecloth, "brick wall": _brick_wall, "sand": _sand, "snow": _snow,
    "carpet": _carpet,
}  # fmt: skip


def draw_ground(rng: Rng, name: str, h: int, w: int) -> np.ndarray:
    """One background filling the picture: float32 (h, w, 3), values about 0-255 (not yet clipped)."""
    return _PAINT_GROUND[name](rng, h, w)


def draw_grounds(rng: Rng, names: Sequence[str], h: int, w: int) -> np.ndarray:
    """Several backgrounds side by side, from left to right or top to bottom, along wavy borders."""
    canvas = draw_ground(rng, names[0], h, w)
    y, x = np.mgrid[:h, :w].astype(np.float32)
    along, across, length = (x, y, w) if w >= h else (y, x, h)
    for i, name in enumerate(names[1:], 1):
        border = length * i / len(names) + rng.uniform(2, 5) * np.sin(across / rng.uniform(5, 12) + rng.uniform(0, 6))
        canvas = np.where((along > border)[..., None], draw_ground(rng, name, h, w), canvas)
    return canvas


# -------------------------------------------------------------------------------------------------------- objects
class _Brush:
    """Draws in the object's own coordinates: x right and y down, both in [-1, 1]."""

    def __init__(self, box: int, angle: float, stretch: float, flip: bool):
        self.image = Image.new("RGBA", (box, box))
        self._pen = ImageDraw.Draw(self.image)
        self._half = box / 2
        c, s = math.cos(angle), math.sin(angle)
        self._matrix = np.array([[c, -s], [s, c]]) @ np.diag([(-1 if flip else 1) * stretch, 1 / stretch])

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        # 0.68 keeps the corners of a rotated, stretched unit square inside the box
        xy = self._half + 0.68 * self._half * (np.array(points) @ self._matrix.T)
        self._pen.polygon([(float(x), float(y)) for x, y in xy], fill=(*colour, 255))

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        turn = np.linspace(0, 2 * math.pi, 24, endpoint=False)
        self.polygon([(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turn], colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)


def _paint(rng: Rng) -> tuple[Colour, Colour]:
    """A random body colour and its darker shade: colour tells nothing about the class."""
    hue, saturation, value = rng.random(), rng.uniform(0.25, 0.9), rng.uniform(0.5, 0.95)
    i = hue * 6
    rgb = np.array([np.clip(abs((i + o) % 6 - 3) - 1, 0, 1) for o in (0, 4, 2)])
    body = 255 * value * (1 - saturation * (1 - rgb))
    return _rgb(body), _rgb(0.62 * body)


GLASS, TYRE, HUB, DARK = (205, 228, 240), (22, 22, 26), (170, 170, 178), (50, 42, 40)


def _aeroplane(rng: Rng, b: _Brush) -> None:
    body, shade = _paint(rng)
    b.polygon([(-0.05, 0), (0.35, 0), (-0.1, -0.75), (-0.3, -0.75)], shade)
    b.polygon([(-0.95, -0.5), (-0.7, -0.5), (-0.5, 0), (-0.85, 0)], shade)
    b.ellipse(0, 0, 0.98, 0.17, body)
    b.polygon([(-0.05, 0.04), (0.38, 0.04), (-0.15, 0.8), (-0.38, 0.8)], shade)
    for x in np.linspace(-0.5, 0.6, 7):
        b.ellipse(x, -0.04, 0.045, 0.05, GLASS)


def _boat(rng: Rng, b: _Brush) -> None:
    body, shade = _paint(rng)
    b.box(-0.04, -0.95, 0.04, 0.35, DARK)
    b.polygon([(-0.1, -0.85), (-0.1, 0.2), (-0.75, 0.2)], (250, 248, 238))
    b.polygon([(0.1, -0.9), (0.1, 0.2), (0.65, 0.2)], (232, 230, 222))
    b.polygon([(-0.95, 0.32), (0.95, 0.32), (0.65, 0.85), (-0.65, 0.85)], body)
    b.polygon([(-0.95, 0.32), (0.95, 0.32), (0.88, 0.45), (-0.88, 0.45)], shade)


def _train(rng: Rng, b: _Brush) -> None:
    body, shade = _paint(rng)
    b.polygon([(-1, 0.4), (-1, -0.3), (-0.92, -0.4), (0.7, -0.4), (1, 0.1), (1, 0.4)], body)
    b.box(-1, 0.12, 1, 0.24, (225, 50, 40))
    for x in np.linspace(-0.9, 0.38, 5):
        b.box(x, -0.26, x + 0.2, 0.02, GLASS)
    b.polygon([(0.66, -0.3), (0.74, -0.3), (0.94, 0.04), (0.66, 0.04)], shade)
    for x in np.linspace(-0.8, 0.8, 6):
        b.ellipse(x, 0.44, 0.11, 0.13, TYRE)


def _car(rng: Rng, b: _Brush) -> None:
    body, shade = _paint(rng)
    b.polygon([(-0.6, -0.05), (-0.35, -0.5), (0.25, -0.5), (0.55, -0.05)], body)
    b.polygon([(-0.5, -0.06), (-0.3, -0.42), (-0.06, -0.42), (-0.06, -0.06)], GLASS)
    b.polygon([(0.02, -0.06), (0.02, -0.42), (0.2, -0.42), (0.42, -0.06)], GLASS)
    b.polygon([(-0.98, 0.35), (-0.95, 0), (-0.6, -0.08), (0.55, -0.08), (0.95, 0.05), (1, 0.35)], body)
    b.box(-0.98, 0.24, 1, 0.36, shade)
    for x in (-0.55, 0.58):
        b.ellipse(x, 0.36, 0.24, 0.26, TYRE)
        b.ellipse(x, 0.36, 0.1, 0.11, HUB)


def _sheep(rng: Rng, b: _Brush) -> None:
    grey = int(rng.integers(205, 245))
    for x in (-0.45, -0.2, 0.25, 0.5):
        b.box(x - 0.06, 0.3, x + 0.06, 0.9, DARK)
    b.ellipse(0.05, 0, 0.72, 0.42, (grey, grey, grey - 6))
    for t in np.linspace(0, 2 * math.pi, 11, endpoint=False):
        tone = int(np.clip(grey + rng.integers(-28, 18), 0, 255))
        b.ellipse(0.05 + 0.62 * math.cos(t), 0.36 * math.sin(t), 0.22, 0.2, (tone, tone, tone - 5))
    b.ellipse(-0.78, -0.2, 0.2, 0.27, DARK)
    b.ellipse(-0.62, -0.36, 0.12, 0.07, DARK)


def _bird(rng: Rng, b: _Brush) -> None:
    body, shade = _paint(rng)
    for x in (-0.05, 0.14):
        b.box(x, 0.3, x + 0.05, 0.85, (200, 140, 40))
    b.polygon([(0.4, -0.05), (0.98, -0.4), (0.98, -0.05), (0.5, 0.25)], shade)
    b.ellipse(0.05, 0.08, 0.6, 0.38, body)
    b.ellipse(-0.5, -0.35, 0.3, 0.3, body)
    b.polygon([(-0.76, -0.46), (-1, -0.3), (-0.74, -0.24)], (245, 170, 30))
    b.polygon([(-0.25, -0.05), (0.5, -0.1), (0.6, 0.2), (0.1, 0.3)], shade)
    b.ellipse(-0.57, -0.42, 0.06, 0.06, (15, 15, 15))


def _chair(rng: Rng, b: _Brush) -> None:
    body, shade = _paint(rng)
    for x in (-0.4, 0.66):
        b.box(x, 0.12, x + 0.1, 0.78, shade)
    for x in (-0.62, 0.42):
        b.box(x, 0.2, x + 0.13, 0.98, body)
    for x in (-0.62, 0.42):
        b.box(x, -0.95, x + 0.13, 0.2, body)
    for y in (-0.85, -0.5, -0.15):
        b.box(-0.6, y, 0.5, y + 0.2, shade)
    b.polygon([(-0.62, 0.08), (0.55, 0.08), (0.8, 0.34), (-0.74, 0.34)], body)


def _bottle(rng: Rng, b: _Brush) -> None:
    body, shade = _paint(rng)
    b.box(-0.13, -0.98, 0.13, -0.84, DARK)
    b.box(-0.1, -0.86, 0.1, -0.3, shade)
    b.polygon(
        [
            (-0.11, -0.45),
            (0.11, -0.45),
            (0.36, -0.12),
            (0.36, 0.9),
            (0.3, 0.97),
            (-0.3, 0.97),
            (-0.36, 0.9),
            (-0.36, -0.12),
        ],
        body,
    )
    b.box(-0.36, 0.15, 0.36, 0.6, (245, 240, 225))
    b.box(-0.2, 0.28, 0.2, 0.46, shade)
    b.box(0.2, -0.1, 0.28, 0.12, GLASS)


_PAINT_OBJECT: dict[str, Callable[[Rng, _Brush], None]] = {
    "aeroplane": _aeroplane, "boat": _boat, "train": _train, "car": _car, "sheep": _sheep, "bird": _bird,
    "chair": _chair, "bottle": _bottle,
}  # fmt: skip


def draw_object(rng: Rng, name: str, extent: int) -> np.ndarray:
    """One object on transparent ground: float32 (extent, extent, 4), colour 0-255 and alpha 0-1."""
    tilt = 0.5 if name == "aeroplane" else 0.2
    brush = _Brush(extent * OVERSAMPLE, rng.uniform(-tilt, tilt), rng.uniform(0.88, 1.14), rng.random() < 0.5)
    _PAINT_OBJECT[name](rng, brush)
    rgba = np.asarray(brush.image.resize((extent, extent), Image.Resampling.BOX), np.float32)
    light = np.linspace(rng.uniform(1.0, 1.2), rng.uniform(0.75, 1.0), extent, dtype=np.float32)[:, None, None]
    return np.concatenate([rgba[..., :3] * light, rgba[..., 3:] / 255], -1)


def paste(canvas: np.ndarray, thing: np.ndarray, top: int, left: int) -> np.ndarray:
    """Put `thing` on the canvas in place (parts outside are cut off); bool (h, w): where it now covers the canvas."""
    h, w = canvas.shape[:2]
    n = thing.shape[0]
    covered = np.zeros((h, w), bool)
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + n, h), min(left + n, w)
    part = thing[y0 - top : y1 - top, x0 - left : x1 - left]
    canvas[y0:y1, x0:x1] += part[..., 3:] * (part[..., :3] - canvas[y0:y1, x0:x1])
    covered[y0:y1, x0:x1] = part[..., 3] > 0.5
    return covered


def draw_scene(
    rng: Rng, objects: Sequence[str], grounds: Sequence[str], h: int, w: int
) -> tuple[np.ndarray, np.ndarray]:
    """Objects side by side, overlapping a little, each roughly on the ground of the same position.

    Returns the image, uint8 (h, w, 3), and the true mask, uint8 (h, w): 0 background, 1 + index in CLASSES.
    """
    canvas = draw_grounds(rng, grounds, h, w).astype(np.float32, copy=True)
    mask = np.zeros((h, w), np.uint8)
    count, length = len(objects), max(h, w)
    shrink = (1.0, 0.8, 0.66)[count - 1]
    for i in rng.permutation(count):
        extent = round(min(h, w) * shrink * rng.uniform(0.7, 1.3))
        along = round(length * (i + 0.5) / count + rng.uniform(-0.12, 0.12) * length - extent / 2)
        across = round((min(h, w) - extent) / 2 + rng.uniform(-0.2, 0.2) * min(h, w))
        top, left = (across, along) if w >= h else (along, across)
        covered = paste(canvas, draw_object(rng, objects[i], extent), top, left)
        mask[covered] = 1 + CLASSES.index(objects[i])
    canvas *= rng.uniform(0.88, 1.1)
    return np.clip(canvas, 0, 255).astype(np.uint8), mask


# --------------------------------------------------------------------------------------------------- the data set
def _draw_random_scene(rng: Rng) -> tuple[np.ndarray, np.ndarray, list[str]]:
    count = int(rng.choice([1, 2, 3], p=[0.62, 0.28, 0.1]))
    objects = [str(c) for c in rng.choice(CLASSES, count, replace=False)]
    grounds = [COMPANIONS[c] if rng.random() < COMPANION_RATE else str(rng.choice(GROUNDS)) for c in objects]
    if count == 1 and rng.random() < 0.35:
        grounds.insert(int(rng.integers(2)), str(rng.choice(GROUNDS)))
    h, w = SIZES[0] if count == 1 and rng.random() < 0.6 else SIZES[rng.integers(1, 3)]
    image, mask = draw_scene(rng, objects, grounds, h, w)
    return image, mask, objects


def _split(name: str, size: int, seed: int) -> tuple[Split, bytes]:
    rng = np.random.default_rng([seed, *name.encode()])
    images: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    labels = np.zeros((size, len(CLASSES)), bool)
    while len(images) < size:
        image, mask, objects = _draw_random_scene(rng)
        present = [1 + CLASSES.index(c) for c in objects]
        if min(np.bincount(mask.ravel(), minlength=len(CLASSES) + 1)[present]) < 40:
            continue  # an object is all but hidden: its image label would be wrong
        labels[len(images), [k - 1 for k in present]] = True
        images.append(image)
        masks.append(mask)
    content = b"".join(x.tobytes() for x in (*images, *masks, labels))
    names = tuple(f"{name}-{i:05d}" for i in range(size))
    return Split(names, labels, images.__getitem__, masks.__getitem__, tuple(range(size))), content


@lru_cache(maxsize=4)
def draw(train: int, holdout: int, test: int, seed: int) -> Dataset:
    """Draw the three splits (numbers of images); the same arguments give the same pixels and fingerprint."""
    (a, in_a), (b, in_b), (c, in_c) = (
        _split("train", train, seed),
        _split("holdout", holdout, seed),
        _split("test", test, seed),
    )
    return Dataset(CLASSES, a, b, c, digest("scenes", *CLASSES, in_a, in_b, in_c))


def load(config: ScenesData) -> Dataset:
    """The data set of the section `data`."""
    return draw(config.train, config.holdout, config.test, config.seed)
