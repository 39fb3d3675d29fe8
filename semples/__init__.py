"""SemPLeS, weakly supervised semantic segmentation: one run of the method.

    result = semples.run("scenes", {"match.lambda_b": 1.5}, out="runs/a")
    semples.predict("runs/a", ["photo.jpg"], out="predictions")

Each of these is imported when it is first used: importing the package alone takes no time, and changes nothing in the
process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from semples.lazy import attributes

if TYPE_CHECKING:
    from semples.api import Prediction, predict, run
    from semples.config import Config, load
    from semples.errors import UserError
    from semples.pipeline.run import Event, Result

    __version__: str

__all__ = ["Config", "Event", "Prediction", "Result", "UserError", "__version__", "load", "predict", "run"]

__getattr__, __dir__ = attributes(
    __name__,
    {
        "Config": "semples.config:Config",
        "Event": "semples.pipeline.run:Event",
        "Prediction": "semples.api:Prediction",
        "Result": "semples.pipeline.run:Result",
        "UserError": "semples.errors:UserError",
        "__version__": "semples.formats:VERSION",
        "load": "semples.config:load",
        "predict": "semples.api:predict",
        "run": "semples.api:run",
    },
)
