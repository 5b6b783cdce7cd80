"""What a trained model is worth: metrics and pictures of test images."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor

from generative.core.config import Count, Section
from generative.core.images import Split

Factor = Annotated[float, Field(ge=0, le=10)]

SEED = 0
"""Of an evaluation's choices, noise and judges, whatever seed a model was trained with."""

JUDGES = 3
"""Classifiers in whose features samples are compared: what one alone says depends on its seed."""


class EvaluationConfig(Section):
    """The `evaluate` block of params.yaml; of a split with fewer images than asked for, all."""

    batch_size: Count
    noise_factors: list[Factor] = Field(
        min_length=1, max_length=8, description="a list of 1 to 8 numbers from 0 to 10"
    )
    noise_seeds: int = Field(ge=2, le=1000, description="a whole number from 2 to 1000")
    importance_samples: Count
    importance_images: Count
    probe_images: int = Field(ge=100, description="a whole number, 100 or more")
    compared_samples: int = Field(ge=2, le=20000, description="a whole number from 2 to 20000")
    pictured_images: int = Field(ge=1, le=64, description="a whole number from 1 to 64")
    samples: int = Field(ge=1, le=1024, description="a whole number from 1 to 1024")
    projected_images: int = Field(ge=1, le=5000, description="a whole number from 1 to 5000")


def is_binary(split: Split) -> bool:
    """Are all pixels black or white?"""
    return bool(((split.images == 0) | (split.images == 255)).all())


def random_subset(split: Split, count: int, stream: Generator) -> Tensor:
    """Places of `count` images drawn at random, in rising order; of all where there are fewer.

    Never every n-th: MNIST's order alternates between its two groups of writers.
    """
    order = torch.randperm(len(split), generator=stream, device=stream.device)
    return order[:count].sort().values.to(split.images.device)
