"""Pictures made of images: arrays in, pixels out."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
"""An RGB picture, (height, width, 3)."""

_SIDE, _GAP, _TITLE = 84, 4, 22  # screen pixels: about an image's, between images, a row's title


def image_rows(rows: Sequence[tuple[str, npt.NDArray[np.float32]]]) -> Pixels:
    """Rows of images in [0, 1], (count, C, H, W), each row under its title, on white.

    C is 1, grey, or 3, red, green and blue.
    """
    height = rows[0][1].shape[2]
    return _rows(rows, max(1, round(_SIDE / height)))


def image_grid(title: str, images: npt.NDArray[np.float32], columns: int) -> Pixels:
    """Images, (count, C, H, W) in [0, 1], in rows of `columns` under one title."""
    count, channels, height, width = images.shape
    blank = np.zeros((-count % columns, channels, height, width), np.float32)
    grid = np.concatenate([images, blank]).reshape(-1, columns, channels, height, width)
    return _rows([(title, joined(grid)[None])], max(1, round(_SIDE / height)))


def joined(grid: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Images of a grid, (rows, columns, C, H, W), as one, (C, rows * H, columns * W)."""
    rows, columns, channels, height, width = grid.shape
    return grid.transpose(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)


def to_bytes(images: npt.NDArray[np.float32]) -> Pixels:
    """Images in [0, 1], (..., C, H, W), as bytes with the channels last, (..., H, W, C)."""
    return np.moveaxis(np.rint(images.clip(0, 1) * 255).astype(np.uint8), -3, -1)


def _rows(rows: Sequence[tuple[str, npt.NDArray[np.float32]]], scale: int) -> Pixels:
    tiles = [
        (title, to_bytes(images).repeat(scale, axis=1).repeat(scale, axis=2))
        for title, images in rows
    ]
    height, width, channels = tiles[0][1].shape[1:]
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
            shown = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
            canvas.paste(shown, (_GAP + column * (width + _GAP), top + _TITLE))
    return np.asarray(canvas)


def png(pixels: Pixels) -> bytes:
    """A picture as a PNG file; equal pixels give equal bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
