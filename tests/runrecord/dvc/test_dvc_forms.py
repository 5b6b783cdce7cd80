"""Every form that DVC has for a stage: a run of it is recorded and read again, and can be had."""

import json
from pathlib import Path
from typing import Any

import pytest
from workspaces import new_project

from records import ending
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
# Of each stage: what stands in dvc.yaml, and the params and deps of its record.
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "params": (
        {
            "params": [
                *("net", "on", "word", "far", "no.such", {"configs/s.yaml": None}),
                *({"conf.toml": ["train"]}, {"conf.json": ["k.a", "none"]}),
                {"conf.py": ["LR", "DIMS", "Train"]},
            ]
        },
        {
            **{"net.dims": [32, 32], "net.act": None, "net.층.수": 2, "net.empty": {}},
            **{"on": True, "word": "a: b # c", "far": float("inf")},
            **{"configs/s.yaml:lr": 1, "configs/s.yaml:nested.k": [1, {"a": 2}]},
            **{"conf.toml:train.lr": 0.25, "conf.toml:train.names": ["a"]},
            **{"conf.json:k.a": 7, "conf.json:none": None},
            **{"conf.py:LR": 2, "conf.py:DIMS": [1, 2]},
            **{"conf.py:Train.epochs": 3, "conf.py:Train.seed": 4},
        },
        set(),
    ),
    "params-block-and-key": (
        {"params": ["lr", "net.층", "net.층.수"]},
        {"lr": 0.5, "net.층.수": 2},
        set(),
    ),
    "deps": (
        {
            "deps": [
                *("data", "data/a.txt", "odd name/파일 #1.txt", "no/such/file", "/etc/hostname"),
                *("../outside.txt", "https://example.invalid/data.csv", "tracked.csv"),
            ]
        },
        {},
        {"data", "data/a.txt", "odd name/파일 #1.txt", "/etc/hostname"},
    ),
    "outs": (
        {
            "cmd": ["echo 1 > l.txt", "echo 2 >> l.txt"],
            "outs": [
                {"cached.txt": {"persist": True, "desc": "kept", "push": False}},
                {"plain.txt": {"cache": False}},
                "folder",
            ],
            "metrics": [{"m.json": {"cache": False}}],
            "plots": [{"p.csv": {"x": "a", "y": "b"}}],
            **{"frozen": True, "always_changed": True, "meta": {"a": [1]}},
        },
        {},
        set(),
    ),
    "wdir": ({"wdir": "sub", "deps": ["own.txt"], "params": ["own"]}, {"own": 9}, {"sub/own.txt"}),
    "templated": (
        {"vars": [{"name": "data/a"}, "configs/v.yaml:extra"], "deps": ["${name}.txt"]},
        {},
        {"data/a.txt"},
    ),
}
GROUPS = {
    "list": {"foreach": ["a", "b"], "do": {"cmd": "echo ${item}", "deps": ["data/a.txt"]}},
    "grid": {"matrix": {"m": ["ae", "vae"], "n": [1, 2]}, "cmd": "a ${item.m}", "params": ["lr"]},
}
MORE = {
    "vars": ["configs/v.yaml:more", {"shared": 1}],
    "params": ["configs/s.yaml"],
    "metrics": ["m.json"],
    "plots": [{"p.csv": {"x": "a", "y": "b"}}],
    "artifacts": {"model": {"path": "model.bin", "type": "model"}},
}
BELOW = {"stages": {"below": {"cmd": "cat own.txt", "deps": ["own.txt"], "params": ["own"]}}}
ALL: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    **{name: (form.get("wdir", "."), params, deps) for name, (form, params, deps) in FORMS.items()},
    "list@a": (".", {}, {"data/a.txt"}),
    "grid@vae-2": (".", {"lr": 0.5}, set()),
    "sub/dvc.yaml:below": ("sub", {"own": 9}, {"sub/own.txt"}),
}


def test_a_stage_of_any_form_is_recorded_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {name: {"cmd": "true", **form} for name, (form, _, _) in FORMS.items()}
    pipeline = json.dumps({"stages": {**stages, **GROUPS}, **MORE})  # which is YAML too
    files = {**FILES, "dvc.yaml": pipeline, "sub/dvc.yaml": json.dumps(BELOW)}
    project = new_project(tmp_path / "project", files)
    monkeypatch.setenv("RUNRECORD_SINKS", "off")
    for name, (folder, params, deps) in ALL.items():
        monkeypatch.chdir(project.path / folder)
        with start_run(name) as run:
            run.log({"loss": 1.0})
        record = Record(files_in(project.path / ".runrecord/runs" / run.id))
        assert ending(record) == "FINISHED"
        assert list(record.events())
        assert (record.start.stage, record.start.params) == (name, params)
        assert {*record.start.deps} == deps
        assert record.start.tags["git.dirty"] == "false"
    found = stages_of(project.path)
    assert ALL.keys() <= found.keys(), "as `verify` knows them"
    assert all(stage.commands for stage in found.values())
    assert len(found["outs"].commands) == 2
