"""Asking Git."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

CODE = ("src", "stages", "params.yaml", "dvc.yaml", "requirements.lock")
"""What a run's results can depend on, besides data."""


def git(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> bytes:
    """What a Git command prints; nothing where it fails or there is no Git."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return b""
    return done.stdout
