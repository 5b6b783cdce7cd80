"""Bad params: one sentence that names the file, the key, the value and what would be right."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc.utils.serialize import parse_yaml
from workspaces import ROOT, assert_says

from generative.core.config import Params
from generative.core.idx import SPLITS
from generative.core.model import MNIST_SHAPE, Shape
from generative.data.image_folder import to_idx
from generative.errors import read_yaml
from generative.models.ae import AEConfig
from generative.models.registry import REGISTRY
from generative.models.vae import VAE, VAEConfig
from generative.pipeline.check import main
from generative.pipeline.schema import SCHEMA_FILE, schema

PARAMS = (ROOT / "params.yaml").read_text()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["generative", "check"])
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path


def write(document: object) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(document))


def status() -> object:
    """What `generative check` exits with."""
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    assert status() == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1, "one line"
    return output.removeprefix("error: ").rstrip("\n")


def test_the_committed_params_and_those_from_before_an_epoch_could_be_chosen_are_right(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert status() == 0
    document = yaml.safe_load(PARAMS)
    for name in ("ae", "vae", "gan"):
        del document[name]["keep"], document[name]["patience"]
    write(document)
    assert status() == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (
            "  train-gan:",
            "  train-own: {cmd: x, outs: [models/own.safetensors]}\n\n  train-gan:",
            "'train-own' trains a model that is not in src/generative/models/registry.py; add it",
        ),
        (
            "    - src/generative/models/vae.py\n",
            "",
            "'train-vae' lacks the dep src/generative/models/vae.py; add it, or",
        ),
        (
            "    - models/gan.safetensors\n",
            "",
            "'evaluate' lacks the dep models/gan.safetensors; add it, or",
        ),
    ],
)
def test_a_model_that_dvc_yaml_names_in_part_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], was: str, now: str, said: str
) -> None:
    text = (folder / "dvc.yaml").read_text()
    assert text.count(was) == 1
    (folder / "dvc.yaml").write_text(text.replace(was, now))
    assert_says(refusal(capsys), f"dvc.yaml: stage {said}")


@pytest.mark.parametrize(
    "stages",
    [
        "more: {cmd: x, params: [{configs/s.yaml: [lr]}]}",
        "more: {cmd: x, params: [lr, {configs/s.yaml: null, params.yaml: [extra.a]}]}",
        "more: {cmd: x, params: [{params.yaml: null}]}",
        "more: {foreach: [a, b], do: {cmd: x, params: [extra]}}",
        "more: {foreach: [extra, b], do: {cmd: x, params: ['${item}']}}",
        "more: {cmd: x, params: null}",
    ],
)
def test_any_form_of_dvcs_says_what_a_stage_reads(
    folder: Path, capsys: pytest.CaptureFixture[str], stages: str
) -> None:
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(text.replace("stages:\n", f"stages:\n  {stages}\n", 1))
    assert status() == 0
    with (folder / "params.yaml").open("a") as file:
        file.write("extra: {a: 1}\n")
    if "extra" in stages or "params.yaml: null" in stages:
        assert status() == 0
    else:
        assert refusal(capsys).startswith("params.yaml: unknown key 'extra'")


def test_a_block_whose_stage_was_taken_out_is_no_mistake(folder: Path) -> None:
    document = yaml.safe_load((folder / "dvc.yaml").read_text())
    del document["stages"]["train-gan"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump(document))
    assert status() == 0
    del document["stages"]["evaluate"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump(document))
    assert status() == 0
    del document["stages"]["train-vae"]["params"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump(document))
    assert status() == 0
    for stages in (None, dict[str, str]()):
        (folder / "dvc.yaml").write_text(yaml.safe_dump({"vars": [], "stages": stages}))
        assert status() == 0


def test_blocks_of_stages_that_a_template_makes_are_checked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = yaml.safe_load((folder / "dvc.yaml").read_text())
    stages = document["stages"]
    stages["train"] = {"foreach": ["ae"], "do": stages.pop("train-ae")}
    (folder / "dvc.yaml").write_text(yaml.safe_dump(document))
    assert status() == 0
    (folder / "params.yaml").write_text(PARAMS.replace("lr: 0.001", "lr: x", 1))
    assert_says(refusal(capsys), "params.yaml: ae.lr is 'x' ... a number above 0.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [a, b]", "'stages' should be a block of keys."),
        ("stages: {train-ae: x}", "'train-ae' should be a block of keys."),
        ("stages: {train-ae: }", "'train-ae' should be a block of keys."),
        ("stages: {train-ae: {cmd: x, deps: [3]}}", "stage 'train-ae' lacks the dep"),
    ],
)
def test_a_dvc_yaml_that_is_none_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (folder / "dvc.yaml").write_text(text)
    assert_says(refusal(capsys), f"dvc.yaml: {said}")


class GreyOnly(VAE):
    """Somebody's, which takes no notice of the shape that it is given."""

    def __init__(self, config: VAEConfig, shape: Shape = MNIST_SHAPE) -> None:
        super().__init__(config, (1, *shape[1:]))


def test_a_model_that_does_not_fit_the_images_is_told_where_they_are_there(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY, "vae", GreyOnly)
    own = PARAMS.replace("name: mnist", "name: mine").replace("source: null", f"source: {folder}")
    (folder / "params.yaml").write_text(own)
    assert status() == 0, "of images that are not there yet nothing is known"
    (folder / "data/mine").mkdir(parents=True)
    for split in SPLITS:
        pixels = np.zeros((2, 9, 8, 3), np.uint8)
        (folder / f"data/mine/{split}-images-idx4-ubyte").write_bytes(to_idx(pixels))
    assert refusal(capsys).startswith("model 'vae' cannot take images of 3 x 9 x 8: ")


# A right line of params.yaml, what is wrong in its place, and what is said of it.
WRONG = [
    ("lr: 0.001", "lr: '1e6'", "ae.lr is the text '1e6', not a number; write 1000000."),
    ("lr: 0.001", "lr: ~", "ae.lr is empty ... a number above 0."),
    ("lr: 0.001", "lr: 'nan'", "ae.lr is 'nan' ... a number above 0."),
    ("lr: 0.001", "lr: 0", "ae.lr is 0; ... a number above 0."),
    ("lr: 0.001", "lr: .nan", "ae.lr is nan ... a number above 0."),
    ("lr: 0.001", "lrr: 0.001", "unknown key 'ae.lrr' ... 'lr'?"),
    (
        "deterministic: true",
        "deterministic: on",
        "compute.deterministic is 'on' ... true or false.",
    ),
    ("batch_size: 128", "batch_size: 12.5", "ae.batch_size is 12.5 ... a whole number"),
    ("[0.1, 0.3, 0.5]", "[0.1, -1]", "evaluate.noise_factors.1 is -1 ... numbers from 0 to 10."),
    ("[0.1, 0.3, 0.5]", "0.3", "evaluate.noise_factors is 0.3 ... a list of 1 to 8 numbers"),
    ("latent_dim: 200", "latent_dim: true", "vae.latent_dim is True ... a whole number"),
    ("optimizer: adam", "optimizer: sgd", "ae.optimizer is 'sgd' ... adam, rmsprop or adadelta."),
    ("optimizer: adam", "optimizer: '1'", "ae.optimizer is '1'; ... adam, rmsprop or adadelta."),
    ("optimizer: adam", "# ", "key 'ae.optimizer' is missing ... adam, rmsprop or adadelta."),
    ("latent_dim: 200", f"latent_dim: {10**20}", "vae.latent_dim is 1000 ... 2147483647 at most."),
    ("seed: 0", "seed: -1", "seed is -1 ... from 0 to 2**63 - 1."),
    ("seed: 0", "sed: 0", "unknown key 'sed' ... 'seed'?"),
    ("\nvae:", "\nae2:", "unknown key 'ae2' ... 'ae'?"),
    ("device: auto", "device: gpu", "compute.device is 'gpu' ... auto, cpu, cuda ... cuda:1."),
    (
        "keep: last",
        "keep: Test/Total Loss",
        "ae.keep is 'Test/ ... test images ... Train/ or Valid",
    ),
    (
        "keep: last",
        "keep: Train/Loss",
        "ae.keep is 'Train/Loss' ... last, ... or Train/Total Loss.",
    ),
    ("patience: 0", "patience: 3", "ae.patience is 3 ... set ae.keep to Train/Total Loss"),
    ("name: mnist", "name: mnits", "data.name is 'mnits' ... mnist, fashion-mnist, kmnist ... set"),
    (
        "source: null",
        "source: /data/cats",
        "data.source is '/data/cats' ... a name of their own, or",
    ),
]


@pytest.mark.parametrize(("line", "instead", "said"), WRONG)
def test_a_wrong_value_is_refused(
    line: str, instead: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in PARAMS
    (folder / "params.yaml").write_text(PARAMS.replace(line, instead, 1))
    assert_says(refusal(capsys), f"params.yaml: {said}")


def test_the_committed_schema_is_that_of_the_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["generative", "schema"])
    main()
    assert (folder / SCHEMA_FILE).read_bytes() == (ROOT / SCHEMA_FILE).read_bytes()
    assert PARAMS.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")


@pytest.mark.needs("jsonschema")
def test_an_editor_finds_what_is_wrong_by_the_schema(folder: Path) -> None:
    """The committed params are right by it, and each wrong value that one block shows is not."""
    from jsonschema import Draft7Validator

    document = json.loads(schema())
    Draft7Validator.check_schema(document)
    right = Draft7Validator(document).is_valid
    assert right(read_yaml(folder / "params.yaml"))
    unseen = set()
    for line, instead, _ in WRONG:
        (folder / "params.yaml").write_text(PARAMS.replace(line, instead, 1))
        if right(read_yaml(folder / "params.yaml")):
            unseen.add(instead)
    of_two_keys = {"patience: 3", "name: mnits", "source: /data/cats"}
    beyond = {"lr: .nan", f"latent_dim: {10**20}"}
    assert unseen == of_two_keys | beyond, "which JSON does not have, and no memory"


def test_of_validation_losses_only_those_of_the_model_can_choose(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = yaml.safe_load(PARAMS)
    document["split"]["validation"] = 5000
    document["vae"] |= {"keep": "Validation/Total Loss", "patience": 3}
    write(document)
    assert status() == 0
    document["ae"]["keep"] = "Validation/KL-Divergence"
    write(document)
    assert_says(
        refusal(capsys),
        "params.yaml: ae.keep is 'Validation/KL-Divergence'; it should be last, Train/"
        "Reconstruction Error, ... Validation/Reconstruction Error or Validation/Total Loss.",
    )
    document["ae"]["keep"] = "last"
    document["gan"]["keep"] = "Validation/Generator Loss"  # the lowest is where it has won
    write(document)
    assert_says(refusal(capsys), "params.yaml: gan.keep is ... should be last.")


@pytest.mark.parametrize(
    ("text", "number"),
    [("5e-05", 5e-05), ("1E5", 1e5), ("+1.5e+3", 1500), (".5", 0.5), ("0x10", 16), ("010", 10)],
)
def test_numbers_are_read_as_dvc_reads_them(text: str, number: float, folder: Path) -> None:
    """DVC writes `-S ae.lr=0.00005` as 5e-05, a text to readers of YAML 1.1."""
    path = folder / "params.yaml"
    path.write_text(PARAMS.replace("  lr: 0.001", f"  lr: {text}", 1))
    assert parse_yaml(path.read_text(), str(path))["ae"]["lr"] == number
    assert Params(path, folder / "dvc.yaml").section("ae", AEConfig).lr == number


def test_a_block_or_file_that_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load(PARAMS) | {"vae": 3}
    write(document)
    assert refusal(capsys) == "params.yaml: vae is 3; it should be a block of keys."
    del document["vae"]
    write(document)
    assert refusal(capsys) == "params.yaml: key 'vae' is missing; it should be a block of keys."
    (folder / "params.yaml").unlink()
    assert refusal(capsys).startswith(f"params.yaml: no such file in {folder}; run from")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"ae: [1, 2", "params.yaml: not YAML at line 1, column 10: "),
        (b"\xff\xfe\x00", "params.yaml: not YAML: not UTF-8 text."),
        (b"", "params.yaml: should hold 'key: value' blocks, but is empty."),
        (b"- 1", "params.yaml: should hold 'key: value' blocks, but holds [1]."),
        (b"seed: !!python/object/apply:os.getcwd []", "params.yaml: not YAML at line 1, column 7"),
    ],
)
def test_no_yaml(
    content: bytes, sentence: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "params.yaml").write_bytes(content)
    assert refusal(capsys).startswith(sentence)
