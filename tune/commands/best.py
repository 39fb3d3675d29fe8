"""`semples-tune best`: the best configuration so far."""

from __future__ import annotations

from pathlib import Path

from tune.commands.options import Name, Number, Out, chosen_trial, sweep_folder


def best(name: Name = None, trial: Number = None, out: Out = Path("sweeps")) -> None:
    """Print the best configuration so far, or that of another trial, as YAML (`semples run` takes it as it is)."""
    from tune.sweep_folder import describe, load_launched

    folder = sweep_folder(out, name)
    sweep = load_launched(folder)
    print(describe(folder, chosen_trial(folder, sweep, trial)), end="")
