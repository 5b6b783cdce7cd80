"""Do blocks of params.yaml, a model and its data go together? In a sentence if not.

Decides no result.
"""

from typing import Any

import torch
from torch import Generator, Tensor

from generative.core.compute import Compute
from generative.core.model import LAST, Model, ModelConfig, Reconstructs, Samples
from generative.errors import UserError


def check_choice(name: str, config: ModelConfig, losses: tuple[str, ...], validation: int) -> None:
    """Can an epoch be chosen as the block `name` says, of a model with those `losses`?

    Args:
        name: of the model, and of its block in params.yaml.
        config: that block.
        losses: names of the losses whose lowest value is best.
        validation: how many images are kept apart.

    Raises:
        UserError: it cannot.
    """
    keep = config.keep
    splits = ("Train", "Validation") if validation else ("Train",)
    known = [LAST, *(f"{split}/{loss}" for split in splits for loss in losses)]
    if keep == LAST and config.patience:
        first = f"set {name}.keep to {known[-1]} or " if losses else "set "
        raise UserError(
            f"params.yaml: {name}.patience is {config.patience}, but {name}.keep is last, which "
            f"looks at no loss; {first}{name}.patience to 0."
        )
    if keep.startswith("Test/"):
        right = "last, or a Train/ or Validation/ loss" if losses else LAST
        raise UserError(
            f"params.yaml: {name}.keep is '{keep}', but test images must not choose the model; it "
            f"should be {right}."
        )
    if keep.startswith("Validation/") and losses and not validation:
        raise UserError(
            f"params.yaml: {name}.keep is '{keep}', but split.validation is 0; set it to how many "
            "training images to keep apart, as 5000."
        )
    if keep not in known:
        right = " or ".join(filter(None, [", ".join(known[:-1]), known[-1]]))
        raise UserError(f"params.yaml: {name}.keep is '{keep}'; it should be {right}.")


def check_portable(name: str, config: ModelConfig, compute: Compute) -> None:
    """Is training as the block `name` says portable, where `compute` asks for it?

    Raises:
        UserError: it is not.
    """
    if compute.portable and config.optimizer != "adam":
        raise UserError(
            f"params.yaml: compute.portable is true, but {name}.optimizer is {config.optimizer}, "
            f"whose square roots differ between processors; set {name}.optimizer to adam, or "
            "compute.portable to false."
        )


@torch.inference_mode()
def check_shapes(model: Model[Any], images: Tensor) -> None:
    """Does a model take images, (B, C, H, W), and are those that it makes of the same shape?

    Raises:
        UserError: no; evaluation would find it, when training is over.
    """
    shape, rng = images.shape[1:], Generator(images.device)
    model.eval()
    try:
        made = {f"row '{title}' of preview": rows for title, rows in model.preview(images, rng)}
        if isinstance(model, Samples):
            made["sample"] = model.sample(len(images), rng)
        if isinstance(model, Reconstructs):
            made["reconstruct"] = model.reconstruct(images)
    except RuntimeError as error:  # PyTorch's, of sizes that do not go together
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(
            f"model '{model.name}' cannot take images of {_sides(shape)}: {reason}; build its "
            "layers from the `shape` that it is given."
        ) from None
    for what, drawn in made.items():
        if drawn.shape[1:] != shape:
            raise UserError(
                f"model '{model.name}': {what} gives images of {_sides(drawn.shape[1:])}, but the "
                f"data's are {_sides(shape)}; build its layers from the `shape` that it is given."
            )


def _sides(shape: torch.Size) -> str:
    return " x ".join(str(side) for side in shape)
