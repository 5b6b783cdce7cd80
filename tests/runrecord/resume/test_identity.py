"""What a result depends on: only that decides whether a stopped run is resumed."""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workspaces import NUMERIC

from records import new_run
from runrecord.dvc.stages import Stage
from runrecord.errors import UserError
from runrecord.provenance.environment import Inputs, Origin, changes_numbers
from runrecord.resume.checkpoints import Checkpoints
from runrecord.resume.identity import Identity, differences, identity_of, without_length
from runrecord.store.runs import run_dir

STAGE = Stage("train", ("python train.py",), deps=("train.py", "data"))
PARAMS = {"seed": 0, "vae.lr": 0.001, "vae.epochs": 30, "vae.sizes": [3, 4], "vae.clip": None}
DEPS = {"train.py": "a" * 64, "data": "b" * 64}
INPUTS = Inputs(STAGE, PARAMS, (), DEPS, "train")
ORIGIN = Origin(INPUTS, {}, b"", "", "train")
SHOWN = {"lr": 0.001, "epochs": 30}


def identity(
    inputs: Mapping[str, Any] | None = None,
    shown: Mapping[str, Any] = SHOWN,
    device: str = "cpu AVX2",
    packages: tuple[str, ...] = ("numpy", "dvc"),
    environment: Mapping[str, str] | None = None,
) -> Identity:
    origin = replace(ORIGIN, inputs=replace(INPUTS, **inputs or {}))
    return identity_of(origin, shown, device, packages, environment=environment or {})


def digest_of(root: Path, one: Identity) -> Path:
    return Checkpoints(root, one)._folder


# Of the libraries that compute, and of others: which variable changes numbers.

NOT_NUMERIC = """
    CUDA_VISIBLE_DEVICES CUDA_HOME CUDA_CACHE_PATH CUDA_MODULE_LOADING CUDA_LAUNCH_BLOCKING
    TORCH_HOME TORCH_LOGS TORCHINDUCTOR_CACHE_DIR TORCHINDUCTOR_COMPILE_THREADS
    PYTORCH_CUDA_ALLOC_CONF PYTORCH_ALLOC_CONF OMP_DISPLAY_ENV OMP_STACKSIZE OMP_PROC_BIND
    OMP_PLACES KMP_BLOCKTIME KMP_AFFINITY GOMP_SPINCOUNT MKL_VERBOSE OPENBLAS_VERBOSE
    ONEDNN_VERBOSE DNNL_JIT_DUMP CUBLAS_LOGDEST_DBG CUDNN_PATH NCCL_DEBUG
    HOME PATH SHELL USER LANG LC_CTYPE TMPDIR PYTHONPATH PYTHONUNBUFFERED DVC_STAGE GIT_DIR
"""


def test_a_variable_that_changes_numbers_is_identity() -> None:
    for name in NUMERIC.split():
        was, now = identity(environment={name: "1"}), identity(environment={name: "2"})
        assert differences(was, now) == [f"{name} changed from 1 to 2"]
        assert differences(was, identity()) == [f"{name} changed from 1 to not set"]


def test_a_variable_that_changes_none_is_not(tmp_path: Path) -> None:
    assert [name for name in NOT_NUMERIC.split() if changes_numbers(name)] == []
    elsewhere = identity(environment=dict.fromkeys(f"{NOT_NUMERIC} {NUMERIC}".split(), ""))
    assert digest_of(tmp_path, elsewhere) == digest_of(tmp_path, identity())


# What looks different, and is the same.
SAME: dict[str, dict[str, Any]] = {
    "params in another order": {"inputs": {"params": dict(reversed(PARAMS.items()))}},
    "a whole number as a float": {"inputs": {"params": PARAMS | {"seed": 0.0}}},
    "a tuple for a list": {"inputs": {"params": PARAMS | {"vae.sizes": (3, 4.0)}}},
    "what other stages write": {"inputs": {"generated": ("elsewhere",)}},
    "another list of outs": {"inputs": {"stage": replace(STAGE, outs=("models/vae.bin",))}},
    "packages that only show": {"packages": ("numpy", "mlflow", "tensorboard", "tensorboardX")},
    "a package that is not installed": {"packages": ("numpy", "dvc", "no-such-package")},
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_changes_no_number_is_no_difference(change: dict[str, Any], tmp_path: Path) -> None:
    assert digest_of(tmp_path, identity(**change)) == digest_of(tmp_path, identity())
    assert differences(identity(), identity(**change)) == []


def of_params(name: str, value: object) -> dict[str, Any]:
    """Another value of a param."""
    return {"inputs": {"params": PARAMS | {name: value}}}


# What differs, and how that is said.
OTHER: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a param by two names": (
        {**of_params("vae.lr", 5e-05), "shown": SHOWN | {"lr": 5e-05}},
        ["vae.lr changed from 0.001 to 5e-05"],
    ),
    "a shown param alone": ({"shown": SHOWN | {"lr": 3}}, ["lr changed from 0.001 to 3"]),
    "a number and a text": (of_params("seed", "0"), ['seed changed from 0 to "0"']),
    "true and 1": (of_params("seed", False), ["seed changed from 0 to false"]),
    "null and nothing": (
        {"inputs": {"params": {k: v for k, v in PARAMS.items() if k != "vae.clip"}}},
        ["vae.clip changed from null to not set"],
    ),
    "other files": (
        {"inputs": {"deps": {"train.py": "c" * 64, "x": "c" * 64}}},
        ["data is gone", "train.py changed", "x is new"],
    ),
    "the command": (
        {"inputs": {"stage": replace(STAGE, commands=("python -O train.py",))}},
        ["the command changed from python train.py to python -O train.py"],
    ),
    "the device": ({"device": "cuda H100"}, ["the device changed from cpu AVX2 to cuda H100"]),
    "a package": (
        {"packages": ("numpy", "dvc", "safetensors")},
        [f"safetensors changed from not set to {version('safetensors')}"],
    ),
}


@pytest.mark.parametrize(("change", "said"), OTHER.values(), ids=OTHER)
def test_what_changes_numbers_is_a_difference_and_said(
    change: dict[str, Any], said: list[str], tmp_path: Path
) -> None:
    other = identity(**change)
    assert digest_of(tmp_path, other) != digest_of(tmp_path, identity())
    assert differences(identity(), other) == said


@pytest.mark.parametrize(
    ("params", "shown", "length"),
    [
        (PARAMS, SHOWN, {"vae.epochs": 30, "epochs": 30}),
        ({"epochs": 3, "pre.epochs": 4}, {}, {"epochs": 3}),
        ({"conf.toml:epochs": 3}, {}, {"conf.toml:epochs": 3}),
        ({"my_epochs": 3, "lr": 1}, {}, {}),
    ],
)
def test_the_length_is_found_by_its_name_in_whatever_block(
    params: dict[str, Any], shown: dict[str, Any], length: dict[str, Any]
) -> None:
    whole = identity({"params": params}, shown)
    rest, found = without_length(whole, "epochs")
    assert found == length
    left = {**rest["params"], **rest["shown"]}
    assert left == {k: v for k, v in {**params, **shown}.items() if k not in length}


def test_a_length_by_which_several_params_go_is_refused() -> None:
    both = identity({"params": {"gan.epochs": 1, "vae.epochs": 2}}, {})
    with pytest.raises(UserError, match=r"several such params \(gan.epochs, vae.epochs\)"):
        without_length(both, "epochs")
    assert without_length(both, "vae.epochs")[1] == {"vae.epochs": 2}


def saved(root: Path, name: str, one: Identity, epoch: int = 1) -> Checkpoints:
    """The checkpoints of a run of that identity, which saved one."""
    new_run(run_dir(root, name), id=name)
    kept = Checkpoints(root, one)
    kept.save(name, epoch, 1, {"w": np.zeros(1)}, 0, {})
    return kept


def test_of_the_checkpoint_that_differs_least_it_is_said_why(tmp_path: Path) -> None:
    def why(**now: Any) -> str:
        return Checkpoints(tmp_path, identity(now)).why_anew()

    saved(tmp_path, "run-1", identity(), 12)
    other = PARAMS | {"vae.lr": 1, "seed": 1}
    said = (
        "not resuming run-1 (12 epochs): seed changed from 0 to 1, vae.lr changed from 0.001 to 1"
    )
    assert why(params=other) == said
    assert why(params={f"p{number}": 0 for number in range(9)}).endswith(" and 10 more")
    assert why(stage=replace(STAGE, name="other")) == ""
    saved(tmp_path, "run-2", identity({"params": other | {"seed": 0}}))
    assert why(params=other) == "not resuming run-2 (1 epoch): seed changed from 0 to 1"


def test_secrets_are_not_kept_beside_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "abcdefgh")
    secret = {"params": {"url": "https://me:pw@host/", "token": "abcdefgh"}}
    saved(tmp_path, "run-1", identity(secret))
    (kept,) = (tmp_path / ".runrecord" / "checkpoints").rglob("identity.json")
    text = kept.read_text()
    assert "abcdefgh" not in text
    assert "pw" not in text
    other = identity({"params": {"url": "https://me:other@host/", "token": "abcdefgh"}})
    assert Checkpoints(tmp_path, other).latest() is None
    assert "a secret value changed" in Checkpoints(tmp_path, other).why_anew()


@pytest.mark.parametrize("content", [b'{"stage": 3}', b"\xff", b"[" * 100_000])
def test_a_damaged_note_beside_a_checkpoint_is_none(tmp_path: Path, content: bytes) -> None:
    kept = saved(tmp_path, "run-1", identity())
    (note,) = (tmp_path / ".runrecord" / "checkpoints").rglob("identity.json")
    assert json.loads(note.read_text())["params"]["vae.lr"] == 0.001
    note.write_bytes(content)
    other = Checkpoints(tmp_path, identity(device="another"))
    assert other.why_anew() == ""
    assert kept.latest() is not None
