"""`semples scenes`: the built-in world as files, and its networks trained again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from semples.commands.options import home

app = typer.Typer(help="The built-in world `scenes` and its miniature CLIP.", no_args_is_help=True)
MOST_SCENES, MOST_SEED = 100_000, 2**32 - 1


@app.command()
def write(
    folder: Annotated[Path, typer.Argument(help="New folder; gets the layout of PASCAL VOC.")],
    train: Annotated[int, typer.Option(help="Training images.", min=1, max=MOST_SCENES)] = 480,
    holdout: Annotated[int, typer.Option(help="Images whose masks may choose.", min=1, max=MOST_SCENES)] = 64,
    test: Annotated[int, typer.Option(help="Test images.", min=1, max=MOST_SCENES)] = 128,
    seed: Annotated[int, typer.Option(help="Seed that they are drawn from.", min=0, max=MOST_SEED)] = 0,
) -> None:
    """Draw scenes and write them as PNG files in the layout of PASCAL VOC, with a configuration that runs on them."""
    from semples import strict_yaml
    from semples.config import FORMAT
    from semples.data import scenes, voc
    from semples.folders import claim
    from semples.run_folder import CONFIG

    mine = claim(folder, "data set", (*voc.WRITTEN, CONFIG))
    data = scenes.draw(train, holdout, test, seed)
    section = {
        "kind": "voc", "root": str(folder.resolve()), "classes": list(data.classes), "holdout": holdout, "seed": seed,
    }  # fmt: skip
    with mine.publishing(replaced=voc.WRITTEN) as new:
        voc.write(data, new)
        (new / CONFIG).write_text(strict_yaml.dumps({**FORMAT.stamp(), "data": section}))
    print(f"{train + holdout + test} scenes in {folder}; run the method on them with: semples run {folder}/config.yaml")


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder for weights and figures.", callback=home)] = Path("runs/pretrained"),
    only: Annotated[Literal["clip", "backbone"] | None, typer.Option(help="One of the two; default: both.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Training steps, to try it out; default: the recipe's.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of pictures and weights.", min=0, max=MOST_SEED)] = 0,
) -> None:
    """Train the miniature CLIP from captioned scenes and WeakTr's vision transformer from the same pictures (about 40
    minutes on two cores) and measure what they can do."""
    from dataclasses import replace

    from rich.progress import Progress, TaskID, TextColumn

    from semples import pretrain
    from semples.commands.progress import COLUMNS
    from semples.folders import claim
    from semples.pretrained import MINIATURE_WEIGHTS, SCENES_VIT_WEIGHTS

    folder = claim(out, "network", (pretrain.ACCEPTED, MINIATURE_WEIGHTS.name, SCENES_VIT_WEIGHTS.name))
    with Progress(*COLUMNS, TextColumn("loss {task.fields[loss]:.3f}")) as progress:
        for name, recipe, weights in (
            ("clip", pretrain.CLIP_RECIPE, MINIATURE_WEIGHTS),
            ("backbone", pretrain.BACKBONE_RECIPE, SCENES_VIT_WEIGHTS),
        ):
            if only not in (None, name):
                continue
            bar = progress.add_task(name, loss=float("nan"))

            def tell(step: int, of: int, loss: float, bar: TaskID = bar) -> None:
                progress.update(bar, completed=step, total=of, loss=loss)

            own = replace(recipe, steps=steps or recipe.steps)
            if name == "clip":
                model = pretrain.train_clip(own, seed, tell)
                figures = pretrain.accept_clip(pretrain.as_clip(model))
            else:
                model = pretrain.train_backbone(own, seed, tell)
                figures = pretrain.accept_backbone(model)
            with folder.publishing() as new:
                pretrain.save(model, figures, new / weights.name, earlier=out)
            for figure, value in figures.items():
                progress.console.print(f"{figure:<26} {value:.3f}")
