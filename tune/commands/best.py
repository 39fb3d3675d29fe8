"""`semples-tune best`: the best configuration so far."""

from __future__ import annotations

from pathlib import Path

from semples.commands.options import AsJson, print_json
from tune.commands.options import Name, Number, Out, chosen_trial, sweep_folder


def best(name: Name = None, trial: Number = None, out: Out = Path("sweeps"), json: AsJson = False) -> None:
    """Print the best configuration so far, or that of another trial, as YAML (`semples run` takes it as it is).

    With --json: sweep, trial (its number), selection, metrics (mIoU in percent, by name) and configuration (as the YAML
    has it, nested).
    """
    from semples.config import FORMAT, to_dict
    from semples.run_folder import read_run
    from tune.places import trial_folder
    from tune.sweep_folder import load_launched, trial_config_yaml

    folder = sweep_folder(out, name)
    number = chosen_trial(folder, load_launched(folder), trial)
    if not json:
        print(trial_config_yaml(folder, number), end="")
        return
    config, result = read_run(trial_folder(folder, number))
    facts = {"sweep": folder.name, "trial": number, "selection": config.selection, "metrics": result["metrics"]}
    print_json({**facts, "configuration": FORMAT.stamp() | to_dict(config)})
