"""The blocks `data` and `split` of params.yaml: which images, and how they are used."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from generative.config import Section

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Data(Section):
    """The `data` block: which images, held to their SHA-256 whatever their source."""

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$",
        description="a name of small letters, digits, - and _: the images lie in data/NAME",
    )
    source: str | None = Field(
        min_length=1, description="null, or a folder or address of your own images"
    )
    sha256: Sha256 | None = Field(description="null, or a SHA-256: 64 digits of 0-9, a-f")
    binarize: Literal["none", "threshold", "sampled"] = Field(
        description="none, threshold or sampled"
    )

    @property
    def directory(self) -> Path:
        """Where the files of these images are."""
        return Path("data") / self.name


class Splitting(Section):
    """The `split` block."""

    validation: int = Field(ge=0, description="a whole number, 0 or more")
