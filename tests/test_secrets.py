"""Passwords in URLs are never shown."""

from __future__ import annotations

import pytest

from semples.secrets import conceal, hint, redact, reveal, secrets_of

URLS = {
    "postgresql://ann:s3cret@db:5432/x": "postgresql://ann@db:5432/x",
    "postgresql+psycopg://ann:s3%2Fcr%40et@db/x?sslmode=require": "postgresql+psycopg://ann@db/x?sslmode=require",
    "postgresql://db/x?user=ann&password=s3cret": "postgresql://db/x?user=ann",
    "postgresql://ann@db/x?sslpassword=s3cret&sslkey=/home/ann/key": "postgresql://ann@db/x?sslkey=/home/ann/key",
    "postgresql://ann:s3/cr?et@db/x": "postgresql://ann@db/x",
    "http://ann:s3cr:et@host:5000": "http://ann@host:5000",
    "http://ann:s3@cret@host:5000/a@b": "http://ann@host:5000/a@b",
    "http://host:5000/a@b": "http://host:5000/a@b",
    "http://host/?token=s3cret": "http://host/",
    "https://:s3cret@host": "https://host",
    "s3://bucket/results?secret=s3cret&x=1": "s3://bucket/results?x=1",
    "ftp://ann@host/x": "ftp://ann@host/x",
    "sqlite:////a/b.db": "sqlite:////a/b.db",
    "memory://x": "memory://x",
}


@pytest.mark.parametrize("url", URLS)
def test_a_url_loses_its_secrets_and_nothing_else(url: str) -> None:
    clean = URLS[url]
    assert conceal(url) == clean and redact(url) == clean and conceal(clean) == clean
    assert redact(f"cannot open '{url}': no route") == f"cannot open '{clean}': no route"
    assert reveal(clean, "study") == url
    assert not any(secret in clean for secret in secrets_of(url))


def test_what_is_known_to_be_secret_is_taken_out_of_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    conceal("http://bob:Tr0ub%20dor@elsewhere")
    monkeypatch.setenv("SEMPLES_TUNE_STORE", "ftp://eve:correcthorse@host/x")
    text = "password=Tr0ub dor (Tr0ub%20dor) and correcthorse were refused"
    assert redact(text) == "password=*** (***) and *** were refused"


def test_a_later_command_takes_the_password_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = "postgresql://carol@db/x"
    assert reveal(clean, "study") == clean and "SEMPLES_TUNE_STUDY" in hint(clean, "study")
    monkeypatch.setenv("SEMPLES_TUNE_STUDY", "postgresql://carol:pw@other/x")
    assert reveal(clean, "study") == clean, "of another place"
    monkeypatch.setenv("SEMPLES_TUNE_STUDY", "postgresql://carol:pw@db/x")
    assert reveal(clean, "study") == "postgresql://carol:pw@db/x" and hint(clean, "study") == ""
