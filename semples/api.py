"""What `import semples` offers besides configurations: a run of the method, and predictions of its network."""

from __future__ import annotations

import math
import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semples import by_image
from semples.config import Config, load
from semples.data.files import read_image
from semples.data.png_archive import encode_mask
from semples.errors import UserError
from semples.folders import claim
from semples.output import WEIGHTS, write_masks, write_run, write_weights
from semples.pipeline.graph import Reuse, latest, training_masks
from semples.pipeline.run import Event, Result
from semples.pipeline.run import run as run_pipeline
from semples.preflight import check
from semples.run_folder import CONFIG, GALLERY, MASKS, RESULT, STORE, data_folder, read_run
from semples.stages import segment
from semples.store import open_store
from semples.training import prepare, resolve_device

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # set by semples.training.prepare
_turn = threading.RLock()


@contextmanager
def _alone() -> Iterator[None]:
    """The process's random streams and the settings of torch for one computation at a time, which gives them back as
    they were."""
    with _turn, torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        streams = random.getstate(), np.random.get_state()
        threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
        mode, fill = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        workspace = os.environ.get(WORKSPACE)
        try:
            yield
        finally:
            random.setstate(streams[0])
            np.random.set_state(streams[1])
            torch.set_num_threads(threads)
            torch.set_deterministic_debug_mode(mode)
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            torch.backends.cudnn.benchmark = benchmark
            if workspace is None:
                os.environ.pop(WORKSPACE, None)


def run(
    config: str | Path | Mapping[str, Any] | Config | None = None,
    changes: Mapping[str, Any] = {},
    *,
    out: str | Path = "runs/run",
    store: str | Path | None = None,
    quota: float | None = None,
    reuse: Reuse = "exact",
    report: Callable[[Event], None] | None = None,
) -> Result:
    """Run all stages of a configuration, except those whose results are stored, and write what they made into `out`:
    what `semples run` does.

    config, changes: see `semples.load`. store: folder or URL of the stage results, `out`/store without one. quota: GB
    (10^9 bytes) that it may take. reuse: "declared" also takes stored results of other code and other versions of
    libraries. report: called after every epoch and every stage.

    The mIoUs of the result are in percent: `result.metrics["pseudo_miou"]`, `result.metrics["seg_miou"]`. A run that
    was interrupted goes on when it is called again. Runs of one process, in whatever threads, take turns, for its
    random streams are one; other threads must not draw from them meanwhile. Raises UserError for what its user can put
    right.
    """
    resolved, folder = load(config, changes), Path(out)
    place = str(store) if store else None
    if quota is not None and not (math.isfinite(quota) and quota > 0):
        raise UserError(f"quota {quota}: give a number of GB above 0")
    with _alone():
        check(resolved)
        written = (RESULT, CONFIG, GALLERY, by_image.FILE, f"{MASKS}/", *WEIGHTS.values())
        own = claim(folder, "run", written, data_folder(resolved, place, folder))
        with open_store(place or str(folder / STORE), folder / STORE, quota) as opened:
            result = run_pipeline(resolved, opened, report or (lambda event: None), reuse=reuse)
            with own.publishing(replaced=(MASKS,), last=RESULT) as new:
                folders = latest(result.config, result.folders)
                write_masks((folders[name] for name in training_masks(resolved) if name in folders), new)
                write_weights(folders, new)
                write_run(result, new)
    return result


@dataclass(frozen=True)
class Prediction:
    """An image, the file of its mask (class indices, 0 = background, as a palette PNG in VOC's colours), and the names
    of the classes in it."""

    image: Path
    mask: Path
    classes: tuple[str, ...]


def predict(
    run: str | Path,
    images: str | Path | Iterable[str | Path],
    out: str | Path = "predictions",
    report: Callable[[Prediction], None] | None = None,
) -> list[Prediction]:
    """Segment image files with the network of a finished run or of an export, and write `out`/NAME.png for each: what
    `semples predict` does.

    report: called after every image. Raises UserError, before anything is written, where the run has no network, an
    image is not there, or two have the same name.
    """
    source, folder = Path(run), Path(out)
    paths = [Path(image) for image in ([images] if isinstance(images, str | Path) else images)]
    config, result = read_run(source)
    if not (source / segment.WEIGHTS).exists():
        raise UserError(
            f"{source}: no {segment.WEIGHTS} here; take the weights out of the sweep with semples-tune export"
        )
    if len({path.stem for path in paths}) < len(paths):
        raise UserError("two of the images have the same name and would overwrite each other's mask; call twice")
    if gone := next((path for path in paths if not path.is_file()), None):
        raise UserError(f"{gone}: no such image file")
    own = claim(folder, "prediction", [f"{path.stem}.png" for path in paths])
    classes = result["classes"]
    predictions = []
    with _alone():
        runtime = resolve_device(config.runtime.model_copy(update={"device": "auto"}))
        prepare(runtime)
        network = segment.load_network(config.segment, len(classes), source).to(runtime.device)
        for path in paths:
            mask = segment.predict(network, read_image(path), runtime, config.segment.test)
            with own.publishing() as new:
                encode_mask(mask).save(new / f"{path.stem}.png")
            found = tuple(classes[k - 1] for k in sorted(set(mask.ravel().tolist()) - {0}))
            predictions.append(Prediction(path, folder / f"{path.stem}.png", found))
            if report:
                report(predictions[-1])
    return predictions
