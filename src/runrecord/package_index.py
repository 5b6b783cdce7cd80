"""Lets uv take packages from where pip is set to: `python -I package_index.py uv pip install ...`.

It imports nothing of its package: `make setup` runs it before there is one.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Mapping

_PLACES = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX"}
_OTHERS = {
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
}
_SEPARATORS = {"find-links": ","}
# What these say of places counts before what pip is set to.
_OF_UV = (*_PLACES.values(), "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")


def uv_environment(
    python: str = sys.executable, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The environment for uv: pip's variables and files say where packages come from.

    Args:
        python: that of the pip which is asked.
        environment: variables; those of uv's own count before pip's.
    """
    command = [python, "-m", "pip", "config", "list"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    settings = _settings(told.stdout)
    own = any(environment.get(name) for name in _OF_UV)
    names = _OTHERS if own else _PLACES | _OTHERS
    found = {
        names[key]: _SEPARATORS.get(key, " ").join(value.split())
        for key, value in settings.items()
        if key in names and value
    }
    if "UV_INDEX" in found:  # pip looks everywhere for the version that is asked for
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {**found, **environment}


def _settings(told: str) -> dict[str, str]:
    """What `pip config list` says, by its options' names: variables, `install`, then `global`."""
    found: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):
        for line in told.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(section):
                found[key.removeprefix(section)] = str(ast.literal_eval(value))
    return found


if __name__ == "__main__":
    os.execvpe(sys.argv[1], sys.argv[1:], uv_environment())  # noqa: S606
