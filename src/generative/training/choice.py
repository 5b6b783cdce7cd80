"""Which epoch's weights are kept, and when training ends early: functions of the losses so far."""

from generative.errors import UserError
from generative.models.base import LAST, ModelConfig

History = list[dict[str, int | float]]
"""Each epoch's losses, and its number as `epoch`."""


def best_epoch(history: History, keep: str) -> int:
    """The epoch with the lowest `keep`, of equal ones the first; the last one for `last`."""
    if keep == LAST:
        return int(history[-1]["epoch"])
    return int(min(history, key=lambda row: row[keep])["epoch"])


def is_over(history: History, keep: str, patience: int) -> bool:
    """Did `patience` epochs in a row bring no lower `keep`? Never, where it is 0."""
    return 0 < patience <= int(history[-1]["epoch"]) - best_epoch(history, keep)


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
    known = [f"{split}/{loss}" for split in splits for loss in losses]
    if keep == LAST and config.patience:
        raise UserError(
            f"params.yaml: {name}.patience is {config.patience}, but {name}.keep is last, which "
            f"looks at no loss; set {name}.keep to {known[-1]} or {name}.patience to 0."
        )
    if keep.startswith("Test/"):
        raise UserError(
            f"params.yaml: {name}.keep is '{keep}', but test images must not choose the model; it "
            f"should be {LAST}, or a Train/ or Validation/ loss."
        )
    if keep.startswith("Validation/") and not validation:
        raise UserError(
            f"params.yaml: {name}.keep is '{keep}', but split.validation is 0; set it to how many "
            "training images to keep apart, as 5000."
        )
    if keep not in (LAST, *known):
        raise UserError(
            f"params.yaml: {name}.keep is '{keep}'; it should be {', '.join([LAST, *known[:-1]])} "
            f"or {known[-1]}."
        )
