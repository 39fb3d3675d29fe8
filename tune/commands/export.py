"""`semples-tune export`: a trial taken out of its sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semples.commands.options import home
from semples.errors import UserError
from tune.commands.options import Number, Out, chosen_trial, sweep_folder, word


def export(
    to: Annotated[Path, typer.Argument(help="New folder.", callback=home)],
    name: Annotated[str | None, typer.Option(help="Name of the sweep; default: the one launched last.")] = None,
    trial: Number = None,
    out: Out = Path("sweeps"),
) -> None:
    """Copy the best trial, or another one, out of a sweep: configuration, result, gallery and weights.

    `semples run TO/config.yaml` repeats it, `semples predict --run TO IMAGE...` uses its network.
    """
    import shutil
    from tempfile import TemporaryDirectory

    from semples.folders import claim
    from semples.output import WEIGHTS, write_weights
    from semples.pipeline.graph import latest
    from semples.run_folder import CONFIG, GALLERY, RESULT, read_run
    from semples.secrets import reveal
    from semples.store import open_store
    from tune.places import trial_folder
    from tune.sweep_folder import load_launched, store_place

    folder = sweep_folder(out, name)
    sweep = load_launched(folder)
    number = chosen_trial(folder, sweep, trial)
    source = trial_folder(folder, number)
    config, result = read_run(source)
    place = store_place(sweep, folder)
    files = (CONFIG, GALLERY, RESULT)
    exported = claim(to, "export", (*files, *WEIGHTS.values()))
    with TemporaryDirectory() as copies, open_store(reveal(place, "store"), Path(copies), reading=True) as store:
        folders = {stage: store.find(key) for stage, key in result["keys"].items()}
        if missing := [stage for stage, found in folders.items() if found is None]:
            raise UserError(
                f"{place}: the result of '{missing[0]}' is gone; compute it with: semples run {word(source / CONFIG)}"
            )
        with exported.publishing(last=RESULT) as new:
            write_weights(latest(config, {stage: found for stage, found in folders.items() if found}), new)
            for file in files:
                shutil.copyfile(source / file, new / file)
    print(f"trial {number} of '{folder.name}' in {to}; use it with: semples predict --run {word(to)} IMAGE...")
