"""`compute.portable`: the same bits on every x86-64 processor with AVX2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow_views import runs
from needs import program
from workspaces import IDENTICAL, ROOT, SAMPLE, Workspace, verify

from generative.checks import check_portable
from generative.core.compute import prepare
from generative.core.fast_cpu import use_fast_layers, use_portable_products
from generative.core.images import load_images
from generative.core.variables import PORTABLE, set_variables
from generative.errors import RunFailed, UserError
from generative.models.gan import GAN
from models import CPU, compute, config

BITS = (str(ROOT / "benchmarks" / "bits.py"), "--models")
SPINS = "10000"
QEMU = ("Haswell-noTSX", "EPYC-Milan")
"""An Intel and an AMD, as QEMU calls them."""


def emulated(processor: str) -> tuple[str, ...]:
    """How a program is started as if on that processor."""
    qemu = program("qemu-x86_64")
    assert qemu
    return (qemu, "-cpu", processor)


def _other() -> str:
    """A processor of the maker that this one is not of."""
    return QEMU["GenuineIntel" in Path("/proc/cpuinfo").read_text()]


def measured(*command: str) -> str:
    """What a command prints that finds the committed bits."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.needs("avx2")
def test_two_steps_of_each_model_have_the_committed_bits() -> None:
    said = measured(sys.executable, *BITS)
    assert [line.split()[0] for line in said.splitlines()] == ["ae", "vae", "gan"]


@pytest.mark.slow
@pytest.mark.needs("qemu")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("processor", QEMU)
def test_and_so_they_have_on_other_makers_processors(processor: str) -> None:
    measured(*emulated(processor), sys.executable, *BITS)


@pytest.mark.slow
@pytest.mark.needs("qemu", "avx2")
@pytest.mark.timeout(900)
def test_a_run_of_this_processor_is_rebuilt_bit_for_bit_on_another(
    workspace: Workspace, tmp_path: Path
) -> None:
    workspace.set_params(compute__portable=True, vae__epochs=1)
    workspace.run("python", "stages/train_vae.py")
    python = tmp_path / "python"
    command = " ".join((*emulated(_other()), sys.executable))
    python.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    python.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    said = verify(workspace, runs(workspace, "train-vae")[0].info.run_id, PATH=path)
    assert IDENTICAL in said


def test_only_the_cpus_float32_is_portable() -> None:
    with pytest.raises(UserError) as refused:
        prepare(compute(portable=True, precision="bf16"))
    assert str(refused.value) == (
        "params.yaml: compute.portable is true, but compute.device is cpu and compute.precision "
        "bf16; only the CPU's float32 is portable: set them to cpu and float32, or portable to "
        "false."
    )


@pytest.mark.parametrize("optimizer", ["rmsprop", "adadelta"])
def test_optimizers_with_square_roots_of_the_processors_own_are_refused(optimizer: str) -> None:
    chosen = config(GAN, optimizer=optimizer)
    check_portable("gan", chosen, compute())
    with pytest.raises(UserError) as refused:
        check_portable("gan", chosen, compute(portable=True))
    assert str(refused.value) == (
        f"params.yaml: compute.portable is true, but gan.optimizer is {optimizer}, whose square "
        "roots differ between processors; set gan.optimizer to adam, or compute.portable to false."
    )


def test_a_processor_that_computes_otherwise_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generative.core.compute.PORTABLE", {})  # this process stays as it is
    monkeypatch.setattr("generative.core.compute.PORTABLE_DIGEST", "another")
    with pytest.raises(RunFailed, match=r"^compute\.portable is true, but this processor's arith"):
        prepare(compute(portable=True))
    use_portable_products(False)


def test_a_layer_whose_gradient_is_not_portable_is_refused() -> None:
    images = load_images(SAMPLE, CPU).test.to_float(slice(0, 2))
    layers = [
        torch.nn.Conv2d(1, 2, 3, 1, 1),
        torch.nn.Conv2d(1, 2, 3, 2, 0),
        torch.nn.ConvTranspose2d(1, 2, 4, 2, 1),
    ]
    for layer in layers:
        use_fast_layers(layer)(images)
        use_portable_products(True)
        try:
            with pytest.raises(UserError, match=r"gradients of Conv.* on images of 28 x 28 differ"):
                layer(images)
        finally:
            use_portable_products(False)


@pytest.mark.parametrize(
    ("text", "set_before", "expected"),
    [
        ("compute: {portable: true}\n", {}, {"GOMP_SPINCOUNT": SPINS, **PORTABLE}),
        (
            "compute: {portable: true}\n",
            {"MKL_CBWR": "AUTO"},
            {"GOMP_SPINCOUNT": SPINS, **PORTABLE},
        ),
        ("compute: {portable: false}\n", {"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"}),
        ("compute: {}\n", {"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ("compute: 1\n", {}, {"GOMP_SPINCOUNT": SPINS}),
        ("a: [\n", {}, {"GOMP_SPINCOUNT": SPINS}),
    ],
)
def test_a_stage_sets_what_libraries_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    set_before: dict[str, str],
    expected: dict[str, str],
) -> None:
    names = {*PORTABLE, "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    given = {name: value for name, value in os.environ.items() if name not in names} | set_before
    monkeypatch.setattr(os, "environ", given)
    (tmp_path / "params.yaml").write_text(text)
    set_variables(tmp_path / "params.yaml")
    assert {name: value for name, value in given.items() if name in names} == expected


def test_it_is_set_before_any_library_is_imported() -> None:
    code = "import sys, checkout; print({'numpy', 'torch', 'sklearn'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "stages")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"
