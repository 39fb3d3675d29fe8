"""What each step of the method adds: a configuration over seeds, measured after every step (`semples ablate`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from semples import generators
from semples.config import Config, with_changes
from semples.data import load_data
from semples.errors import UserError
from semples.generators import Generator
from semples.pipeline.graph import refiners, reporting
from semples.pipeline.run import Event, Result, run
from semples.stages.heatmaps import reported_cam_miou
from semples.statistics import spread
from semples.store import Store

STEPS = {
    "classify_cam": "CAM after classify",
    "match_cam": "CAM after match",
    "refine_cam": "CAM after prompts and refine",
    "heatmaps": "heatmaps, all scales and flip",
    "masks_without_crf": "pseudo masks without CRF",
    "masks": "pseudo masks with CRF",
    "segment": "segmentation network, test set",
    "segment_true_masks": "the same network trained on true masks (bound)",
}
DIFFERENCES = {
    "match_minus_classify": ("match_cam", "classify_cam"),
    "refine_minus_match": ("refine_cam", "match_cam"),
    "masks_minus_masks_without_crf": ("masks", "masks_without_crf"),
    "segment_minus_masks": ("segment", "masks"),
}


def ablate(
    config: Config, seeds: Sequence[int], store: Store, report: Callable[[int, Event], None]
) -> dict[str, list[float]]:
    """mIoU in percent after every step of STEPS, one value a seed.

    Each seed is a run of the configuration, the masks once more without CRF, and the network once more on true masks;
    finished stages come from the store. report(seed, event) tells of the progress. Raises UserError for data without
    the true masks to measure by.
    """
    data = load_data(config.data, config.selection)
    if not (data.train.annotated and data.test.annotated):
        raise UserError("an ablation needs true masks of training and test images, and this data set lacks them")
    values: dict[str, list[float]] = {step: [] for step in STEPS}
    measuring = reporting(config, "masks") or "masks"
    for seed in seeds:

        def tell(event: Event, seed: int = seed) -> None:
            report(seed, event)

        own = with_changes(config, {"seed": seed, "segment.train_on": "pseudo"}, "ablation")
        result = run(own, store, tell)
        full = result.metrics
        without = run(with_changes(own, {"masks.crf.iterations": 0}, "ablation"), store, tell, until=measuring).metrics
        bound = run(with_changes(own, {"segment.train_on": "ground_truth"}, "ablation"), store, tell).metrics
        heatmaps = refiners(own)["heatmaps"]
        cams = {
            f"{name}_cam": reported_cam_miou(generator_of(result, name), result.config, data)
            for name in ("classify", "match", "refine")
        }
        of_seed = {
            **cams,
            "heatmaps": full.get(f"{heatmaps}/cam_miou", full["heatmaps/cam_miou"]),
            "masks_without_crf": without["pseudo_miou"],
            "masks": full["pseudo_miou"],
            "segment": full["seg_miou"],
            "segment_true_masks": bound["seg_miou"],
        }
        for step, value in of_seed.items():
            values[step].append(value)
    return values


def generator_of(result: Result, stage: str) -> Generator:
    """The mask generator as a stage of a run left it."""
    config, data = result.config, result.data
    return generators.load(config.generator, data.num_classes, result.folders[stage], config.runtime.device)


def differences(values: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """The paired differences of DIFFERENCES, one a seed."""
    return {
        name: [a - b for a, b in zip(values[more], values[less], strict=True)]
        for name, (more, less) in DIFFERENCES.items()
    }


def table(values: Mapping[str, Sequence[float]], selection: str) -> str:
    """Markdown: a row a step, then a row a paired difference."""
    seeds = len(values["masks"])
    lines = [f"| mIoU (%), {seeds} seeds, chosen by {selection} | mean | spread (min - max) |", "|---|---|---|"]
    for step, label in STEPS.items():
        s = spread(values[step])
        lines.append(f"| {label} | {s.mean:.1f} | {s.minimum:.1f} - {s.maximum:.1f} |")
    lines += ["", "| paired difference | mean | 95% interval |", "|---|---|---|"]
    for name, pairs in differences(values).items():
        s = spread(pairs)
        label = name.replace("_minus_", " - ").replace("_", " ")
        lines.append(f"| {label} | {s.mean:+.1f} | {s.low:+.1f} to {s.high:+.1f} |")
    return "\n".join(lines)


def figures(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Flat: the mean of every step under its name, with `_min` and `_max`; of every difference also `_low` and `_high`,
    the ends of the paired 95% interval (left out with a single seed)."""
    flat: dict[str, float] = {"seeds": len(values["masks"])}
    for name, of_name in {**values, **differences(values)}.items():
        s = spread(of_name)
        flat |= {name: s.mean, f"{name}_min": s.minimum, f"{name}_max": s.maximum}
        if name in DIFFERENCES and math.isfinite(s.low):
            flat |= {f"{name}_low": s.low, f"{name}_high": s.high}
    return flat
