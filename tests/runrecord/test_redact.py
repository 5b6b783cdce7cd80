"""Secrets reach nothing that is printed, recorded or tagged."""

import pytest

from runrecord.secrets import holds_secret, redact
from runrecord.text import printable, reason

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


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("clone of https://me:hunter2@host/x", True),
        ("ssh://me:p%40ss@host:22/x", True),
        ("lr: 1  # correct horse", True),
        ("correct\nhorse", False),
        ("battery tok-123 staple", True),
        ("tok-124", False),
        ("https://me@host/x", False),
        ("ssh://git@host:22/x", False),
        ("https://host:8080/a@b", False),
        ("git@host:folder/repository.git", False),
        ("def f(a: int) -> None: ...  # see http://host/", False),
        ("qwerty in /home/somebody", False),
        ("an ordinary word", False),
        ("", False),
    ],
)
def test_what_holds_a_secret(text: str, held: bool) -> None:
    assert holds_secret(text, ENVIRONMENT) is held


@pytest.mark.parametrize(
    "name",
    [
        *("DB_PASSWORD", "db_passwd", "HF_TOKEN", "token", "CLIENT_SECRET", "SECRET_ID"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "OPENAI_API_KEY", "AWS_ACCESS_KEY_ID", "ssh_key"),
    ],
)
def test_a_variables_name_says_that_it_is_secret(name: str) -> None:
    assert holds_secret("it is s3cret!", {name: "s3cret"})
    assert redact("it is s3cret!", {name: "s3cret"}) == "it is ***!"


@pytest.mark.parametrize("name", ["KEYBOARD", "MONKEY", "KEYS", "PATH", "MNIST_MIRROR"])
def test_other_variables_are_no_secrets(name: str) -> None:
    assert not holds_secret("it is s3cret!", {name: "s3cret"})
    assert redact("it is s3cret!", {name: "s3cret"}) == "it is s3cret!"


def test_a_secret_that_begins_as_another_leaves_nothing_of_it() -> None:
    nested = {"FIRST_TOKEN": "hunter", "SECOND_TOKEN": "hunter2-and-more"}
    assert redact("by hunter2-and-more, hunter", nested) == "by ***, ***"


def test_whatever_is_redacted_holds_no_secret_any_more() -> None:
    for text in ("http://me:pass@word@host/x", "correct horse tok-123", "a://b:c@d e://f:g@h"):
        assert not holds_secret(redact(text, ENVIRONMENT), ENVIRONMENT)


def test_the_environment_of_the_process_is_what_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TEST_TOKEN", "tok-98765")
    assert holds_secret("at tok-98765")
    assert redact("at tok-98765") == "at ***"
    assert reason(OSError("tok-98765 was\nrefused")) == "*** was"


def test_text_from_elsewhere_is_one_line_that_steers_no_terminal() -> None:
    assert printable("3\x1b[2J\x1b]0;owned\x07") == "3\ufffd[2J\ufffd]0;owned\ufffd"
    assert printable("한국어 🙂\tü") == "한국어 🙂\tü"
    assert "\n" not in printable("one\ntwo\r\u2028three")
    assert reason(ValueError("\n  first.\nsecond")) == "first"
    assert reason(ValueError()) == "ValueError()"
