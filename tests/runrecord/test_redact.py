"""Secrets reach nothing that is printed, recorded or tagged."""

import pytest

from runrecord.secrets import redact

ENVIRONMENT = {
    "MLFLOW_TRACKING_PASSWORD": "correct horse",
    "AWS_SECRET_ACCESS_KEY": "abc/def",
    "API_TOKEN": "tok-123",
    "HOME": "/home/somebody",
    "KEYBOARD": "qwerty",
    "EMPTY_TOKEN": "",
    "SHORT_KEY": "a",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at http://me:pass@word@host/x", "at http://***@host/x"),
        ("401 for me with correct horse", "401 for me with ***"),
        ("key abc/def, tok-123", "key ***, ***"),
        ("qwerty in /home/somebody", "qwerty in /home/somebody"),
        ("https://host/a@b is a path", "https://***@b is a path"),
    ],
)
def test_what_is_struck_out(text: str, expected: str) -> None:
    assert redact(text, ENVIRONMENT) == expected
