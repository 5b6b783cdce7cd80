"""`compute.portable`: the same bits on every x86-64 processor with AVX2."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from mlflow_views import runs, verdict
from needs import program
from workspaces import IDENTICAL, ROOT, Workspace, assert_says, verify

from generative.checks import check_portable
from generative.core.compute import prepare
from generative.core.fast_cpu import PORTABLE_DIGEST, use_fast_layers, use_portable_products
from generative.core.images import ImageSet
from generative.core.loop import make_optimizers
from generative.core.variables import PORTABLE, set_variables
from generative.errors import RunFailed, UserError
from models import compute, gan

BITS = ROOT / "benchmarks" / "bits.py"
IS_INTEL = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
OTHER = "EPYC-Milan" if IS_INTEL else "Haswell-noTSX"
"""A processor of the other maker, as QEMU calls it."""
WAITS = {"GOMP_SPINCOUNT": "10000"}


def emulated() -> tuple[str, ...]:
    """How this Python is started as if on the other maker's processor."""
    qemu = program("qemu-x86_64")
    assert qemu
    return (qemu, "-cpu", OTHER, sys.executable)


def printed(*command: str, variables: Mapping[str, str] = {}, cwd: Path = ROOT) -> str:
    """What a command prints that ends well."""
    ours = (*PORTABLE, *WAITS, "OMP_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        command, cwd=cwd, env={**kept, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.needs("avx2")
def test_what_is_portable_has_the_committed_bits() -> None:
    assert printed(sys.executable, str(BITS), "--check").endswith("is as committed\n")
    found = json.loads(BITS.with_suffix(".json").read_text())["models"]
    page = (ROOT / "docs" / "seeds.md").read_text(encoding="utf-8")
    assert list(found) == ["ae", "vae", "gan"]
    assert all(f" | {digest} |" in page for digest in found.values())


@pytest.mark.slow
@pytest.mark.needs("qemu", "avx2")
@pytest.mark.timeout(900)
def test_and_so_it_has_on_a_processor_of_the_other_maker() -> None:
    printed(*emulated(), str(BITS), "--check")


@pytest.mark.slow
@pytest.mark.needs("qemu", "avx2")
@pytest.mark.timeout(900)
def test_a_run_of_this_processor_is_rebuilt_bit_for_bit_on_another(
    workspace: Workspace, tmp_path: Path
) -> None:
    marker = tmp_path / "emulated"
    script = 'test -z "$OTHER" || echo "$@" >> "$MARKER"\nexec ${OTHER:-python} "$@"\n'
    (workspace.path / "by.sh").write_text(script)
    pipeline = workspace.read("dvc.yaml").decode()
    command = "exec python stages/train_vae.py"
    assert command in pipeline
    changed = pipeline.replace(command, "exec sh by.sh stages/train_vae.py")
    (workspace.path / "dvc.yaml").write_text(changed)
    workspace.set_params(compute__portable=True, vae__epochs=1)
    workspace.commit("by any processor").run("dvc", "repro", "--single-item", "train-vae")
    run = runs(workspace, "train-vae")[0].info.run_id
    said = verify(workspace, run, OTHER=" ".join(emulated()), MARKER=str(marker))
    assert marker.read_text() == "stages/train_vae.py\n"
    assert IDENTICAL in said


@pytest.mark.slow
@pytest.mark.needs("avx512")
def test_a_process_that_lacks_one_of_pytorchs_variables_is_told_apart() -> None:
    code = "from generative.core import fast_cpu as c; print(c.portable_digest())"
    code = f"import torch; torch.set_num_threads(1); {code}"
    assert printed(sys.executable, "-c", code, variables=PORTABLE) == f"{PORTABLE_DIGEST}\n"
    for name in ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA"):
        rest = {key: value for key, value in PORTABLE.items() if key != name}
        assert printed(sys.executable, "-c", code, variables=rest) != f"{PORTABLE_DIGEST}\n", name


@pytest.mark.slow
@pytest.mark.needs("mkl")
def test_other_arithmetic_is_named_and_equal_or_different_by_the_tolerance(
    workspace: Workspace,
) -> None:
    """By MKL's kernels for any processor, which round otherwise than those it takes by itself."""
    workspace.run("runrecord", "sync")
    output = verify(workspace, "HEAD:ae", MKL_CBWR="COMPATIBLE")
    assert re.search(
        r"Verdict: equal within tolerance: \d+ results differ, first \S.* at step \d.*"
        r"; other here: env\.MKL_CBWR\.",
        output,
    )
    output = verify(workspace, "HEAD:ae", "--tolerance=0", status=1, MKL_CBWR="COMPATIBLE")
    assert "possible cause: env.MKL_CBWR." in output
    (run,) = runs(workspace, "train-ae")
    assert verdict(workspace, run) == "different"


def test_only_the_cpus_float32_is_portable() -> None:
    for values in ({"precision": "bf16"}, {"device": "cuda:1"}):
        with pytest.raises(UserError) as refused:
            prepare(compute(portable=True, **values))
        (value,) = values.values()
        said = f"params.yaml: compute.portable is true, but compute.device is ... {value}"
        assert_says(str(refused.value), f"{said} ... set them to cpu and float32, or portable to")


def test_optimizers_with_square_roots_of_the_processors_own_are_refused() -> None:
    model = gan(optimizer="rmsprop")
    check_portable("gan", model.config, compute())
    with pytest.raises(UserError) as refused:
        check_portable("gan", model.config, compute(portable=True))
    said = "params.yaml: compute.portable is true, but gan.optimizer is rmsprop ... to adam, or"
    assert_says(str(refused.value), said)
    with portable_products(), pytest.raises(UserError, match=r"but the square root of rmsprop d"):
        make_optimizers(model)  # as of a model that names one of its own


def test_arithmetic_that_is_another_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PORTABLE:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        RunFailed, match=r"^compute\.portable is true, but ATEN_CPU_CAPABILITY is n"
    ):
        prepare(compute(portable=True))
    monkeypatch.setattr("generative.core.fast_cpu.PORTABLE", {})
    monkeypatch.setattr("generative.core.fast_cpu.PORTABLE_DIGEST", "another")
    with pytest.raises(RunFailed, match=r"^compute\.portable is true, but arithmetic here gives "):
        prepare(compute(portable=True))


class Own(torch.nn.Conv2d):
    """A subclass, which stays what it is."""


def test_a_layer_whose_gradient_is_not_portable_is_refused(data: ImageSet) -> None:
    images = data.test.to_float(slice(0, 2))
    layer = use_fast_layers(torch.nn.Conv2d(1, 2, 3, 2, 0))
    layer(images)
    for other in (Own(1, 2, 3, 2, 1), torch.nn.Conv1d(1, 2, 3)):
        use_fast_layers(torch.nn.Sequential(other))
        with portable_products(), pytest.raises(UserError, match=r"gradient of .* differs between"):
            use_fast_layers(torch.nn.Sequential(other))
    with (
        portable_products(),
        pytest.raises(UserError, match=r"gradient of Conv.* on images of 28 x 28 differs"),
    ):
        layer(images)


@contextmanager
def portable_products() -> Iterator[None]:
    """As under `compute.portable`."""
    use_portable_products(True)
    try:
        yield
    finally:
        use_portable_products(False)


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("compute: {portable: true}\n", {"OMP_THREAD_LIMIT": "1"}, WAITS | PORTABLE),
        ("compute: {portable: true}\n", {"MKL_CBWR": "AUTO"}, WAITS | PORTABLE),
        ("compute: {portable: false}\n", {"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"}),
        ("compute: 1\n", {"OMP_DYNAMIC": "true"}, WAITS | {"OMP_DYNAMIC": "true"}),
        ("a: [\n", {}, WAITS),
    ],
)
def test_what_libraries_read_is_set_as_params_yaml_says(
    tmp_path: Path, text: str, given: dict[str, str], expected: dict[str, str]
) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with patch.dict(os.environ, given, clear=True):
        set_variables(tmp_path / "params.yaml")
        assert dict(os.environ) == expected


def test_a_stage_sets_it_before_any_library_is_imported() -> None:
    code = "import checkout, os, sys; print(os.environ['GOMP_SPINCOUNT'], *sys.modules)"
    stages = {"PYTHONPATH": str(ROOT / "stages")}
    said = printed(sys.executable, "-c", code, variables=stages).split()
    assert said[0] == WAITS["GOMP_SPINCOUNT"]
    assert not {"numpy", "torch", "sklearn"} & {*said}
