"""The end of a benchmark: its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def tell(figures: Mapping[str, float], file: Path | None) -> None:
    """Print the figures, and write them into the file where one is given, as a flat object of numbers."""
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}} {value:.3g}")
    if file:
        file.write_text(json.dumps({name: round(float(value), 3) for name, value in figures.items()}, indent=2) + "\n")
