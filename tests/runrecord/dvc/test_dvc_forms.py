"""Every form that DVC has for a stage: a run of it is recorded and read again, and can be had."""

import json
from typing import Any

import pytest
from workspaces import Workspace, new_project

from runrecord import start_run
from runrecord.dvc.stages import stages_of
from runrecord.record.reader import Record, files_in

FILES = {
    "params.yaml": "lr: 0.5\nnet: {dims: [32, 32], act: null, 층: {수: 2}, empty: {}}\n"
    "on: true\n1: one\nfar: .inf\nword: 'a: b # c'\n",
    "configs/s.yaml": "lr: 1\nnested: {k: [1, {a: 2}]}\n",
    "configs/v.yaml": "extra: 5\nmore: {a: 6}\n",
    "conf.toml": "top = 1\n[train]\nlr = 0.25\nnames = ['a']\n",
    "conf.json": json.dumps({"k": {"a": 7}, "none": None}),
    "conf.py": "LR = 2\nDIMS = (1, 2)\nclass Train:\n    epochs = 3\n    def __init__(self):\n"
    "        self.seed = 4\n",
    "data/a.txt": "a\n",
    "data/deep/b.txt": "b\n",
    "sub/own.txt": "own\n",
    "sub/params.yaml": "own: 9\n",
    "odd name/파일 #1.txt": "odd\n",
    "tracked.csv.dvc": "outs:\n- md5: d41d8cd98f00b204e9800998ecf8427e\n  size: 0\n  hash: md5\n"
    "  path: tracked.csv\n",
}
RUN = "runrecord exec -- sh -c"
OF_PYTHON = {"LR": 2, "DIMS": [1, 2], "Train.epochs": 3, "Train.seed": 4}
PYTHON = {f"conf.py:{name}": value for name, value in OF_PYTHON.items()}
TRAIN = {"conf.toml:train.lr": 0.25, "conf.toml:train.names": ["a"]}
# Of each stage: what stands in dvc.yaml, and the params and deps of its record.
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "params-nested": (
        {"params": ["net", "on", "word", "far", "no.such"]},
        {
            **{"net.dims": [32, 32], "net.act": None, "net.층.수": 2, "net.empty": {}},
            **{"on": True, "word": "a: b # c", "far": float("inf")},
        },
        set(),
    ),
    "params-yaml": (
        {"params": ["lr", {"configs/s.yaml": ["lr"]}]},
        {"lr": 0.5, "configs/s.yaml:lr": 1},
        set(),
    ),
    "params-yaml-whole": (
        {"params": [{"configs/s.yaml": None}]},
        {"configs/s.yaml:lr": 1, "configs/s.yaml:nested.k": [1, {"a": 2}]},
        set(),
    ),
    "params-toml": ({"params": [{"conf.toml": ["train"]}]}, TRAIN, set()),
    "params-toml-whole": ({"params": [{"conf.toml": []}]}, {"conf.toml:top": 1, **TRAIN}, set()),
    "params-json": (
        {"params": [{"conf.json": ["k.a", "none"]}]},
        {"conf.json:k.a": 7, "conf.json:none": None},
        set(),
    ),
    "params-python": ({"params": [{"conf.py": ["LR", "DIMS", "Train"]}]}, PYTHON, set()),
    "params-python-whole": ({"params": [{"conf.py": None}]}, PYTHON, set()),
    "params-block-and-key": (
        {"params": ["lr", "net.층", "net.층.수"]},
        {"lr": 0.5, "net.층.수": 2},
        set(),
    ),
    "deps-file-and-folder": (
        {"deps": ["data", "data/a.txt", "odd name/파일 #1.txt"]},
        {},
        {"data", "data/a.txt", "odd name/파일 #1.txt"},
    ),
    "deps-elsewhere": (
        {
            "deps": [
                *("no/such/file", "/etc/hostname", "../outside.txt"),
                *("https://example.invalid/data.csv", "tracked.csv"),
            ]
        },
        {},
        {"/etc/hostname"},
    ),
    "outs-forms": (
        {
            "outs": [
                {"cached.txt": {"persist": True, "desc": "kept", "push": False}},
                {"plain.txt": {"cache": False}},
                "folder",
            ],
            "metrics": [{"m.json": {"cache": False}}],
            "plots": [{"p.csv": {"x": "a", "y": "b"}}],
        },
        {},
        set(),
    ),
    "cmd-list": ({"cmd": [f"{RUN} 'echo 1 > l.txt'", f"{RUN} 'echo 2 >> l.txt'"]}, {}, set()),
    "wdir": ({"wdir": "sub", "deps": ["own.txt"], "params": ["own"]}, {"own": 9}, {"sub/own.txt"}),
    "flags": ({"frozen": True, "always_changed": True, "meta": {"a": [1]}}, {}, set()),
    "templated": (
        {"vars": [{"name": "data/a"}, "configs/v.yaml:extra"], "deps": ["${name}.txt"]},
        {},
        {"data/a.txt"},
    ),
}
GROUPS = {
    "list": {"foreach": ["a", "b"], "do": {"cmd": "echo ${item}", "deps": ["data/a.txt"]}},
    "dict": {
        "foreach": {"x": {"n": 1}, "y": {"n": 2}},
        "do": {"cmd": "echo ${item.n}", "params": ["lr"]},
    },
    "grid": {
        "matrix": {"m": ["ae", "vae"], "n": [1, 2]},
        "cmd": "echo ${item.m} ${item.n}",
        "params": ["lr"],
    },
}
MORE = {
    "vars": ["configs/v.yaml:more", {"shared": 1}],
    "params": ["configs/s.yaml"],
    "metrics": ["m.json"],
    "plots": [{"p.csv": {"x": "a", "y": "b"}}],
    "artifacts": {"model": {"path": "model.bin", "type": "model"}},
}
BELOW = {"stages": {"below": {"cmd": "cat own.txt", "deps": ["own.txt"], "params": ["own"]}}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    stages = {name: {"cmd": "true", **form} for name, (form, _, _) in FORMS.items()}
    files = {
        **FILES,
        "dvc.yaml": json.dumps({"stages": {**stages, **GROUPS}, **MORE}),  # which is YAML too
        "sub/dvc.yaml": json.dumps(BELOW),
    }
    return new_project(tmp_path_factory.mktemp("forms") / "project", files)


# Of one of many: its folder, and the params and deps of its record.
OF_MANY: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "list@a": (".", {}, {"data/a.txt"}),
    "dict@y": (".", {"lr": 0.5}, set()),
    "grid@vae-2": (".", {"lr": 0.5}, set()),
    "sub/dvc.yaml:below": ("sub", {"own": 9}, {"sub/own.txt"}),
}
ALL = {
    name: (form.get("wdir", "."), params, deps) for name, (form, params, deps) in FORMS.items()
} | OF_MANY
FAST = ("grid@vae-2", "params-nested", "params-python-whole", "deps-elsewhere", "wdir", "templated")


@pytest.mark.parametrize(
    # Each takes a third of a second: those that are like others are for the long run.
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ALL],
)
def test_a_stage_of_any_form_is_recorded_and_read_again(
    project: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder, params, deps = ALL[name]
    monkeypatch.chdir(project.path / folder)
    monkeypatch.setenv("RUNRECORD_SINKS", "off")
    with start_run(name) as run:
        run.log({"loss": 1.0})
    record = Record(files_in(project.path / ".runrecord/runs" / run.id))
    assert record.end is not None
    assert record.end.status == "FINISHED"
    assert list(record.events())
    assert (record.start.stage, record.start.params) == (name, params)
    assert {*record.start.deps} == deps
    assert record.start.tags["git.dirty"] == "false"


def test_verify_knows_each_by_its_name_and_command(project: Workspace) -> None:
    stages = stages_of(project.path)
    assert ALL.keys() <= stages.keys()
    assert all(stage.commands for stage in stages.values())
    assert len(stages["cmd-list"].commands) == 2
