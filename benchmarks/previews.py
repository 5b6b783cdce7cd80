"""The picture at the top of the README, made of three previews as runs log them.

    python benchmarks/previews.py NOISY.png CLEAN.png VAE.png docs/pictures/epoch30.png

They are the last pictures of `train-ae`, of the experiment `clean` and of `train-vae`, in `images/`
of each record.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TITLES = (
    "Autoencoder, target noisy (the chapter's)",
    "Autoencoder, target clean",
    "Variational autoencoder",
)
_CAPTION, _GAP = 30, 28  # pixels: the height of a caption, the space between previews


def composed(previews: list[Image.Image]) -> Image.Image:
    """The two previews of the autoencoder side by side, the other one below."""
    noisy, clean, vae = previews
    below = noisy.height + _CAPTION + _GAP
    places = [(0, 0), (noisy.width + _GAP, 0), (0, below)]
    size = (max(places[1][0] + clean.width, vae.width), below + _CAPTION + vae.height)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=18)
    for (left, top), title, preview in zip(places, TITLES, previews, strict=True):
        draw.text((left + 4, top + 2), title, fill="black", font=font)
        canvas.paste(preview, (left, top + _CAPTION))
    return canvas


if __name__ == "__main__":
    *sources, target = map(Path, sys.argv[1:])
    composed([Image.open(path).convert("RGB") for path in sources]).save(target)
