"""All that a run comes from: what its stage reads, the machine, the versions, the variables."""

import json
import os
import platform
import re
import sqlite3
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runrecord.dvc.stages import Stage, StageAtWork, committed_params, find_stage, hash_paths
from runrecord.errors import UserError
from runrecord.files import known_digests, sha256
from runrecord.git.patch import describe_code
from runrecord.project import RECORDS, Project, repo_root
from runrecord.record.events import START
from runrecord.safety.secrets import OWN_TAGS, fit, holds_secret, redact
from runrecord.safety.text import printable
from runrecord.store.runs import state_folder

LOCK_FILE = Path("requirements.lock")
STUDY_TAGS = {
    "study": "RUNRECORD_STUDY",
    "study.run": "RUNRECORD_STUDY_RUN",
    "study.trial": "RUNRECORD_STUDY_TRIAL",
}
"""What a sweep tells of the trial that a run belongs to: the tag of each variable."""

ENVIRONMENT = ("python", "platform", "machine.cpu", "machine.gpu")
"""The tags that tell of the machine; the variables and packages that change numbers come beside."""
SHOW = frozenset({"dvc", "mlflow", "tensorboard", "tensorboardX"})
"""Packages that keep and show results, and compute none."""
_OWN = ("env.", "git.", "dvc.", "machine.", "study.")
"""How the names of the engine's own tags begin."""

_LONGEST_TITLE = 40
_LONGEST_VALUE = 16  # characters of a param in it

_INSTRUCTIONS = re.compile(r"avx2|avx512(f|_bf16|_vnni)|amx_\w+|fma")  # kernels are chosen by them

# Variables of the libraries that compute: a run shows them all.
_OF_LIBRARIES = re.compile(
    r"(OMP|MKL|KMP|GOMP|OPENBLAS|ONEDNN|DNNL|ATEN|TORCH|PYTORCH|CUBLAS|CUDNN|CUDA|NVIDIA)_"
)

# Those that change numbers: how many threads there are, as sums round by how they are split; which
# kernels and algorithms are taken, and in which order they add; how exact they are; what is drawn.
# Or texts: how they are sorted, encoded and dated. Not LANG: each terminal sets it, to its own.
_NUMERIC = re.compile(
    r"PYTHON(HASHSEED|OPTIMIZE|UTF8)|LC_ALL|TZ"
    r"|GLIBC_TUNABLES|ARROW_USER_SIMD_LEVEL|BLIS_ARCH_TYPE|(POLARS_MAX|RAYON_NUM)_THREADS"
    r"|OMP_(DYNAMIC|MAX_ACTIVE_LEVELS|NESTED|NUM_THREADS|SCHEDULE|THREAD_LIMIT)"
    r"|KMP_(ALL_THREADS|DETERMINISTIC_REDUCTION|DEVICE_THREAD_LIMIT|DYNAMIC_MODE|FORCE_REDUCTION)"
    r"|KMP_(HW_SUBSET|LIBRARY)"
    r"|MKL_(CBWR|DEBUG_CPU_TYPE|DOMAIN_NUM_THREADS|DYNAMIC|ENABLE_INSTRUCTIONS|INTERFACE_LAYER)"
    r"|MKL_(NUM_STRIPES|NUM_THREADS|THREADING_LAYER)"
    r"|OPENBLAS_(CORETYPE|DEFAULT_NUM_THREADS|NUM_THREADS)"
    r"|(BLIS|GOTO|NUMEXPR)_NUM_THREADS|NUMEXPR_MAX_THREADS|VECLIB_MAXIMUM_THREADS"
    r"|(DNNL|ONEDNN)_(CPU_ISA_HINTS|DEFAULT_FPMATH_MODE|MAX_CPU_ISA)"
    r"|ATEN_CPU_CAPABILITY|NPY_(DISABLE|ENABLE)_CPU_FEATURES"
    r"|NUMBA_(CPU_FEATURES|CPU_NAME|DISABLE_JIT|NUM_THREADS)"
    r"|NVIDIA_TF32_OVERRIDE|CUDA_(FORCE_PTX_JIT|MPS_ACTIVE_THREAD_PERCENTAGE)"
    r"|CUBLAS_(EMULATE_(DOUBLE|SINGLE)_PRECISION|EMULATION_STRATEGY|WORKSPACE_CONFIG)"
    r"|CUBLASLT_WORKSPACE_SIZE|CUDNN_CONV_WSCAP_DBG|MIOPEN_FIND_(ENFORCE|MODE)"
    r"|NCCL_(ALGO|(MAX|MIN)_NCHANNELS|NTHREADS|PROTO)"
    r"|TORCH_(ALLOW_TF32_CUBLAS_OVERRIDE|BLAS_PREFER_\w+|COMPILE_DISABLE|CUDA_ARCH_LIST)"
    r"|TORCH_(CUDNN_USE_HEURISTIC_MODE_B|CUDNN_V8_API_DISABLED|LINALG_PREFER_\w+)"
    r"|TORCHDYNAMO_DISABLE|TORCHINDUCTOR_(COORDINATE_DESCENT_TUNING|EMULATE_PRECISION_CASTS)"
    r"|TORCHINDUCTOR_(FREEZING|LAYOUT_OPTIMIZATION|MAX_AUTOTUNE|MAX_AUTOTUNE_GEMM|USE_FAST_MATH)"
    r"|PYTORCH_(ENABLE_MPS_FALLBACK|JIT|MPS_FAST_MATH|MPS_PREFER_METAL)"
    r"|TF_(CUDNN_DETERMINISTIC|DETERMINISTIC_OPS|ENABLE_ONEDNN_OPTS|NUM_INT(ER|RA)OP_THREADS)"
    r"|JAX_(DEFAULT_MATMUL_PRECISION|DEFAULT_PRNG_IMPL|ENABLE_X64|THREEFRY_PARTITIONABLE)|XLA_FLAGS"
)


@dataclass(frozen=True)
class Inputs(StageAtWork):
    """What a stage read when it began."""

    deps: Mapping[str, str]  # SHA-256 of each that is there, by its path from the repository's root
    named: str  # the stage as it was asked for


def read_inputs(checkout: Path, stage: str, cwd: Path) -> Inputs:
    """What `stage`, which runs in `cwd`, reads.

    Raises:
        UserError: DVC cannot read its files.
    """
    found = find_stage(checkout, stage, cwd)
    database = state_folder(repo_root(checkout)) / "digests.db"
    try:
        with known_digests(database) as digest_of:
            deps = hash_paths(checkout, found.stage.deps, digest_of=digest_of)
    except sqlite3.Error:  # it is damaged, or another process has it for long: all is read
        with suppress(OSError):
            database.unlink()
        deps = hash_paths(checkout, found.stage.deps)
    return Inputs(**vars(found), deps=deps, named=stage)


def changed_inputs(was: Inputs, checkout: Path, cwd: Path) -> tuple[str, ...]:
    """What the stage reads and is no longer what it was: dvc.lock would name what was not run.

    A dependency by its path; a param as `vae.beta (was 1, is 4)`.
    """
    try:
        now = read_inputs(checkout, was.named, cwd)
    except UserError as error:
        return (printable(str(error).rstrip(".")),)

    def text(params: Mapping[str, object], key: str) -> str | None:
        """As JSON has it: by that, a number is no text, and NaN is itself."""
        return json.dumps(params[key], ensure_ascii=False, default=str) if key in params else None

    deps = {name for name, _ in was.deps.items() ^ now.deps.items()}
    old, new = (fit(inputs.params, os.environ) for inputs in (was, now))
    values = [
        f"{key} (was {text(old, key)}, is {text(new, key)})"
        for key in {**was.params, **now.params}
        if text(was.params, key) != text(now.params, key)
    ]
    return (*sorted(deps), *map(printable, values))


def hash_outs(checkout: Path, stage: Stage) -> dict[str, str]:
    """SHA-256 of all that `stage` wrote by now, its record excepted, by its path."""
    record = record_of(checkout, stage)
    return hash_paths(checkout, [name for name in stage.outs if name != record], compiled=True)


def record_of(checkout: Path, stage: Stage) -> str | None:
    """The out under `records/` in which `stage` keeps its run's record, if it declares one.

    It has a record, or was not written: DVC removes outs first. One named as files are comes last.
    """
    places = [checkout / out for out in stage.outs if out.startswith(RECORDS)]
    places.sort(key=lambda out: (not (out / START).is_file(), out.suffix[1:2].isalpha()))
    free = (out for out in places if (out / START).is_file() or not out.exists())
    return next((out.relative_to(checkout).as_posix() for out in free), None)


@dataclass(frozen=True)
class Origin:
    """Where a run came from."""

    inputs: Inputs
    tags: Mapping[str, str]
    patch: bytes  # what the code differed by from its commit, as `git apply` takes it
    trouble: str  # why the run cannot be had again, if it cannot: a sentence for a person
    title: str  # what a person knows it by: its stage, after what tells it from the committed one


def refuse_own(tags: Iterable[str], packages: Iterable[str] = ()) -> None:
    """Raise UserError if one of those tags of a script's is the engine's, or a package's."""
    own = {*ENVIRONMENT, *STUDY_TAGS, *packages}
    if taken := [name for name in tags if name.startswith(_OWN) or name in own]:
        raise UserError(f"the tag '{printable(taken[0])}' is the engine's; rename yours")


def collect_origin(
    checkout: Path,
    stage: str,
    cwd: Path,
    project: Project,
    told: Mapping[str, object],
    environment: Mapping[str, str] = os.environ,
) -> Origin:
    """Where a run of `stage` comes from, taken before its work; what is not known is left out.

    Args:
        checkout: the root of the DVC repository that the stage runs in.
        stage: as DVC_STAGE names it.
        cwd: where it runs.
        project: what its code and its packages are.
        told: more tags, of what it computes on for instance.
        environment: variables.

    Raises:
        UserError: DVC cannot read its files, or `told` has a tag of the engine's.
    """
    refuse_own(told, project.packages)
    inputs = read_inputs(checkout, stage, cwd)
    code, patch, trouble = describe_code(checkout, project.code, inputs.generated)
    if not inputs.stage.commands and not trouble and STUDY_TAGS["study"] not in environment:
        trouble = f"no dvc.yaml has the stage '{stage}'."
    lock = checkout / LOCK_FILE
    tags = {
        **{name: str(value) for name, value in told.items()},
        **code,
        "dvc.stage": environment.get("DVC_STAGE"),
        "dvc.experiment": environment.get("DVC_EXP_NAME"),
        "dvc.baseline": environment.get("DVC_EXP_BASELINE_REV"),
        **{tag: environment.get(variable) for tag, variable in STUDY_TAGS.items()},
        "dvc.shell": environment.get("SHELL") if "DVC_STAGE" in environment else None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "lock.sha256": sha256(lock) if lock.exists() else "",
        "machine.cpu": _processor(),
        "machine.gpu": _gpus(),
        **{
            f"env.{name}": value
            for name, value in environment.items()
            if changes_numbers(name) or _OF_LIBRARIES.match(name)
        },
        **versions(project.packages),
    }
    shown = {
        key: printable(value)
        for key, value in tags.items()
        if value
        and (key.startswith("env.") or not value.startswith("-"))
        and (key in OWN_TAGS or not holds_secret(value))
    }
    title = environment.get("DVC_EXP_NAME") or _changes(checkout, inputs.params)
    stage = inputs.stage.name
    return Origin(
        inputs, shown, patch, trouble, f"{redact(title)[:_LONGEST_TITLE]}-{stage}".lstrip("-")
    )


def _changes(checkout: Path, params: Mapping[str, object]) -> str:
    """Which of those params the commit at hand has otherwise, as `target=clean`."""
    committed, visible = committed_params(checkout), fit(params, os.environ)
    return ",".join(
        f"{key.rpartition('.')[2]}={str(visible[key])[:_LONGEST_VALUE]}"
        for key, value in params.items()
        if key in committed and committed[key] != value
    )


def changes_numbers(variable: str) -> bool:
    """Does that variable of the environment change what is computed?

    It goes by a list of those that do, not of those that do not. The former are few, and their
    libraries document them. Places, logs, caches, limits of memory and visible devices get new
    names with each release, and a run that was stopped under one of those goes on under another.
    """
    return _NUMERIC.fullmatch(variable) is not None


def is_environment(tag: str, packages: Container[str] = ()) -> bool:
    """Does that tag tell of what the numbers of a run can depend on besides its inputs?

    It is a closed list: no tag of a person's is in it.
    """
    if tag.startswith("env."):
        return changes_numbers(tag.removeprefix("env."))
    return tag in ENVIRONMENT or (tag in packages and tag not in SHOW)


def variables_of(tags: Mapping[str, str]) -> dict[str, str]:
    """The variables that change numbers, as a run had them.

    A value that could be a path is left out: a record must not say where something is written.
    """
    named = {tag.removeprefix("env."): text for tag, text in tags.items() if tag.startswith("env.")}
    return {
        name: text
        for name, text in named.items()
        if changes_numbers(name) and not re.search(r"[/\\\0]", text)
    }


def _processor() -> str:
    """The processor as it names itself, with what libraries choose their code by."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    lines = (line.partition(":") for line in told.partition("\n\n")[0].splitlines())
    first = {key.strip(): value.strip() for key, _, value in lines}
    kind = " ".join(f"{key} {first[key]}" for key in ("cpu family", "model") if key in first)
    sets = [flag for flag in first.get("flags", "").split() if _INSTRUCTIONS.fullmatch(flag)]
    name = first.get("model name") or platform.machine()
    return "; ".join(filter(None, [name, kind, " ".join(sorted(sets))]))


def _gpus() -> str:
    """The models of NVIDIA's GPUs, as Linux lists them."""
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with suppress(OSError):
            found += re.findall(r"(?m)^Model:\s*(.+)$", file.read_text(errors="replace"))
    return ", ".join(found)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of each package that is installed."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
