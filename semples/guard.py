"""The edge of the command lines: whatever goes wrong is one sentence, never a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from io import TextIOWrapper
from pathlib import Path

import typer
from typer.exceptions import Abort, TyperException

from semples.errors import UserError, cut, is_lack_of_memory
from semples.secrets import redact

INTERRUPTED = 128 + signal.SIGINT
LONGEST = 900  # characters of a sentence
PATH_ERRORS = {
    errno.ENOSPC: "make room", errno.EDQUOT: "make room", errno.EFBIG: "make room",
    errno.ENOENT: "name one that is there",
    errno.EIO: "check this disk",
    errno.EMFILE: "raise the limit of open files", errno.ENFILE: "raise the limit of open files",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY,
         errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.ETXTBSY, errno.EBUSY, errno.ESTALE),
        "choose another",
    ),
}  # fmt: skip


def guard(command: typer.Typer) -> None:
    """Run a command line and exit: 0 when all is well, 2 where the user can put it right, 130 after an interrupt, 1 for
    what should not happen, whose traceback goes into a file."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries, to those who write code
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # of a terminal that is closed, but for nohup
        signal.signal(signal.SIGHUP, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that a terminal cannot show is shown as it can
            stream.reconfigure(errors="backslashreplace")
    try:
        code = command(standalone_mode=False)
        if sys.stdout:
            sys.stdout.flush()
    except UserError as error:
        _end(*map(str, error.args))
    except TyperException as error:  # words of the command line; without any, its help was shown
        _end(*filter(None, [error.format_message()]))
    except BrokenPipeError:  # nobody reads any more, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (KeyboardInterrupt, Abort):
        code = INTERRUPTED
    except Exception as error:
        _end(*_known(error) or [_unknown(error)], code=2 if _known(error) else 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends in order now
    if code == INTERRUPTED:  # as which typer and `semples-tune launch` end, too
        print("interrupted; what was finished is kept, the same command goes on from here", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(*_: object) -> None:
    """What Ctrl-C does, also where a shell has switched that off, as for jobs in its background."""
    raise KeyboardInterrupt


def _end(*sentences: str, code: int = 2) -> None:
    lines = [cut(redact(sentence), LONGEST) for sentence in sentences]
    if lines:
        print("error: " + "\n       ".join(lines), file=sys.stderr)
    sys.exit(code)


def _known(error: Exception) -> list[str]:
    """The sentence for what a machine or a path makes impossible, none for anything else."""
    if isinstance(error, OSError) and error.errno in PATH_ERRORS:
        advice = f"{PATH_ERRORS[error.errno]}; finished work is kept"
        return [f"{error.filename or 'writing'}: {error.strerror}; {advice}"]
    if is_lack_of_memory(error):
        advice = (
            "take smaller batches or images (STAGE.batch, augment.size, segment.size, scales); finished work is kept"
        )
        return [f"out of memory ({str(error).split('. ')[0] or 'of this machine'}); {advice}"]
    return []


def _unknown(error: Exception) -> str:
    """The sentence for everything else, its traceback written to a file of its own."""
    text = "".join(traceback.format_exception(error))
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    where = "nowhere, for no folder for it can be written"
    for folder in (Path(home, "semples-tune", "errors"), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            handle, where = tempfile.mkstemp(".log", time.strftime("semples-tune-%Y%m%d-%H%M%S-"), folder)
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(redact(f"{sys.argv}\n{text}"))
            break
    what = f"{type(error).__name__}: {cut(str(error), 200)}"
    return f"this should not happen ({what}); finished work is kept, and what is needed to mend it is in {where}"
