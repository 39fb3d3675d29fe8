"""The search over `semples`: Ray Tune, Optuna and MLflow.

    done = tune.launch("scenes", {"trials": 20}, out="sweeps")
    done.trials.sort_values("objective/seg_miou")      # a DataFrame
    semples.run(done.best)
    tune.load("sweeps/scenes").figures

Each of these is imported when it is first used: importing the package alone takes no time, and changes nothing in the
process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from semples.lazy import attributes

if TYPE_CHECKING:
    from semples.errors import UserError
    from tune.api import SweepResults, launch, load
    from tune.messages import Event
    from tune.sweep_file import Sweep

    __version__: str

__all__ = ["Event", "Sweep", "SweepResults", "UserError", "__version__", "launch", "load"]

__getattr__, __dir__ = attributes(
    __name__,
    {
        "Event": "tune.messages:Event",
        "Sweep": "tune.sweep_file:Sweep",
        "SweepResults": "tune.api:SweepResults",
        "UserError": "semples.errors:UserError",
        "__version__": "semples.formats:VERSION",
        "launch": "tune.api:launch",
        "load": "tune.api:load",
    },
)
