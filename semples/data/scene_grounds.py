"""Backgrounds of the scenes, drawn: float32 (h, w, 3), values about 0 to 255."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

Rng = np.random.Generator

Colour = tuple[int, int, int]


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


def as_colour(colour: np.ndarray) -> Colour:
    """Three numbers as whole ones of 0 to 255."""
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
    sleeper, rail = as_colour(_tint(rng, (62, 42, 28), 10)), as_colour(_tint(rng, (200, 202, 210), 15))
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
    paint, dash = as_colour(_tint(rng, (238, 232, 205), 14)), int(rng.integers(7, 12))
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
    bark = as_colour(_tint(rng, (88, 60, 36), 12))
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
    seam = as_colour(_tint(rng, (84, 50, 24), 8))
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
    mortar, height, width = (
        as_colour(_tint(rng, (196, 184, 170), 12)),
        int(rng.integers(7, 10)),
        int(rng.integers(14, 19)),
    )
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
