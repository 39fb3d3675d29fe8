"""The command `semples`: one run of the method, no search."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from semples.errors import UserError

app = typer.Typer(
    help="SemPLeS, weakly supervised semantic segmentation from image labels: run the whole method once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
scenes_app = typer.Typer(help="The embedded world `scenes` and its miniature CLIP.", no_args_is_help=True)
app.add_typer(scenes_app, name="scenes")

Changes = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys to change, for example match.lambda_b=1.5.")
]


def guard(command: typer.Typer) -> None:
    """Run a command line: a UserError or a full disk is one sentence and exit code 2."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        advice = "make room or choose another folder; finished work is kept"
        print(f"error: {error.filename or 'writing'}: {error.strerror}; {advice}", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """Entry point of `semples`."""
    guard(app)


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="YAML file; without one, the defaults for `scenes`.")] = None,
    changes: Changes = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/run"),
    store: Annotated[Path | None, typer.Option(help="Folder of stage results to share; default OUT/store.")] = None,
) -> None:
    """Run all seven stages, those whose results are stored already excepted.

    Writes into OUT: result.json, config.yaml (every value resolved), masks/ (pseudo masks of the training images),
    gallery.png, and the weights of mask generator, prompts and segmentation network.

    An interrupted run goes on where it was when the same command is given again.
    """
    from semples.config import assignments, load
    from semples.output import CONFIG, GALLERY, RESULT, headline, write_masks, write_run, write_weights
    from semples.pipeline import STAGES, Event
    from semples.pipeline import run as run_pipeline
    from semples.preflight import check
    from semples.store import Store

    words = list(changes or [])
    if config is not None and "=" in str(config) and not config.exists():
        words.insert(0, str(config))
        config = None
    resolved = load(config, assignments(words))
    check(resolved)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        bars: dict[str, TaskID] = {}

        def report(event: Event) -> None:
            if event.stage not in bars:
                bars[event.stage] = progress.add_task(event.stage, total=event.epochs, note="")
            if event.metrics is None:
                note = "  ".join(f"{k} {v:.3f}" for k, v in event.values.items())
                progress.update(bars[event.stage], completed=event.epoch, total=event.epochs, note=note)
                return
            metric = STAGES[event.stage].milestone
            note = f"{metric} {event.metrics[metric]:.1f}" if metric else ""
            total = max(event.epochs, 1)
            progress.update(
                bars[event.stage], completed=total, total=total, note=f"{note}{' (stored)' if event.reused else ''}"
            )

        try:
            result = run_pipeline(resolved, Store(store or out / "store"), report)
        except KeyboardInterrupt:
            print("interrupted; finished stages are kept, the same command goes on from there", file=sys.stderr)
            raise typer.Exit(130) from None
    write_masks(result.folders, out)
    write_weights(result.folders, out)
    write_run(result, out)
    console.print(headline(result.metrics, result.config.selection))
    console.print(f"{out / RESULT}  {out / CONFIG}  {out / GALLERY}", soft_wrap=True)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    run: Annotated[Path, typer.Option(help="Folder of a finished run or of an export.")] = Path("runs/run"),
    out: Annotated[Path, typer.Option(help="Folder for the masks.")] = Path("predictions"),
) -> None:
    """Segment images with the network of a finished run.

    Writes OUT/NAME.png for every image: class indices as a palette PNG in VOC's colours.
    """
    from semples.data.archive import encode_mask
    from semples.data.voc import read_image
    from semples.output import read_run
    from semples.stages import segment
    from semples.training import prepare, resolve_device

    config, result = read_run(run)
    if not (run / segment.WEIGHTS).exists():
        raise UserError(f"{run}: no {segment.WEIGHTS} here; take the weights out of the sweep with semples-tune export")
    if len({path.stem for path in images}) < len(images):
        raise UserError("two of the images have the same name and would overwrite each other's mask; call twice")
    classes = result["classes"]
    runtime = resolve_device(config.runtime.model_copy(update={"device": "auto"}))
    prepare(runtime)
    network = segment.load_network(config.segment, len(classes), run).to(runtime.device)
    out.mkdir(parents=True, exist_ok=True)
    for path in images:
        mask = segment.predict(network, read_image(path), runtime)
        encode_mask(mask).save(out / f"{path.stem}.png")
        found = ", ".join(classes[k - 1] for k in sorted(set(mask.ravel().tolist()) - {0})) or "background only"
        print(f"{out / path.stem}.png  {found}")


@app.command()
def evaluate(
    masks: Annotated[Path, typer.Argument(help="Folder of predicted masks, NAME.png with class indices.")],
    truth: Annotated[Path, typer.Argument(help="Folder of true masks with the same names; 255 is ignored.")],
) -> None:
    """mIoU and IoU a class of a folder of masks against true ones."""
    import numpy as np

    from semples.data.voc import read_mask
    from semples.metrics import confusion, iou

    names = sorted(path.name for path in masks.glob("*.png"))
    if not names:
        raise UserError(f"{masks}: no NAME.png here; give a folder of predicted masks")
    pairs = [(read_mask(truth / name), read_mask(masks / name)) for name in names]
    for name, (true, predicted) in zip(names, pairs, strict=True):
        if true.shape != predicted.shape:
            raise UserError(f"{masks / name}: size {predicted.shape} differs from the true mask's {true.shape}")
    classes = max(int(m[m != 255].max(initial=0)) for pair in pairs for m in pair)
    per_class = iou(np.sum([confusion(true, predicted, classes) for true, predicted in pairs], axis=0))
    for k, value in enumerate(per_class):
        print(f"{'background' if k == 0 else f'class {k}':<12} {value:6.2f}")
    print(f"{'mIoU':<12} {np.nanmean(per_class):6.2f}   over {len(names)} masks")


@scenes_app.command()
def write(
    folder: Annotated[Path, typer.Argument(help="New folder; gets the layout of PASCAL VOC.")],
    train: Annotated[int, typer.Option(help="Training images.")] = 480,
    holdout: Annotated[int, typer.Option(help="Images whose masks may choose.")] = 64,
    test: Annotated[int, typer.Option(help="Test images.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed that they are drawn from.")] = 0,
) -> None:
    """Draw scenes and write them as PNG files in the layout of PASCAL VOC, with a configuration that runs on them."""
    import yaml

    from semples.data import scenes, voc

    data = scenes.load(train, holdout, test, seed)
    voc.write(data, folder)
    section = {
        "kind": "voc", "root": str(folder.resolve()), "classes": list(data.classes), "holdout": holdout, "seed": seed,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": section}, sort_keys=False))
    print(f"{train + holdout + test} scenes in {folder}; run the method on them with: semples run {folder}/config.yaml")


@scenes_app.command()
def pretrain(
    out: Annotated[Path | None, typer.Option(help="Folder for weights and figures; default: into the package.")] = None,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 2000,
    batch: Annotated[int, typer.Option(help="Pictures a step.")] = 128,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-3,
    pool: Annotated[int, typer.Option(help="Different pictures.")] = 16000,
    seed: Annotated[int, typer.Option(help="Seed of pictures and weights.")] = 0,
) -> None:
    """Train the miniature CLIP from captioned scenes (about 6 minutes on two cores) and measure what it can do."""
    from semples.clip import MINIATURE_FOLDER
    from semples.pretrain import accept, as_clip, save, train

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=steps, loss=float("nan"))
        model = train(
            steps, batch, lr, pool, seed, lambda step, loss: progress.update(bar, completed=step + 1, loss=loss)
        )
    figures = accept(as_clip(model))
    target = out or MINIATURE_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    save(model, figures, target)
    for name, value in figures.items():
        print(f"{name:<26} {value:.3f}")
