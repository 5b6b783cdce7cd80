"""params.yaml: read, checked and frozen; anything unexpected is refused in one sentence."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from generative.errors import UserError, read_yaml, refuse_unknown_blocks, sentence

PARAMS_FILE = Path("params.yaml")
PIPELINE_FILE = Path("dvc.yaml")
LAST = "last"
"""What a model's `keep` is where no loss chooses the epoch."""

Count = Annotated[int, Field(ge=1, description="a whole number, 1 or more")]
NotNegative = Annotated[float, Field(ge=0, description="a number, 0 or more")]


class Section(BaseModel):
    """A block of params.yaml. Each field's description says what a right value is."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


class _Seed(Section):
    seed: int = Field(ge=0, lt=2**63, description="a whole number from 0 to 2**63 - 1")


class Data(Section):
    """The `data` block: which images, held to their SHA-256 whatever their source."""

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$",
        description="a name of small letters, digits, - and _: the images lie in data/NAME",
    )
    source: str | None = Field(
        min_length=1, description="null, or a folder or address of your own images"
    )
    sha256: str | None = Field(
        pattern="^[0-9a-f]{64}$", description="null, or a SHA-256: 64 digits of 0-9, a-f"
    )
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


class Params:
    """params.yaml, whose blocks are checked as they are asked for.

    Raises:
        UserError: the file is missing or no YAML, a block is missing, unknown or wrong.
    """

    def __init__(self, path: Path = PARAMS_FILE, pipeline: Path = PIPELINE_FILE) -> None:
        self._path = path
        self._document = read_yaml(path)
        refuse_unknown_blocks(path, self._document, pipeline)

    def section(self, name: str, schema: type[S]) -> S:
        """The block `name`."""
        if name not in self._document:
            raise UserError(f"{self._path}: key '{name}' is missing; it should be a block of keys.")
        return validate(schema, self._document[name], str(self._path), name)

    def seed(self) -> int:
        """The seed of everything random."""
        given = {key: value for key, value in self._document.items() if key == "seed"}
        return validate(_Seed, given, str(self._path)).seed


def validate(schema: type[S], values: object, source: str, prefix: str = "") -> S:
    """`values` as a `schema`; `source` and `prefix` say where they were read, for the message.

    Raises:
        UserError: naming the first key that is wrong, its value and what would be right.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {sentence(schema, error, prefix)}") from None
