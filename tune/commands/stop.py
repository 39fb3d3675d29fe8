"""`semples-tune stop`: end a running sweep in order."""

from __future__ import annotations

from pathlib import Path

from semples.errors import UserError
from tune.commands.options import Name, Out, sweep_folder, word
from tune.commands.screen import say

LOOK_EVERY, SAY_EVERY = 0.2, 30.0  # seconds


def stop(name: Name = None, out: Out = Path("sweeps")) -> None:
    """End a sweep that runs, in another terminal or in the background, as Ctrl-C does there: what is finished is kept.

    It waits until the sweep has ended. The command that launched it goes on from there.
    """
    import os
    import signal
    import socket
    import time

    from tune.sweep_folder import runner

    folder = sweep_folder(out, name)
    if (running := runner(folder)) is None:
        raise UserError(f"{folder}: this sweep is not running")
    process, host = running
    if host != socket.gethostname():
        raise UserError(f"{folder}: this sweep runs on {host}; stop it there")
    os.kill(process, signal.SIGTERM)
    begun = said = time.monotonic()
    while runner(folder) == running:
        time.sleep(LOOK_EVERY)
        if time.monotonic() - said > SAY_EVERY:
            said = time.monotonic()
            say(f"it is still ending, since {said - begun:.0f} s (process {process})")
    say(f"'{folder.name}' has ended; semples-tune status {word(folder.name)} --out {word(out)} says how far it came")
