"""Random streams: one for each purpose and epoch, so that none shifts another."""

import hashlib

import torch


def generator(device: torch.device, seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """A random stream of its own for each purpose and epoch, so that none shifts another."""
    stream = torch.Generator(device)
    reseed(stream, seed, purpose, epoch)
    return stream


def reseed(stream: torch.Generator, seed: int, purpose: str, epoch: int = 0) -> None:
    """Set a stream to the beginning of that purpose's and epoch's."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    stream.manual_seed(int.from_bytes(digest[:8]) >> 1)
