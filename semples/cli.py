"""The command `semples`: one run of the method, no search."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from json import dumps, loads
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from semples.errors import UserError
from semples.guard import guard

if TYPE_CHECKING:
    from semples.config import Config
    from semples.pipeline.run import Event
    from semples.store import Store

    class Report(Protocol):
        def __call__(self, event: Event, heading: str = "") -> None: ...


app = typer.Typer(
    help="SemPLeS, weakly supervised semantic segmentation from image labels: run the whole method once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
scenes_app = typer.Typer(help="The built-in world `scenes` and its miniature CLIP.", no_args_is_help=True)
app.add_typer(scenes_app, name="scenes")
data_app = typer.Typer(help="Your own images: what a run would do with them.", no_args_is_help=True)
app.add_typer(data_app, name="data")
store_app = typer.Typer(help="Stored stage results: how much there is, whether it is sound.", no_args_is_help=True)
app.add_typer(store_app, name="store")


def home(path: Path | None) -> Path | None:
    """A path with ~ as a shell reads it, which does not see it in --out=~/x. Raises UserError for ~somebody unknown."""
    try:
        return path and path.expanduser()
    except RuntimeError:
        raise UserError(f"{path}: nobody has this home; give the whole path") from None


def amount(number: float | None) -> float | None:
    """A number of GB. Raises UserError where it is none."""
    if number is not None and not (math.isfinite(number) and number > 0):
        raise UserError(f"--quota {number}: give a number of GB above 0")
    return number


ConfigFile = Annotated[
    Path | None,
    typer.Argument(
        help="YAML file, or a preset: voc, coco, scenes, scenes-weaktr; without one, the defaults for `scenes`."
    ),
]
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys to change, for example match.lambda_b=1.5.")
]
StorePlace = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="PLACE", help="Stage results to share: a folder or a URL (s3://...); default OUT/store."
    ),
]
StoreQuota = Annotated[
    float | None,
    typer.Option(
        "--quota", help="GB that the store may take; what is least worth keeping goes first.", callback=amount
    ),
]
Place = Annotated[str, typer.Argument(metavar="PLACE", help="A store: a folder or a URL of fsspec.")]

KeyPrefix = Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin like this, masks. for one.")]
SchemaAsJson = Annotated[bool, typer.Option("--json", help="Print the JSON schema of the file instead, for editors.")]

STORE, TABLE = "store", "ablation.md"
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
MOST_PROBLEMS = 20
MOST_SCENES, MOST_SEED = 100_000, 2**32 - 1
LOG_EVERY = 60.0  # seconds between two lines of progress where there is no terminal


def _read(config: Path | None, changes: list[str] | None) -> Config:
    """The configuration of the command line: a file or a preset, and KEY=VALUE words, of which the first may stand in
    the place of the file."""
    from semples.config import assignments, find_config, load

    words = list(changes or [])
    if config is not None and "=" in str(config) and not os.path.exists(config):  # a long word is no file name
        words.insert(0, str(config))
        config = None
    return load(find_config(config) if config else None, assignments(words))


def _apart(config: Config, place: str | None, out: Path) -> str:
    """The folder of the data, "" where they are drawn. Raises UserError where a store in a folder overlaps it, or what
    is written into `out`."""
    from semples.folders import overlap
    from semples.lease import local_folder
    from semples.output import MASKS

    root: str = getattr(config.data, "root", "")
    folder = local_folder(place) if place else None
    for used in filter(None, (root, str(out / MASKS))):
        if folder and overlap(folder, Path(used)):
            what = "the data in" if used == root else "what is written into"
            raise UserError(f"--store {place}: overlaps {what} {used}; choose another folder")
    return root


@contextmanager
def _progress(console: Console) -> Iterator[Report]:
    """A bar a stage (under a heading, where there are several runs), in a log lines now and then and at a stage's
    end."""
    from semples.pipeline.graph import STAGES

    log, columns = not console.is_terminal, (*COLUMNS, TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, disable=log) as progress:
        bars: dict[str, TaskID] = {}
        spoke = time.monotonic()

        def report(event: Event, heading: str = "") -> None:
            nonlocal spoke
            name, total, done = f"{heading}{event.stage}", max(event.epochs, 1), event.epoch
            if name not in bars:
                bars[name] = progress.add_task(name, total=total, note="")
            if event.waiting:
                note = f"waiting for {event.waiting}, which computes it"
            elif event.metrics is None:
                note = "  ".join(f"{k} {v:.3f}" for k, v in event.values.items())
            else:
                metric, done = STAGES[event.stage].milestone, total
                note = f"{metric} {event.metrics[metric]:.1f}" if metric in event.metrics else ""  # without masks
                note += " (stored)" if event.reused else ""
            progress.update(bars[name], completed=done, total=total, note=note)
            if log and (event.metrics is not None or time.monotonic() - spoke > LOG_EVERY):
                console.print(
                    f"{name:<8} {done}/{total}  {note.strip()}".rstrip(), soft_wrap=True, highlight=False, markup=False
                )
                spoke = time.monotonic()

        yield report


def main() -> None:
    """Entry point of `semples`."""
    guard(app)


@app.command()
def run(
    config: ConfigFile = None,
    changes: Changes = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.", callback=home)] = Path("runs/run"),
    place: StorePlace = None,
    quota: StoreQuota = None,
    reuse: Annotated[
        Literal["exact", "declared"],
        typer.Option(
            help="exact: take a stored result only where code, libraries and configuration are those that made it; "
            "declared: where the configuration is, whatever the code was, and say so in result.json."
        ),
    ] = "exact",
) -> None:
    """Run all seven stages, skipping those whose results are stored already.

    Writes into OUT: result.json, config.yaml (every value resolved), masks/ (pseudo masks of the training images),
    gallery.png, and the weights of mask generator, prompts and segmentation network.

    An interrupted run goes on where it was when the same command is given again.
    """
    from semples.folders import claim
    from semples.output import CONFIG, GALLERY, MASKS, RESULT, WEIGHTS, headline, write_masks, write_run, write_weights
    from semples.pipeline.run import run as run_pipeline
    from semples.preflight import check
    from semples.store import open_store

    resolved = _read(config, changes)
    check(resolved)
    written = (RESULT, CONFIG, GALLERY, f"{MASKS}/", *WEIGHTS.values())
    folder = claim(out, "run", written, _apart(resolved, place, out))
    console = Console(markup=False)
    with open_store(place or str(out / STORE), out / STORE, quota) as store:
        with _progress(console) as report:
            result = run_pipeline(resolved, store, report, reuse=reuse)
        with folder.publishing(replaced=(MASKS,), last=RESULT) as new:
            write_masks(result.folders, new)
            write_weights(result.folders, new)
            write_run(result, new)
    console.print(headline(result.metrics, result.config))
    console.print(f"{out / RESULT}  {out / CONFIG}  {out / GALLERY}", soft_wrap=True)


@app.command()
def ablate(
    config: ConfigFile = None,
    changes: Changes = None,
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ...: the more, the narrower the intervals.", min=1)] = 5,
    out: Annotated[Path, typer.Option(help="Folder for the results.", callback=home)] = Path("runs/ablation"),
    place: StorePlace = None,
    json: Annotated[
        Path | None, typer.Option(help="Also write the figures, flat, to this file.", callback=home)
    ] = None,
) -> None:
    """Measure what every step of the method adds, over seeds.

    Each seed is a whole run, and the network once more on true masks, the bound. Prints a table with means, spreads and
    paired differences, and writes it to OUT/ablation.md.

    An interrupted ablation goes on where it was when the same command is given again.
    """
    from semples import ablation
    from semples.folders import claim
    from semples.preflight import check
    from semples.store import open_store

    resolved = _read(config, changes)
    check(resolved)
    folder = claim(out, "ablation", (TABLE,), _apart(resolved, place, out))
    if json:
        _writable(json)
    console = Console(markup=False)
    with open_store(place or str(out / STORE), out / STORE) as store, _progress(console) as report:
        values = ablation.ablate(resolved, range(seeds), store, lambda seed, event: report(event, f"{seed} "))
    text = ablation.table(values, resolved.selection)
    with folder.publishing() as new:
        (new / TABLE).write_text(text + "\n")
    if json:
        new = json.with_name(f".{json.name}.new")
        new.write_text(dumps(ablation.figures(values), indent=2) + "\n")
        new.replace(json)
    print(text)


@app.command()
def stages(
    config: ConfigFile = None,
    changes: Changes = None,
    out: Annotated[Path, typer.Option(help="Folder of the run, whose store is looked into.", callback=home)] = Path(
        "runs/run"
    ),
    place: StorePlace = None,
    why: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Two keys, or their first characters: say why they differ, and nothing else."),
    ] = None,
) -> None:
    """What a run would reuse: every stage with the key of its result, whether it is stored, being computed or missing,
    its size, the time since it was last used, and the seconds that it took to compute.

    Keys of results that are stored, and of this configuration, can be compared with --why. Results that other code or
    other versions of libraries made of the same configuration and data are counted: they are not reused, unless a run
    says --reuse declared.
    """
    import time

    from rich.table import Column, Table

    from semples.data import load_data
    from semples.pipeline.graph import STAGES
    from semples.pipeline.keys import declared, differences, key_parts, recorded
    from semples.preflight import check
    from semples.results import make_key
    from semples.training import resolve_device

    resolved = _read(config, changes)
    check(resolved)
    resolved = resolved.model_copy(update={"runtime": resolve_device(resolved.runtime)})
    parts = key_parts(resolved, load_data(resolved.data, resolved.selection).fingerprint)
    with _looking(place or str(out / STORE)) as store:
        stored = {entry.key: entry for entry in store.entries()}
        of_this = {make_key(**own): own for own in parts.values()}
        known = recorded(stored.values()) | of_this
        if why:
            one, other = (known[_complete(prefix, known)] for prefix in why)
            print("\n".join(differences(one, other, known)) or "they are the same key")
            return
        table = Table("stage", Column("key", no_wrap=True), "reads", "state", "MB", "last used", "seconds")
        for name, own in parts.items():
            key = make_key(**own)
            entry, owner = stored.get(key), store.there.owner(key)
            # an owner is host, process and a token
            row = [f"computed now by {owner.rpartition('-')[0]}" if owner else "missing", "", "", ""]
            if entry:
                age = f"{max(0.0, time.time() - entry.used) / 3600:.1f} h ago"
                row = ["stored", f"{entry.mark['bytes'] / 1e6:.2f}", age, f"{entry.mark['seconds']:.1f}"]
            table.add_row(name, key[:12], ", ".join(STAGES[name].inputs(resolved)), *row)
    console = Console(markup=False)
    console.print(table)
    same = {declared(own, known) for own in of_this.values()}
    if others := sum(declared(own, known) in same for key, own in known.items() if key not in of_this):
        console.print(
            f"{others} more result{'s' * (others > 1)} of this configuration that other code or other versions made; "
            "--why says what differs, and `semples run --reuse declared` takes them as they are",
            soft_wrap=True,
        )


@app.command("keys")
def show_keys(prefix: KeyPrefix = "", json: SchemaAsJson = False) -> None:
    """Every key of a configuration: its values, its default and what it means."""
    from semples.keys import config_schema, show

    show(config_schema(), config_schema(), prefix, json)


def _complete(prefix: str, keys: Iterable[str]) -> str:
    """The only key that begins like this."""
    found = [key for key in keys if key.startswith(prefix)]
    if len(found) != 1:
        raise UserError(
            f"--why {prefix}: {len(found)} known keys begin like this; `semples stages` and `store ls` show them"
        )
    return found[0]


def _writable(file: Path) -> None:
    """Raise UserError, before work begins, where a file of figures cannot be written or is something else."""
    if os.path.lexists(file):
        try:
            flat = file.is_file() and not file.is_symlink() and loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            flat = None
        if not (isinstance(flat, dict) and {"seeds", "segment", "refine_minus_match"} <= {*flat}):
            raise UserError(f"--json {file}: is there and holds no figures of an ablation; name another file")
    file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UserError(f"--json {file}: cannot be written; name another file")


@contextmanager
def _looking(place: str, reading: bool = True) -> Iterator[Store]:
    """The store at a place; copies of what is read of a URL go when the command ends."""
    from tempfile import TemporaryDirectory

    from semples.store import open_store

    with TemporaryDirectory() as copies, open_store(place, Path(copies), reading=reading) as store:
        yield store


def _existing(place: str, reading: bool = True) -> AbstractContextManager[Store]:
    """The store at a place, which must be there."""
    from semples.lease import local_folder
    from semples.store import is_store

    folder = local_folder(place)
    if folder and not folder.is_dir():
        raise UserError(f"{place}: no such folder; name the store of a run or a sweep, for example runs/run/store")
    if folder and not is_store(folder):
        raise UserError(f"{place}: no store; name that of a run or a sweep, for example runs/run/store")
    return _looking(place, reading)


@store_app.command("ls")
def list_store(place: Place) -> None:
    """Every result: stage, key, size, time since it was last used, seconds that it took to compute."""
    import time

    from rich.table import Column, Table

    table = Table("stage", Column("key", no_wrap=True), "MB", "last used", "seconds")
    with _existing(place) as store:
        entries, damaged = store.survey()
        for entry in entries:
            age = f"{max(0.0, time.time() - entry.used) / 3600:.1f} h ago"
            mark = entry.mark
            stage, size = mark.get("stage", "-"), f"{mark['bytes'] / 1e6:.2f}"
            table.add_row(stage, entry.key[:12], size, age, f"{mark['seconds']:.1f}")
    Console(markup=False).print(table)
    _tell_damaged(place, damaged)


@store_app.command("du")
def usage(place: Place) -> None:
    """Results, MB and compute seconds of every stage."""
    from rich.table import Table

    from semples.pipeline.graph import STAGES

    table = Table("stage", "results", "MB", "seconds")
    with _existing(place) as store:
        entries, damaged = store.survey()
    for name in (*STAGES, "all"):
        marks = [entry.mark for entry in entries if name in (entry.mark.get("stage"), "all")]
        size, seconds = (sum(mark[what] for mark in marks) for what in ("bytes", "seconds"))
        table.add_row(name, str(len(marks)), f"{size / 1e6:.2f}", f"{seconds:.1f}")
    Console(markup=False).print(table)
    _tell_damaged(place, damaged)


def _tell_damaged(place: str, keys: list[str]) -> None:
    if keys:
        print(f"damaged and not counted: {', '.join(key[:12] for key in keys)}; semples store verify {quote(place)}")


@store_app.command()
def verify(place: Place) -> None:
    """Read every result and compare it with the digests of when it was written; a damaged one is removed (it will be
    computed again when it is needed). Exit code 2 if there was one."""
    with _existing(place, reading=False) as store:
        sound = store.verify()
    bad = [key for key, good in sound.items() if not good]
    print(f"{len(sound) - len(bad)} results are as they were written")
    if bad:
        raise UserError(f"{place}: {len(bad)} damaged results were removed: {', '.join(key[:12] for key in bad)}")


@store_app.command()
def prune(
    place: Place,
    keep: Annotated[float, typer.Option(help="GB to keep; what is least worth it goes first.", min=0)],
) -> None:
    """Drop results until at most --keep GB are left, and what interrupted runs left behind. What is in use stays."""
    from semples.store import GB

    with _existing(place, reading=False) as store:
        dropped = store.prune(keep * GB)
    print(f"dropped {len(dropped)} results, {sum(entry.mark['bytes'] for entry in dropped) / 1e6:.2f} MB")


@app.command()
def prompts(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run or of an export.")],
    top: Annotated[int, typer.Option(help="Nouns per prompt.", min=1)] = 5,
) -> None:
    """What the learned prompts of a finished run mean: for every class the nearest nouns, with cosines.

    The nouns are the backgrounds of the scenes and the stuff classes of COCO, read as "a photo of NOUN.".
    """
    import torch
    from rich.table import Table

    from semples.clip import load_clip
    from semples.output import read_run
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


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    run: Annotated[Path, typer.Option(help="Folder of a finished run or of an export.")] = Path("runs/run"),
    out: Annotated[Path, typer.Option(help="Folder for the masks.", callback=home)] = Path("predictions"),
) -> None:
    """Segment images with the network of a finished run.

    Writes OUT/NAME.png for every image: class indices as a palette PNG in VOC's colours.
    """
    from semples.data.archive import encode_mask
    from semples.data.files import read_image
    from semples.folders import claim
    from semples.output import read_run
    from semples.stages import segment
    from semples.training import prepare, resolve_device

    config, result = read_run(run)
    if not (run / segment.WEIGHTS).exists():
        raise UserError(f"{run}: no {segment.WEIGHTS} here; take the weights out of the sweep with semples-tune export")
    if len({path.stem for path in images}) < len(images):
        raise UserError("two of the images have the same name and would overwrite each other's mask; call twice")
    if gone := next((path for path in images if not path.is_file()), None):
        raise UserError(f"{gone}: no such image file")
    folder = claim(out, "prediction", [f"{path.stem}.png" for path in images])
    classes = result["classes"]
    runtime = resolve_device(config.runtime.model_copy(update={"device": "auto"}))
    prepare(runtime)
    network = segment.load_network(config.segment, len(classes), run).to(runtime.device)
    for path in images:
        mask = segment.predict(network, read_image(path), runtime, config.segment.test)
        with folder.publishing() as new:
            encode_mask(mask).save(new / f"{path.stem}.png")
        found = ", ".join(classes[k - 1] for k in sorted(set(mask.ravel().tolist()) - {0})) or "background only"
        print(f"{out / path.stem}.png  {found}")


@app.command()
def evaluate(
    masks: Annotated[Path, typer.Argument(help="Folder of predicted masks, NAME.png with class indices.")],
    truth: Annotated[Path, typer.Argument(help="Folder of true masks with the same names; 255 is ignored.")],
    run: Annotated[Path | None, typer.Option(help="Folder of a run, for the names of the classes.")] = None,
) -> None:
    """mIoU, precision, recall and IoU per class of a folder of masks against true ones.

    255 in a predicted mask counts as background.
    """
    import numpy as np
    from rich.table import Table

    from semples.data.files import read_mask
    from semples.metrics import confusion, iou, precision, recall
    from semples.output import read_run

    def names_in(folder: Path) -> set[str]:
        found = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
        return {name for name in found if name.lower().endswith(".png") and not name.startswith(".")}

    files = [masks / name for name in sorted(names_in(masks))]
    if not files:
        raise UserError(f"{masks}: no NAME.png here; give a folder of predicted masks")
    names = ["background", *(read_run(run)[1]["classes"] if run else [])]
    counts = np.zeros((256, 256), np.int64)
    for path in files:
        true, predicted = read_mask(truth / path.name), read_mask(path)
        if true.shape != predicted.shape:
            raise UserError(f"{path}: size {predicted.shape} differs from the true mask's {true.shape}")
        counts += confusion(true, predicted, 255)
    classes = 1 + max(int(np.flatnonzero(counts.sum(axis)).max(initial=0)) for axis in (0, 1))
    counts = counts[:classes, :classes]
    figures = [iou(counts), precision(counts), recall(counts)]
    table = Table("class", "IoU", "precision", "recall")
    for k, row in enumerate(zip(*figures, strict=True)):
        table.add_row(names[k] if k < len(names) else f"class {k}", *(f"{value:.2f}" for value in row))
    table.add_section()
    table.add_row(f"mean over {len(files)} masks", *(f"{np.nanmean(values):.2f}" for values in figures))
    if left := len(names_in(truth) - names_in(masks)):
        print(f"{left} true masks have no prediction and are not counted")
    Console(markup=False).print(table)


@data_app.command()
def check(
    root: Annotated[Path, typer.Argument(help="Folder in a layout of VOC 2012, COCO 2014, or images/ and labels.csv.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the section `data`, for example holdout=20."),
    ] = None,
) -> None:
    """Read every label, image and mask of a data set and say what a run would do with it.

    Ends with the section to put into a configuration; with exit code 2 when something must be put right first.
    """
    import shlex

    import yaml
    from rich.table import Table

    from semples.config import assignments
    from semples.data.check import check as check_data
    from semples.data.check import recognise

    words = {key.removeprefix("data."): value for key, value in assignments(changes or []).items()}
    section = recognise(root, words)
    with Progress(*COLUMNS) as progress:
        bar = progress.add_task("reading")
        report = check_data(section, lambda done, total: progress.update(bar, completed=done, total=total))
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(f"layout: {report.listing.layout}; image labels from {report.listing.labels_from}", soft_wrap=True)
    table = Table("class", *(f"{part} images" for part in report.counts))
    for k, name in enumerate(report.listing.classes):
        table.add_row(f"{k + 1} {name}", *(str(counts[k]) for counts in report.counts.values()))
    table.add_section()
    table.add_row("all", *(str(images) for images, _ in report.images.values()))
    table.add_row("with a true mask", *(str(masks) for _, masks in report.images.values()))
    console.print(table)
    train, holdout, test = (report.images[part] for part in ("train", "holdout", "test"))
    masks = train[1] or holdout[1] or test[1]
    if masks:
        rest = (
            f"choose on the masks of {holdout[0]}, and report pseudo masks on {train[1]} of the training images and "
            f"the network on {test[1]} test images"
        )
    else:
        rest = f"choose by CLIP's judgement of {holdout[0]}: no image has a mask, so it needs selection=proxy"
    console.print(
        f"A run would train on {train[0]} images by their labels alone, {rest}.\nIn the configuration:\n",
        soft_wrap=True,
    )
    plain = {
        key: value for key, value in section.model_dump(mode="json", exclude_defaults=True).items() if key != "kind"
    }
    print(
        yaml.safe_dump({"data": {"kind": section.kind, **plain}}, sort_keys=False, default_flow_style=None, width=120)
    )
    preset = "coco" if section.kind == "coco" else "voc"
    given = f"data.kind={section.kind} data.root={shlex.quote(str(root))}{'' if masks else ' selection=proxy'}"
    print(f"For photographs begin with the networks of a preset: semples run {preset} {given}\n")
    for remark in report.remarks:
        console.print(f"remark: {remark}", soft_wrap=True)
    if report.problems:
        few = report.problems[:MOST_PROBLEMS]
        more = len(report.problems) - len(few)
        raise UserError(*few, *([f"and {more} more"] if more else []))
    console.print("nothing is missing")


@scenes_app.command()
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
    from semples.output import CONFIG

    mine = claim(folder, "data set", (*voc.WRITTEN, CONFIG))
    data = scenes.draw(train, holdout, test, seed)
    section = {
        "kind": "voc", "root": str(folder.resolve()), "classes": list(data.classes), "holdout": holdout, "seed": seed,
    }  # fmt: skip
    with mine.publishing(replaced=voc.WRITTEN) as new:
        voc.write(data, new)
        (new / CONFIG).write_text(strict_yaml.dumps({**FORMAT.stamp(), "data": section}))
    print(f"{train + holdout + test} scenes in {folder}; run the method on them with: semples run {folder}/config.yaml")


@scenes_app.command()
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

    from semples import pretrain
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
