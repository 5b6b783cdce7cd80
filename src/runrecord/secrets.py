"""Keeping passwords and tokens out of whatever is printed, recorded or tagged."""

import os
import re
from collections.abc import Mapping

_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|CREDENTIAL|_KEY(_|$)", re.IGNORECASE)
_CREDENTIALS = re.compile(r"://[^\s/@:]+:[^\s/@]+@")
_SHORTEST = 4  # a shorter value would black out ordinary words


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """`text` less the user and password of any address, and less the environment's secrets."""
    text = re.sub(r"//\S+@", "//***@", text)
    for value in _secrets(environment):
        text = text.replace(value, "***")
    return text


def holds_secret(text: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Is there an address with a password, or a secret of the environment, in `text`?"""
    found = _CREDENTIALS.search(text) is not None
    return found or any(value in text for value in _secrets(environment))


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """The longest first: another one may be its beginning."""
    found = (value for name, value in environment.items() if _SECRET_NAME.search(name))
    return sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)
