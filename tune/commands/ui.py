"""`semples-tune ui`: MLflow's pages on the store of the sweeps."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from semples.errors import UserError, cut, quoted
from semples.secrets import redact
from tune.commands.options import Out, sweep_folder


def ui(
    out: Out = Path("sweeps"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 5000,
) -> None:
    """Serve the MLflow UI on the store of these sweeps. Ctrl-C ends it."""
    import socket

    from tune.sweep_folder import load_launched, moved, tracking_uri

    try:
        socket.getaddrinfo(host or "?", port)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {quoted(host)}: is no address of this machine ({cut(str(error))})") from None
    uri = tracking_uri(load_launched(sweep_folder(out, None)), out)
    if uri.startswith("http"):
        print(f"the sweep launched last is tracked by a server: open {redact(uri)} in a browser")
        return
    if said := moved(out):
        print(f"warning: {said}", file=sys.stderr)
    # in the environment, for a command line is seen by everybody
    os.environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
    words = ["ui", "--host", host, "--port", str(port), "--workers", "1"]
    print(f"MLflow UI on http://{host}:{port}/#/experiments/1/runs (a sweep's trials open under its run)", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *words])
