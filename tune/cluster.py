"""Ray on this machine with a token of its own, or a cluster that is joined with the token that the user has for it.

Whoever reaches Ray's ports runs code as the user, and they are open on every interface: the token is what keeps others
out. Nothing here switches it off.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune
from ray.exceptions import AuthenticationError

from semples.errors import UserError, cut, quoted
from tune.messages import Restarted, TrialCallback
from tune.nodes import NodeError, cause_of, leave_out, sick
from tune.values import Resources

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
OWN_TOKEN = secrets.token_hex(32)  # of what this process starts; it is in its environment alone, and ends with it
PATIENCE = 10.0  # seconds for an address to answer
LOOK_EVERY, REFUSALS = 0.5, 3  # seconds between looks whether Ray lives; refused connections after which it does not
WHERE = f"${TOKEN}, in the file that ${TOKEN_PATH} names, or in ~/.ray/auth_token"


@contextmanager
def joined(resources: Resources, address: str | None) -> Iterator[str]:
    """Ray started on this machine, with room for one trial; or the cluster at `address` joined (which may grow, so what
    it has now is not asked). Left again at the end. Yields the folder of Ray's logs, where it goes then, or "". Raises
    UserError."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_own()) if address is None else ""
        stack.callback(ray.shutdown)
        if address is None:
            _start(resources, folder)
        else:
            _join(address)
        yield folder


@contextmanager
def _own() -> Iterator[str]:
    """The token of a cluster of our own in the environment; yields a folder of this user alone for Ray's logs and
    sockets, which Ray itself lets everybody write."""
    before = {name: os.environ.pop(name, None) for name in (MODE, TOKEN, TOKEN_PATH)}
    os.environ[TOKEN] = OWN_TOKEN  # without a mode Ray takes the token, whatever mode it read when it was imported
    try:
        with tempfile.TemporaryDirectory(
            prefix="semples-tune-", dir=os.environ.get("RAY_TMPDIR"), ignore_cleanup_errors=True
        ) as folder:
            yield folder
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def watched(give_up: Callable[[], None], logs: str) -> Iterator[None]:
    """Where Ray's head, or its node on this machine, dies meanwhile, Ray would end this process after a minute without
    a word: this calls `give_up` within seconds, says one sentence and ends it with exit code 2. logs: see `joined`."""
    own = next(node for node in ray.nodes() if node["NodeID"] == ray.get_runtime_context().get_node_id())
    head, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    places = {"head": (head.strip("[]"), int(port)), "node": (own["NodeManagerAddress"], own["NodeManagerPort"])}
    end = threading.Event()

    def watch() -> None:
        refused = dict.fromkeys(places, 0)
        while not end.wait(LOOK_EVERY):
            for what, place in places.items():
                try:
                    socket.create_connection(place, PATIENCE).close()
                    refused[what] = 0
                except ConnectionRefusedError:
                    refused[what] += 1
                except OSError:  # a slow link: Ray itself knows how long to wait
                    continue
                if refused[what] == REFUSALS and not end.is_set():
                    _die(what, give_up, logs)

    thread = threading.Thread(target=watch, name="Ray watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()


def _die(what: str, give_up: Callable[[], None], logs: str) -> None:
    try:
        give_up()
    finally:
        where = "Ray's head" if what == "head" else "Ray's node on this machine"
        show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""  # which a bar may have hidden
        print(
            f"{show_cursor}error: {where} died; what was finished is kept, and the same command goes on from there",
            file=sys.stderr,
            flush=True,
        )
        if logs:
            shutil.rmtree(logs, ignore_errors=True)
        os._exit(2)


class Lives(ray_tune.Callback):  # type: ignore[misc]
    """Says in one line that a trial is started again because its process or node died, or its node could not compute
    for a reason of its own and is left out; Ray's own lines are switched off. folder: of the sweep."""

    def __init__(self, on_event: TrialCallback, folder: Path):
        self._on_event, self._folder = on_event, folder

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its callbacks into snapshots that are never read here

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray when it starts a trial again."""
        error = cause_of(trial.get_pickled_error())
        reason = "its node ran out of memory" if "memory" in str(error) else "its process or node died"
        for of in [error] if isinstance(error, NodeError) else sick(self._folder):
            leave_out(self._folder, of)
            reason = of.sentence
        self._on_event(trial.config["number"], Restarted(reason))


def _start(resources: Resources, folder: str) -> None:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    try:
        ray.init(address="local", _temp_dir=folder, **quiet)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"Ray cannot be started on this machine: {cut(str(error), 200)}") from None
    if os.environ.get(MODE) != "token":
        raise UserError("Ray would run here without a token, open to everyone who reaches this machine; update Ray")
    have = ray.cluster_resources()
    needs = [resources.of_stage(on_gpu) for on_gpu in (True, False)]
    for name in ("CPU", "GPU"):
        amount = max(of_stage[f"num_{name.lower()}s"] for of_stage in needs)
        if have.get(name, 0) < amount:
            raise UserError(f"resources: a stage asks for {amount:g} {name}, this machine has {have.get(name, 0):g}")


def _join(address: str) -> None:
    if "://" in address:
        raise UserError(
            f"--address {quoted(address)}: give HOST:PORT or auto, on a machine that is a node of that cluster"
        )
    _knock(address)
    said: list[str] = []
    try:
        with _stderr_kept() as said:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except AuthenticationError as error:
        reason = str(error).split(". ")[0]
        raise UserError(f"--address {address}: no token of this cluster: {reason}; put it into {WHERE}") from None
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        if "InvalidAuthToken" in "".join(said):
            raise UserError(
                f"--address {address}: this cluster refuses the token that is in {WHERE}; put its own one there"
            ) from None
        raise UserError(f"--address {address}: no Ray cluster could be joined: {cut(str(error), 200)}") from None


def _knock(address: str) -> None:
    """Raise UserError where nobody answers at HOST:PORT, which Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if address == "auto":
        return
    if not (colon and host and port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"--address {quoted(address)}: is not of the form HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, UnicodeError) as error:
        raise UserError(f"--address {quoted(address)}: nobody answers there ({cut(str(error), 200)})") from None


@contextmanager
def _stderr_kept() -> Iterator[list[str]]:
    """What is written to stderr meanwhile, also by Ray's C++ part, is not shown; at the end it is in the list."""
    kept: list[str] = []
    with tempfile.TemporaryFile() as file:
        screen = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            yield kept
        finally:
            os.dup2(screen, 2)
            os.close(screen)
            file.seek(0)
            kept.append(file.read().decode(errors="replace"))
