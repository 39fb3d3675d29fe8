"""Objects of the scenes, drawn on transparent ground."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from semples.data.scene_grounds import Colour, Rng, as_colour

OVERSAMPLE = 4  # objects are drawn this many times larger, then averaged down


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
    return as_colour(body), as_colour(0.62 * body)


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
