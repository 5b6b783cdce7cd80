"""Pictures made of images: arrays in, pixels out."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
"""An RGB picture, (height, width, 3)."""

_SCALE, _GAP, _TITLE = 3, 4, 22  # screen pixels: an image's pixel, between images, a row's title


def image_rows(rows: Sequence[tuple[str, npt.NDArray[np.float32]]]) -> Pixels:
    """Rows of images in [0, 1], (count, 1, 28, 28), each row under its title, on white."""
    tiles = []
    for title, images in rows:
        grey = np.rint(images[:, 0].clip(0, 1) * 255).astype(np.uint8)
        tiles.append((title, grey.repeat(_SCALE, axis=1).repeat(_SCALE, axis=2)))
    height, width = tiles[0][1].shape[1:]
    columns = max(len(enlarged) for _, enlarged in tiles)
    row_height = _TITLE + height + _GAP
    size = (_GAP + columns * (width + _GAP), len(tiles) * row_height)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=14)
    for row, (title, enlarged) in enumerate(tiles):
        top = row * row_height
        draw.text((_GAP, top + 2), title, fill="black", font=font)
        for column, pixels in enumerate(enlarged):
            canvas.paste(Image.fromarray(pixels), (_GAP + column * (width + _GAP), top + _TITLE))
    return np.asarray(canvas)


def image_grid(title: str, images: npt.NDArray[np.float32], columns: int) -> Pixels:
    """Images, (count, 1, 28, 28) in [0, 1], in rows of `columns` under one title."""
    count, _, height, width = images.shape
    blank = np.zeros((-count % columns, 1, height, width), np.float32)
    grid = np.concatenate([images, blank]).reshape(-1, columns, height, width)
    joined = grid.transpose(0, 2, 1, 3).reshape(1, 1, -1, columns * width)
    return image_rows([(title, joined)])


def png(pixels: Pixels) -> bytes:
    """A picture as a PNG file; equal pixels give equal bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
