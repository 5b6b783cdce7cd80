"""The same trainings in JAX: the whole epoch one compiled scan, images resident; prints JSON.

Same layers, losses, optimizer, sizes and order of work as ours, with training alone: no test
losses, no preview, no record. Runs in an environment of its own, peers-requirements.txt.

    python peer_jax.py MODEL IMAGES CONFIG scan|step

IMAGES is MNIST's IDX file of training images, CONFIG a model's block of params.yaml as JSON, with
how many `images` to train on. In a
loop, XLA runs convolutions on one thread: there a jitted call a step is faster than a scan.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

jax.config.update("jax_default_prng_impl", "unsafe_rbg")  # the fastest that it has on a CPU

Params = dict[str, Any]
Losses = dict[str, jax.Array]
PIXELS = 28 * 28


def linear(key: jax.Array, inputs: int, outputs: int) -> Params:
    """Weights and bias as PyTorch draws them."""
    bound = 1 / math.sqrt(inputs)
    weight, bias = random.split(key)
    return {
        "weight": random.uniform(weight, (inputs, outputs), minval=-bound, maxval=bound),
        "bias": random.uniform(bias, (outputs,), minval=-bound, maxval=bound),
    }


def dense(layer: Params, x: jax.Array) -> jax.Array:
    """A linear layer."""
    return x @ layer["weight"] + layer["bias"]


def leaky(x: jax.Array) -> jax.Array:
    """LeakyReLU(0.2)."""
    return jnp.where(x > 0, x, 0.2 * x)


def cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Of each pixel, from logits."""
    return jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))


class VAE:
    """The variational autoencoder."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.hidden, self.latent = config["hidden_dim"], config["latent_dim"]
        self.beta = config["beta"]

    def init(self, key: jax.Array) -> list[Params]:
        """One update's parameters."""
        n, z = self.hidden, self.latent
        sizes = {
            "e1": (PIXELS, n), "e2": (n, n), "mean": (n, z), "log_variance": (n, z),
            "d1": (z, n), "d2": (n, n), "d3": (n, PIXELS),
        }  # fmt: skip
        keys = random.split(key, len(sizes))
        return [{name: linear(k, *s) for k, (name, s) in zip(keys, sizes.items(), strict=True)}]

    def losses(self, _number: int, parts: list[Params], x: jax.Array, key: jax.Array) -> Losses:
        """The losses of each example; the objective's is the first."""
        (p,) = parts
        x = x.reshape(len(x), -1)
        features = leaky(dense(p["e2"], leaky(dense(p["e1"], x))))
        mean, log_variance = dense(p["mean"], features), dense(p["log_variance"], features)
        z = mean + jnp.exp(log_variance / 2) * random.normal(key, mean.shape)
        logits = dense(p["d3"], leaky(dense(p["d2"], leaky(dense(p["d1"], z)))))
        error = cross_entropy(logits, x).sum(1)
        kl = (-0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance))).sum(1)
        return {"total": error + self.beta * kl, "error": error, "kl": kl}

    objective = staticmethod(jnp.sum)


class GAN:
    """The generative adversarial network: discriminator, then generator."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.hidden, self.latent = config["hidden_dim"], config["latent_dim"]
        self.noise = config["instance_noise"]

    def init(self, key: jax.Array) -> list[Params]:
        """The parameters of both updates."""
        n, keys = self.hidden, random.split(key, 6)
        judge = {
            "1": linear(keys[0], PIXELS, n), "2": linear(keys[1], n, n), "3": linear(keys[2], n, 1)
        }  # fmt: skip
        made = {
            "1": linear(keys[3], self.latent, n), "2": linear(keys[4], n, n),
            "3": linear(keys[5], n, PIXELS),
            **{f"norm{i}": {"weight": jnp.ones(n), "bias": jnp.zeros(n)} for i in (1, 2)},
        }  # fmt: skip
        return [judge, made]

    def losses(self, number: int, parts: list[Params], x: jax.Array, key: jax.Array) -> Losses:
        """The losses of each example; the objective's is the first."""
        judge, made = parts
        keys = random.split(key, 3)
        samples = self.sample(made, len(x), keys[0])
        if number == 1:
            return {"generator": jax.nn.softplus(-self.judge(judge, samples, keys[1]))}
        real = self.judge(judge, x.reshape(len(x), -1), keys[1])
        drawn = self.judge(judge, samples, keys[2])
        loss = jax.nn.softplus(-real) + jax.nn.softplus(drawn)
        return {"loss": loss, "data": jax.nn.sigmoid(real), "samples": jax.nn.sigmoid(drawn)}

    objective = staticmethod(jnp.mean)

    def sample(self, p: Params, count: int, key: jax.Array) -> jax.Array:
        """Images."""
        z = random.normal(key, (count, self.latent))
        h = leaky(norm(p["norm1"], dense(p["1"], z)))
        h = leaky(norm(p["norm2"], dense(p["2"], h)))
        return jax.nn.sigmoid(dense(p["3"], h))

    def judge(self, p: Params, x: jax.Array, key: jax.Array) -> jax.Array:
        """Logits, under noise."""
        x = x + self.noise * random.normal(key, x.shape)
        return dense(p["3"], leaky(dense(p["2"], leaky(dense(p["1"], x)))))[:, 0]


def norm(p: Params, x: jax.Array) -> jax.Array:
    """Layer norm."""
    centred = x - x.mean(1, keepdims=True)
    scale = lax.rsqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    return centred * scale * p["weight"] + p["bias"]


class AE:
    """The denoising convolutional autoencoder, (B, H, W, C) as XLA likes it on a CPU."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.latent, self.factor = config["latent_dim"], config["noise_factor"]

    def init(self, key: jax.Array) -> list[Params]:
        """One update's parameters."""
        keys = iter(random.split(key, 10))
        p: Params = {}
        channels = (1, 8, 16, 32)
        for i, (inputs, outputs) in enumerate(pairwise(channels)):
            for name, shape in ((f"c{i}", (inputs, outputs)), (f"t{i}", (outputs, inputs))):
                bound = 1 / math.sqrt(9 * inputs)
                weight = random.uniform(next(keys), (3, 3, *shape), minval=-bound, maxval=bound)
                p[name] = {"weight": weight, "bias": jnp.zeros(shape[1])}
        sizes = {"l1": (288, 128), "l2": (128, self.latent), "l3": (self.latent, 128)}
        for name, size in {**sizes, "l4": (128, 288)}.items():
            p[name] = linear(next(keys), *size)
        for name, size in {"n1": 16, "n2": 16, "n3": 8}.items():
            p[name] = {"weight": jnp.ones(size), "bias": jnp.zeros(size)}
        return [p]

    def losses(self, _number: int, parts: list[Params], x: jax.Array, key: jax.Array) -> Losses:
        """The losses of each example; the objective's is the first."""
        (p,) = parts
        noisy = jnp.clip(x + self.factor * random.normal(key, x.shape), 0, 1)
        h = jax.nn.relu(conv(p["c0"], noisy, 1))
        h = jax.nn.relu(batch_norm(p["n1"], conv(p["c1"], h, 1)))
        h = jax.nn.relu(conv(p["c2"], h, 0)).reshape(len(x), -1)
        h = dense(p["l2"], jax.nn.relu(dense(p["l1"], h)))
        h = jax.nn.relu(dense(p["l4"], jax.nn.relu(dense(p["l3"], h)))).reshape(-1, 3, 3, 32)
        h = jax.nn.relu(batch_norm(p["n2"], transposed(p["t2"], h, 0)))
        h = jax.nn.relu(batch_norm(p["n3"], transposed(p["t1"], h, 1)))
        error = (jax.nn.sigmoid(transposed(p["t0"], h, 1)) - noisy) ** 2
        return {"total": error.mean((1, 2, 3))}

    objective = staticmethod(jnp.mean)


LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(p: Params, x: jax.Array, pad: int) -> jax.Array:
    """3 x 3 with stride 2."""
    pads = [(pad, pad)] * 2
    return (
        lax.conv_general_dilated(x, p["weight"], (2, 2), pads, dimension_numbers=LAYOUT) + p["bias"]
    )


def transposed(p: Params, x: jax.Array, pad: int) -> jax.Array:
    """Its transpose; the side doubles, or doubles and one more."""
    pads = [(2 - pad, 2)] * 2
    made = lax.conv_general_dilated(
        x, p["weight"], (1, 1), pads, lhs_dilation=(2, 2), dimension_numbers=LAYOUT
    )
    return made + p["bias"]


def batch_norm(p: Params, x: jax.Array) -> jax.Array:
    """In training."""
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) * lax.rsqrt(variance + 1e-5) * p["weight"] + p["bias"]


MODELS: dict[str, Any] = {"ae": AE, "vae": VAE, "gan": GAN}


def train(
    name: str, images: jax.Array, config: dict[str, Any], epochs: int, scan: bool
) -> list[float]:
    """Seconds of each epoch; compiling is in the first."""
    model, size = MODELS[name](config), config["batch_size"]
    key = random.key(0)
    parts = model.init(key)
    states = [(jax.tree.map(jnp.zeros_like, p), jax.tree.map(jnp.zeros_like, p)) for p in parts]
    beta1 = config.get("beta1", 0.9)

    def objective(part: Params, number: int, parts: list[Params], x: Any, key: Any) -> Any:
        losses = model.losses(number, [*parts[:number], part, *parts[number + 1 :]], x, key)
        return model.objective(next(iter(losses.values()))), losses

    gradients = jax.grad(objective, has_aux=True)

    def step(carry: Any, index: jax.Array) -> tuple[Any, jax.Array]:
        parts, states, count, key = carry
        x = images[index].astype(jnp.float32)[..., None] / 255
        count, said = count + 1, []
        for number in range(len(parts)):
            key, own = random.split(key)
            gradient, losses = gradients(parts[number], number, parts, x, own)
            said += [values.mean() for values in losses.values()]
            part, state = adam(
                parts[number], gradient, states[number], count, config["lr"], beta1,
                config["weight_decay"],
            )  # fmt: skip
            parts = [*parts[:number], part, *parts[number + 1 :]]
            states = [*states[:number], state, *states[number + 1 :]]
        return (parts, states, count, key), jnp.stack(said)

    once = jax.jit(step, donate_argnums=0)

    @jax.jit
    def scanned(carry: Any, order: jax.Array) -> tuple[Any, jax.Array]:
        return lax.scan(step, carry, order)

    def epoch(carry: Any, key: jax.Array) -> tuple[Any, np.ndarray[Any, Any]]:
        order = random.permutation(key, len(images))
        whole = len(images) // size * size
        if scan:
            carry, losses = scanned(carry, order[:whole].reshape(-1, size))
            said = [*np.asarray(losses)]
        else:
            said = []
            for start in range(0, whole, size):
                carry, losses = once(carry, order[start : start + size])
                said.append(losses)
        if whole < len(images):
            carry, losses = once(carry, order[whole:])
            said.append(losses)
        return carry, np.stack([np.asarray(one) for one in said])

    carry = (parts, states, jnp.zeros((), jnp.int32), random.key(1))
    seconds = []
    for key in random.split(random.key(2), epochs):
        began = time.perf_counter()
        carry, losses = epoch(carry, key)
        means = losses.mean(0)
        seconds.append(time.perf_counter() - began)
        print(name, f"{seconds[-1]:.2f} s", means, file=sys.stderr)
    return seconds


def adam(
    p: Params, gradient: Params, state: Any, count: jax.Array, lr: float, beta1: float, decay: float
) -> tuple[Params, Any]:
    """PyTorch's: weight decay is the L2 penalty."""
    gradient = jax.tree.map(lambda g, w: g + decay * w, gradient, p) if decay else gradient
    first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state[0], gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state[1], gradient)
    one, two = 1 - beta1**count, jnp.sqrt(1 - 0.999**count)

    def moved(w: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        return w - lr / one * m / (jnp.sqrt(v) / two + 1e-8)

    return jax.tree.map(moved, p, first, second), (first, second)


def main(take: Callable[[str], bytes] = lambda path: Path(path).read_bytes()) -> None:
    """Train as the arguments say."""
    name, data, config = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    images = np.frombuffer(take(data), np.uint8, offset=16).reshape(-1, 28, 28)[: config["images"]]
    scan = sys.argv[4] == "scan"
    print(json.dumps(train(name, jnp.asarray(images), config, config["epochs"], scan)))


if __name__ == "__main__":
    main()
