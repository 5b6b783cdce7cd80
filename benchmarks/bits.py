"""Which float32 arithmetic of PyTorch gives the same bits on another processor?

    python benchmarks/bits.py

Each kind runs in a process of its own and prints a digest of its bits, for the table of
docs/seeds.md.
"""

import hashlib
import os
import subprocess
import sys

from rich.console import Console
from rich.table import Table

KINDS = {
    "products by oneDNN": ("linear", {}),
    "products by oneDNN, AVX2": ("linear", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "products by MKL": ("mm", {}),
    "products by MKL, compatible": ("mm", {"MKL_CBWR": "COMPATIBLE"}),
    "elementwise": ("elementwise", {}),
    "elementwise, AVX2": ("elementwise", {"ATEN_CPU_CAPABILITY": "avx2"}),
    "sums and batch norm": ("sums", {}),
    "sums and batch norm, AVX2": ("sums", {"ATEN_CPU_CAPABILITY": "avx2"}),
}
SHAPES = [(100, 784, 400), (100, 400, 400), (100, 400, 784), (37, 400, 200), (128, 288, 128)]


def measure(kind: str) -> str:
    """A digest of what that kind of arithmetic gives, in 16 hexadecimal digits."""
    import torch
    from torch.nn import functional as F

    from generative.core.fast_cpu import product

    torch.set_num_threads(2)
    torch.set_flush_denormal(True)
    rng = torch.Generator().manual_seed(0)
    found = []
    if kind in ("linear", "mm"):
        for batch, inputs, outputs in SHAPES:
            a = torch.randn(batch, inputs, generator=rng)
            w = torch.randn(outputs, inputs, generator=rng)
            b = torch.randn(outputs, generator=rng)
            g = torch.randn(batch, outputs, generator=rng)
            if kind == "mm":
                found += [torch.addmm(b, a, w.T), g @ w, g.T @ a]
            else:
                found += [product(a, w, b), product(g, w.t()), product(g.t(), a.t())]
    else:
        x = torch.randn(100, 784, generator=rng)
        t = torch.rand(100, 784, generator=rng)
        if kind == "elementwise":
            found = [x, t, x.exp(), torch.sigmoid(x), F.leaky_relu(x, 0.2)]
            found += [torch.normal(t, 0.3, generator=rng)]
            found += [F.binary_cross_entropy_with_logits(x, t, reduction="none")]
            found += [t.log(), x.square().sqrt()]
        else:
            y = torch.randn(128, 8, 28, 28, generator=rng)
            found = [x.sum(1), x.sum(0), x.mean().reshape(1), y.mean((0, 2, 3))]
            found += [y.var((0, 2, 3)), F.batch_norm(y, None, None, training=True)]
    digest = hashlib.sha256()
    for tensor in found:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """Print a table, or the digest of the kind that is asked for."""
    if len(sys.argv) > 1:
        sys.stdout.write(measure(sys.argv[1]))
        return
    with open("/proc/cpuinfo") as file:
        lines = [line for line in file if line.startswith(("model name", "cpu family", "model\t"))]
    shown = Table(
        "arithmetic", "digest", title="; ".join(sorted({" ".join(x.split()) for x in lines}))
    )
    for name, (kind, variables) in KINDS.items():
        done = subprocess.run(
            [sys.executable, __file__, kind],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        shown.add_row(name, done.stdout)
    Console().print(shown)


if __name__ == "__main__":
    main()
