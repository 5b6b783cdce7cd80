"""Which float32 arithmetic gives the same bits on another processor, and do the models?

    python benchmarks/bits.py            # digests of operations and models, beside bits.json
    python benchmarks/bits.py --check    # exits with 1 if what is portable differs from bits.json
    python benchmarks/bits.py --write    # makes benchmarks/bits.json of what this processor gives

Portable is as under `compute.portable`, which checks a digest of its own in `core/fast_cpu.py`:
`--write` prints what that should be. As another processor, on Debian with qemu-user:

    qemu-x86_64 -cpu Haswell-noTSX .venv/bin/python benchmarks/bits.py --check
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generative.core.variables import PORTABLE

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "benchmarks" / "bits.json"
STEPS = 2
BATCH = 32  # images a step: an emulated processor takes a second an image
COMMON: dict[str, Any] = {
    "epochs": 1,
    "batch_size": BATCH,
    "weight_decay": 0.0,
    "optimizer": "adam",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "ae": {
        **{"lr": 1e-3, "weight_decay": 1e-5, "latent_dim": 4},
        **{"loss": "mse", "noise_factor": 0.3, "target": "noisy"},
    },
    "vae": {"lr": 1e-3, "latent_dim": 200, "hidden_dim": 400, "beta": 1.0},
    "gan": {
        **{"lr": 5e-4, "latent_dim": 64, "hidden_dim": 400},
        **{"beta1": 0.5, "instance_noise": 1.0},
    },
}
"""The sizes of the defaults."""
NOT_PORTABLE = {
    *("sqrt", "atan", "asin", "log10", "cdist", "cholesky", "conv2d, backward"),
    *("Adam", "RMSprop", "Adadelta"),
}
"""Operations that differ between processors whatever is set."""

Digests = dict[str, str]


def operations() -> Digests:
    """What each of PyTorch's operations gives, and a few of NumPy's and SciPy's."""
    import numpy as np
    import scipy.linalg
    import torch
    from torch.nn import functional as F

    from generative.core.fast_cpu import product

    numpy = ".".join(np.__version__.split(".")[:2])
    torch.set_num_threads(2)
    torch.set_flush_denormal(True)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(100, 400, generator=rng)
    t = torch.rand(100, 400, generator=rng)
    p = t + 0.01
    images = torch.randn(16, 8, 14, 14, generator=rng)
    windows = torch.randn(16, 8, 3, 3, generator=rng)
    weight = torch.randn(200, 400, generator=rng)
    bias = torch.randn(200, generator=rng)
    wide, heavy = (torch.randn(count, 784, generator=rng) for count in (128, 400))
    kernel, taps = (torch.randn(count, 72, generator=rng) for count in (16, 128 * 14 * 14))
    matrix = torch.diag(torch.arange(1.0, 201.0)) + 0.1

    def drawn() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    def taught(make: Callable[..., torch.optim.Optimizer], **settings: Any) -> "Tensor":
        parameter = torch.nn.Parameter(x.clone())
        optimizer = make([parameter], **settings)
        for number in range(1, 6):
            parameter.grad = t * number
            optimizer.step()
        return parameter

    def convolved() -> "Tensor":
        given, kernel = (one.clone().requires_grad_() for one in (images, windows))
        out = F.conv2d(given, kernel, stride=2, padding=1)
        out.square().sum().backward()  # type: ignore[no-untyped-call]
        assert given.grad is not None
        assert kernel.grad is not None
        return torch.cat([given.grad.flatten(), kernel.grad.flatten()])

    named: dict[str, Callable[[], Any]] = {
        "product, oneDNN": lambda: product(x, weight, bias),
        "product of a transpose, oneDNN": lambda: product(x.t(), t.t()),
        "product of 784, oneDNN": lambda: product(wide, heavy),
        "product of a convolution, oneDNN": lambda: product(kernel, taps),
        "product, MKL": lambda: torch.addmm(bias, x, weight.T),
        "matrix and vector": lambda: x @ weight[0],
        "conv2d": lambda: F.conv2d(images, windows, stride=2, padding=1),
        "conv_transpose2d": lambda: F.conv_transpose2d(images, windows.transpose(0, 1), stride=2),
        "conv2d, backward": convolved,
        "batch_norm": lambda: F.batch_norm(images, None, None, training=True),
        "layer_norm": lambda: F.layer_norm(x, (400,)),
        "sum": lambda: x.sum(1),
        "mean": lambda: x.mean(0),
        "var": lambda: x.var(1),
        "std": lambda: x.std(1),
        "norm": lambda: x.norm(dim=1),
        "cumsum": lambda: x.cumsum(1),
        "exp": lambda: x.exp(),
        "log": lambda: p.log(),
        "log10": lambda: p.log10(),
        "log1p": lambda: p.log1p(),
        "expm1": lambda: x.expm1(),
        "sqrt": lambda: p.sqrt(),
        "rsqrt": lambda: p.rsqrt(),
        "pow": lambda: p.pow(1.5),
        "erf": lambda: x.erf(),
        "atan": lambda: x.atan(),
        "asin": lambda: t.asin(),
        "sin": lambda: x.sin(),
        "tanh": lambda: x.tanh(),
        "sigmoid": lambda: x.sigmoid(),
        "softplus": lambda: F.softplus(x),
        "softmax": lambda: F.softmax(x, 1),
        "logsumexp": lambda: x.logsumexp(1),
        "gelu": lambda: F.gelu(x),
        "silu": lambda: F.silu(x),
        "leaky_relu": lambda: F.leaky_relu(x, 0.2),
        "binary cross entropy of logits": lambda: F.binary_cross_entropy_with_logits(
            x, t, reduction="none"
        ),
        "cross entropy": lambda: F.cross_entropy(x, torch.arange(100), reduction="none"),
        "mse": lambda: F.mse_loss(x, t).reshape(1),
        "randn": lambda: torch.randn(999, generator=drawn()),
        "normal": lambda: torch.normal(t, 0.3, generator=drawn()),
        "bernoulli": lambda: torch.bernoulli(t, generator=drawn()),
        "cdist": lambda: torch.cdist(x, x[:50]),
        "svdvals": lambda: torch.linalg.svdvals(weight),
        "cholesky": lambda: torch.linalg.cholesky(matrix @ matrix.T),
        "solve": lambda: torch.linalg.solve(matrix, bias),
        "rfft": lambda: torch.fft.rfft(x).abs(),
        "Adam, fused": lambda: taught(torch.optim.Adam, fused=True),
        "Adam": lambda: taught(torch.optim.Adam, fused=False),
        "RMSprop": lambda: taught(torch.optim.RMSprop),
        "Adadelta": lambda: taught(torch.optim.Adadelta),
        "NumPy: product, float32": lambda: x.numpy() @ weight.numpy().T,
        "NumPy: product, float64": lambda: x.double().numpy() @ weight.double().numpy().T,
        "NumPy: exp, float32": lambda: np.exp(x.numpy()),
        "NumPy: exp, float64": lambda: np.exp(x.double().numpy()),
        "NumPy: log, float64": lambda: np.log(p.double().numpy()),
        "NumPy: sqrt, float64": lambda: np.sqrt(p.double().numpy()),
        "NumPy: sum, float32": lambda: x.numpy().sum(1),
        # By the OpenBLAS within NumPy, which each of its versions brings anew.
        f"NumPy {numpy}: svd, float64": lambda: np.linalg.svd(
            weight.double().numpy(), compute_uv=False
        ),
        "NumPy: eigh, float64": lambda: np.linalg.eigh(matrix.double().numpy())[0],
        "SciPy: svd, float64": lambda: scipy.linalg.svdvals(weight.double().numpy()),
        "SciPy: solve, float64": lambda: scipy.linalg.solve(
            matrix.double().numpy(), bias.double().numpy()
        ),
    }
    return {name: _digest([operation()]) for name, operation in named.items()}


def models() -> Digests:
    """The weights of each model after a few portable steps on images drawn here."""
    import torch

    from generative.core.compute import Compute, prepare
    from generative.core.images import Split
    from generative.core.loop import Steps, initialise, make_optimizers
    from generative.models.registry import REGISTRY

    compute = Compute(
        device="cpu", threads=2, precision="float32", deterministic=True, portable=True
    )
    device = prepare(compute)
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 256, (STEPS * BATCH, 1, 28, 28), generator=rng)
    split = Split(drawn.to(torch.uint8), None)
    found = {}
    for name, settings in CONFIGS.items():
        model_class = REGISTRY[name]
        config = model_class.config_class(**COMMON | settings)
        model = initialise(model_class, config, 0, device).train()
        steps = Steps(model, make_optimizers(model), split, compute, device)
        steps.noise.manual_seed(0)
        for index in torch.split(torch.arange(STEPS * BATCH), BATCH):
            steps.eager(index)
        found[name] = _digest(value for _, value in sorted(model.state_dict().items()))
    return found


def _digest(values: Iterable[Any]) -> str:
    """16 hexadecimal digits."""
    import numpy as np
    import torch

    digest = hashlib.sha256()
    for value in values:
        array = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description="Bits on this processor, and those of others.")
    parser.add_argument("--check", action="store_true", help="is what is portable as committed?")
    parser.add_argument("--write", action="store_true", help="bits.json of this processor")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        sys.stdout.write(json.dumps(operations()))
        return
    os.environ.update(PORTABLE)
    own = _as_it_chooses() if not (given.check or given.write) else {}
    found = {"operations": operations()}
    if given.write:
        from generative.core.fast_cpu import PORTABLE_DIGEST, portable_digest

        print(f"core/fast_cpu.py has {PORTABLE_DIGEST}, here is {portable_digest()}")
    found["models"] = models()
    committed = json.loads(COMMITTED.read_text())
    if given.write:
        others = {name: d for name, d in committed["operations"].items() if "NumPy 2" in name}
        found["operations"] = others | found["operations"]
        COMMITTED.write_text(json.dumps(found, indent=2) + "\n")
        return
    if own:
        _print_table(own, found, committed)
    different = [
        f"{name} gives {digest}, committed is {was}"
        for kind, digests in found.items()
        for name, digest in digests.items()
        if name not in NOT_PORTABLE and digest != (was := committed[kind].get(name, "nothing"))
    ]
    print("\n".join(different) or "all that is portable is as committed")
    sys.exit(bool(different))


def _as_it_chooses() -> Digests:
    """The operations in a process where nothing is set."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure"],
        env={name: text for name, text in os.environ.items() if name not in PORTABLE},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def _print_table(own: Digests, found: dict[str, Digests], committed: dict[str, Digests]) -> None:
    from rich.console import Console
    from rich.table import Table

    with open("/proc/cpuinfo") as file:
        lines = [line for line in file if line.startswith(("model name", "cpu family", "model\t"))]
    title = "; ".join(sorted({" ".join(line.split()) for line in lines}))
    shown = Table("", "as it chooses", "portable", "committed", title=title)
    for kind, digests in found.items():
        for name, digest in digests.items():
            left = "differs by nature" if name in NOT_PORTABLE else committed[kind].get(name, "")
            shown.add_row(name, own.get(name, ""), digest, left)
    Console().print(shown)


if __name__ == "__main__":
    main()
