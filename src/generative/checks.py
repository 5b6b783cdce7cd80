"""Do blocks of params.yaml go together? In a sentence if not: decides no result."""

from generative.core.compute import Compute
from generative.core.model import LAST, ModelConfig
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
