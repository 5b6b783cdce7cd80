"""IDX files of unsigned bytes, the format of MNIST."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from generative.errors import UserError

REFETCH = "delete data/mnist and run 'dvc repro download-mnist'."


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """An IDX file of unsigned bytes with that many dimensions, as an array.

    The format: bytes 0, 0, 8 (unsigned byte), the number of dimensions, each dimension's length
    as a big-endian 32-bit integer, then the data.

    Raises:
        UserError: the file is no such file, or shorter or longer than its header says.
    """
    content = present(path).read_bytes()
    kind = {1: "labels", 3: "images"}[dimensions]
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(
            f"{path}: not an IDX file of {kind} (its first bytes are {content[:4].hex(' ')}, "
            f"should be 00 00 08 {dimensions:02x}); {REFETCH}"
        )
    header = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:header].ljust(4 * dimensions, b"\0"), ">u4").tolist())
    expected = header + int(np.prod(shape))
    if len(content) != expected:
        raise UserError(
            f"{path}: has {len(content):,} bytes where its header promises {expected:,}; {REFETCH}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def present(path: Path) -> Path:
    """The path of a file that is there.

    Raises:
        UserError: it is not.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {REFETCH}")
    return path
