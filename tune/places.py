"""Where the things of a sweep are in its folder."""

from __future__ import annotations

from pathlib import Path

from semples.run_folder import CONFIG, GALLERY, RESULT

SWEEP_FILE = "sweep.yaml"  # the sweep as it was launched
STORE = "store"  # folder of stage results
LOG = "launch.log"  # what launches with --detach print
BEST = "best.yaml"  # configuration of the best trial


def trial_folder(sweep: Path, number: int) -> Path:
    """Where a trial writes its configuration, result and gallery."""
    return sweep / "trials" / f"{number:04d}"


def trial_files(number: int) -> tuple[Path, ...]:
    """What a trial leaves for its run, by path in the sweep's folder; some may not be there."""
    return tuple(trial_folder(Path(), number) / name for name in (CONFIG, RESULT, GALLERY, "error.txt"))
