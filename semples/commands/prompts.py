"""`semples prompts`: what learned prompts mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from semples.errors import UserError


def prompts(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run or of an export.")],
    top: Annotated[int, typer.Option(help="Nouns per prompt.", min=1)] = 5,
) -> None:
    """What the learned prompts of a finished run mean: for every class the nearest nouns, with cosines.

    The nouns are the backgrounds of the scenes and the stuff classes of COCO, read as "a photo of NOUN.".
    """
    import torch

    from semples.clip import load_clip
    from semples.run_folder import read_run
    from semples.stages.prompts import WEIGHTS, load_prompts
    from semples.vocabulary import NOUNS

    config, result = read_run(run)
    if not (run / WEIGHTS).exists():
        raise UserError(f"{run}: no {WEIGHTS} here; take the weights out of the sweep with semples-tune export")
    clip = load_clip(config.clip)
    with torch.no_grad():
        width = clip.initial_prompts((1,), "uniform").shape[-1]
        u = clip.embed_prompts(load_prompts(run, len(result["classes"]), width))
        nouns, labels = clip.embed_labels(NOUNS), clip.embed_labels(result["classes"])
    table = Table("class", "prompt", "nearest nouns", "class itself")
    for k, name in enumerate(result["classes"]):
        for j, prompt in enumerate(u[k]):
            best = (nouns @ prompt).topk(min(top, len(NOUNS)))
            near = ", ".join(
                f"{NOUNS[i]} {c:.2f}" for c, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            )
            table.add_row(name if j == 0 else "", str(j + 1), near, f"{float(labels[k] @ prompt):.2f}")
    Console(markup=False).print(table)
