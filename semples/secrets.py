"""Passwords in URLs: used where they are needed, and never shown or written.

A URL is split where it enters: `conceal` keeps the whole one in the memory of this process and gives back the URL
without its secrets, for files, screen and other processes; `reveal` gives the whole one back where it is opened. For
other processes and later commands the whole URL may stand in an environment variable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import unquote_plus

VARIABLES = {"study": "SEMPLES_TUNE_STUDY", "mlflow": "SEMPLES_TUNE_MLFLOW", "store": "SEMPLES_TUNE_STORE"}
OTHERS = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "RAY_AUTH_TOKEN")
# names of parameters whose values are secrets, and of some that only name files
SECRET = re.compile("pass|pwd|token|secret|key|credential|signature|^sig$", re.IGNORECASE)
FILES = ("sslkey", "sslcert", "sslrootcert", "passfile")
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
SHORTEST = 4  # characters of a secret that is looked for in other texts

_whole: dict[str, str] = {}  # by URL without secrets


def _parts(url: str) -> tuple[str, str, str]:
    """A URL without its secrets, the password between user and host, and the rest of the secrets of its query."""
    scheme, _, rest = url.partition("://")
    host, user = re.split("[/?#]", rest, maxsplit=1)[0], ""
    if "@" in host:
        user = host.rpartition("@")[0]
    elif "@" in rest and ":" in host and not host.rpartition(":")[2].isdecimal():
        user = rest.rpartition("@")[0]  # a password with a slash or question mark in it
    before, question, query = rest[len(user) + bool(user) :].partition("?")
    name, _, password = user.partition(":")
    kept: list[str] = []
    hidden: list[str] = []
    for word in query.split("&") if question else []:
        key, _, value = word.partition("=")
        secret = SECRET.search(key) and key not in FILES
        (hidden if secret else kept).append(value if secret else word)
    at = f"{name}@" if name else ""
    tail = f"?{'&'.join(kept)}" if kept else ""
    return f"{scheme}://{at}{before}{tail}", password, "&".join(hidden)


def secrets_of(url: str) -> set[str]:
    """The secrets in a URL, as they stand there and as they are meant."""
    if "://" not in url:
        return set()
    _, password, hidden = _parts(url)
    return {form for word in (password, *hidden.split("&")) if word for form in (word, unquote_plus(word))}


def redact(text: str) -> str:
    """A text without the secrets of the URLs in it, and without those that this process knows."""
    known: Iterable[str] = (os.environ.get(name, "") for name in (*VARIABLES.values(), *OTHERS))
    secrets = {s for url in [*known, *_whole.values()] if url for s in (secrets_of(url) if "://" in url else {url})}
    text = URL.sub(lambda found: _parts(found[0])[0], text)
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, "***")
    return text


def conceal(url: str) -> str:
    """A path or URL without its secrets, of which this process remembers the whole."""
    if "://" not in url:
        return url
    clean = _parts(url)[0]
    if clean != url:
        _whole[clean] = url
    return clean


def reveal(url: str, what: str) -> str:
    """The whole of a concealed URL, for use: as it was given to this process, or as the variable of VARIABLES for
    `what` holds it; the URL itself where there is none of them, with its secrets in the libraries' own places."""
    given = os.environ.get(VARIABLES[what], "")
    return _whole.get(url) or (given if "://" in given and _parts(given)[0] == url else url)


def pass_on(url: str, what: str) -> None:
    """Let processes that this one starts `reveal` a URL, too, by their environment."""
    if url in _whole:
        os.environ[VARIABLES[what]] = _whole[url]


def hint(url: str, what: str) -> str:
    """What to add to a message that a URL cannot be used."""
    if "://" not in url or url.startswith("sqlite") or reveal(url, what) != url:
        return ""
    return f"; where it needs a password, put the whole URL into the environment variable {VARIABLES[what]}"
