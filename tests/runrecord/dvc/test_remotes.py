"""DVC remotes on a real sshd and a real S3 server (moto's): a clone and the remote are enough."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import yaml
from _pytest.mark import ParameterSet
from mlflow_views import assert_shown
from needs import FIXTURES, SSHD, require
from servers import answers
from workspaces import EXPERIMENT, IDENTICAL, RECORD_ONLY, Workspace, spool, wait_until

from records import end_run, new_run
from runrecord.cli.pages import free_port
from runrecord.dvc.cache import given_up
from runrecord.store.runs import run_dir

Here = Callable[..., str]

HIDDEN = "hunter22-of-nobody"
"""A password that is given and must be shown nowhere."""


@dataclass(frozen=True)
class Remote:
    """A DVC remote on a server, as a person says it."""

    url: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """For `dvc remote modify`."""
    own: Mapping[str, str] = field(default_factory=dict)
    """For `dvc remote modify --local`: of one person alone."""
    environment: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def sshd(folder: Path) -> Iterator[Remote]:
    """A server that lets this user in by one key, and nobody by a password."""
    require("sshd", "ssh")
    for name in ("host", "person", "stranger"):
        arguments = ["-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(["ssh-keygen", *arguments], check=True)
    shutil.copy(folder / "person.pub", folder / "authorized_keys")
    port = free_port(2200)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as the system's own service makes it
    (folder / "sshd_config").write_text(
        f"""ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
"""
    )
    command = [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")]
    with _server(command, folder / "sshd.log"):
        wait_until(lambda: _listens(port))
        yield Remote(
            f"ssh://127.0.0.1:{port}{folder}/storage",
            {"timeout": "30"},
            {"keyfile": str(folder / "person")},
        )


@contextmanager
def s3(folder: Path) -> Iterator[Remote]:
    """A server with a bucket."""
    require("s3", "s3-server")
    from botocore.session import get_session

    port = free_port(2300)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with _server(command, folder / "moto.log"):
        wait_until(lambda: answers(f"{address}/moto-api/"))

        client = get_session().create_client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="anybody",
            aws_secret_access_key=HIDDEN,
        )
        client.create_bucket(Bucket="bucket")
        key = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": HIDDEN}
        yield Remote("s3://bucket/storage", {"endpointurl": address}, environment=key)


@contextmanager
def _server(command: list[str], log: Path) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def configure(workspace: Workspace, remote: Remote) -> None:
    """As `dvc remote add` and `modify` do."""
    settings = {"url": remote.url, **remote.settings}
    for file, lines in {
        "config": ["[core]", "remote = storage", "['remote \"storage\"']", *_lines(settings)],
        "config.local": ["['remote \"storage\"']", *_lines(remote.own)],
    }.items():
        (workspace.path / ".dvc" / file).write_text("\n".join(lines))


def _lines(settings: Mapping[str, str]) -> list[str]:
    return [f"{name} = {value}" for name, value in settings.items()]


FAST = ("ssh-another key", "s3-no such bucket")
"""Of the cases, by their names: the others are for the long run."""


def on(kind: str, *values: object) -> ParameterSet:
    """A case with a remote of that kind, where it is installed."""
    name = "-".join([kind, *(value for value in values if isinstance(value, str))])
    fixture = f"on_{kind}"
    marks = [pytest.mark.needs(*FIXTURES[fixture])]
    if name not in FAST:
        marks.append(pytest.mark.slow)
    return pytest.param(fixture, *values, marks=marks, id=name)


@pytest.fixture(scope="module")
def on_ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    with sshd(tmp_path_factory.mktemp("ssh")) as found:
        yield found


@pytest.fixture(scope="module")
def on_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    with s3(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture
def remote(request: pytest.FixtureRequest) -> Remote:
    found: Remote = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("remote", [on("ssh"), on("s3")], indirect=True)
def test_a_second_clone_has_every_run_from_the_remote(
    remote: Remote, toy: Workspace, tmp_path: Path
) -> None:
    """The commands of docs/runrecord/remotes.md: runs of a commit and of an experiment."""
    origin = str(tmp_path / "origin.git")
    toy.run("git", "init", "--quiet", "--bare", "--initial-branch=main", origin)
    toy.run("git", "remote", "add", "origin", origin)
    configure(toy, remote)
    toy.run("git", "commit", "--all", "--quiet", "--message=remote")
    experiment = ("dvc", "exp", "run", "--temp", "--name", "slower", "-S", "train.lr=0.1")
    toy.run(*experiment, environment=RECORD_ONLY)
    toy.run("git", "push", "--quiet", "origin", "main")
    toy.run("dvc", "push", environment=remote.environment)
    toy.run("dvc", "exp", "push", "origin", "slower", environment=remote.environment)
    folders = [toy.path / "records" / name for name in ("train", "evaluation")]
    folders += spool(toy)
    assert len(folders) == 4

    theirs = Workspace(tmp_path / "theirs" / EXPERIMENT)
    toy.run("git", "clone", "--quiet", origin, str(theirs.path))
    configure(theirs, remote)
    home = str(tmp_path / "home")
    environment = {**remote.environment, "HOME": home, "DVC_SITE_CACHE_DIR": home}
    Path(home).mkdir()
    theirs.run("dvc", "exp", "pull", "origin", "slower", environment=environment)
    theirs.run("dvc", "pull", environment=environment)
    assert theirs.read("model.bin") == toy.read("model.bin")
    runrecord = partial(theirs.run, "runrecord", environment=environment)
    cache = theirs.path / ".dvc" / "cache"
    for command in (["records/train"], ["slower:evaluation", "--yes"]):
        shutil.rmtree(cache, ignore_errors=True)
        assert IDENTICAL in runrecord("verify", *command)
    shutil.rmtree(cache)
    assert "4 created" in runrecord("sync", "--all")
    for folder in folders:
        assert_shown(theirs, folder)


COMMANDS = {"sync --all": 1, "verify HEAD": 2, "which model.bin": 1, "gc --keep 1": 0, "doctor": 1}
"""What asks a remote, and how it ends where that one fails."""


@pytest.fixture
def bare(
    built_toy: Workspace, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """A clone without DVC's cache, and two runs that `gc` may take; this process works there."""
    workspace = built_toy.copy(tmp_path / EXPERIMENT)
    for name in (".dvc/cache", "records"):
        shutil.rmtree(workspace.path / name)
    for run in ("one", "two"):
        new_run(run_dir(workspace.path, run), id=run)
        end_run(run_dir(workspace.path, run))
    shutil.copyfile(empty_store, workspace.path / "mlflow.db")
    monkeypatch.chdir(workspace.path)
    for name in [name for name in os.environ if name.startswith(("AWS_", "DVC_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # it would be asked for a key
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return workspace


def assert_said(sentence: str, program: Here, *commands: str) -> None:
    """Each says it once, and nothing besides that a program would say to its maker."""
    for command in commands:
        given_up.clear()
        said = program(*command.split(), status=COMMANDS[command])
        assert said.count(sentence) == 1, said
        for never in ("Traceback", "Exception", HIDDEN):
            assert never not in said, said


def anybody_elses_key(remote: Remote) -> Remote:
    return replace(remote, own={"keyfile": str(Path(remote.own["keyfile"]).with_name("stranger"))})


REFUSALS = {
    "another key": (anybody_elses_key, "does not let you in ("),
    "no key": (lambda remote: replace(remote, own={}, environment={}), "does not let you in ("),
    "nobody there": (lambda _: Remote("ssh://127.0.0.1:9/storage"), "does not answer ("),
    "no such bucket": (lambda remote: replace(remote, url="s3://none/storage"), "is not there ("),
}


@pytest.mark.parametrize(
    ("remote", "refusal"),
    [
        *(on("ssh", refusal) for refusal in ("another key", "no key", "nobody there")),
        *(on("s3", refusal) for refusal in ("no key", "no such bucket")),
    ],
    indirect=["remote"],
)
def test_what_a_remote_refuses_is_one_sentence(
    bare: Workspace, program: Here, monkeypatch: pytest.MonkeyPatch, remote: Remote, refusal: str
) -> None:
    change, said = REFUSALS[refusal]
    configure(bare, remote)
    with monkeypatch.context() as its:
        for name, value in remote.environment.items():
            its.setenv(name, value)
        assert f"✓ DVC remote: {remote.url}: answers" in program("doctor", status=1)
    remote = change(remote)
    for name, value in remote.environment.items():
        monkeypatch.setenv(name, value)
    configure(bare, remote)
    assert_said(f": {remote.url} {said}", program, "sync --all", "doctor")


@pytest.mark.parametrize("kind", ["ssh", "s3", "gs"])
def test_a_package_that_is_missing_is_one_sentence_of_each_command(
    bare: Workspace, program: Here, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, f"dvc_{kind}", None)
    configure(bare, Remote(f"{kind}://me:{HIDDEN}@host/storage"))
    said = f": {kind}://***@host/storage needs a package that is not installed; run "
    assert_said(f"{said}'pip install dvc-{kind}'.", program, *COMMANDS)


@pytest.mark.needs("ssh")
def test_a_server_that_is_silent_is_waited_for_as_long_as_dvc_is_told(
    bare: Workspace, program: Here
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ssh://127.0.0.1:{silent.getsockname()[1]}/storage"
        configure(bare, Remote(url, {"timeout": "1"}))
        assert f"{url} does not answer (it took too long); " in program("verify", "HEAD", status=2)


def test_what_the_cache_has_is_used_where_the_remote_is_not(
    bare: Workspace, program: Here, built_toy: Workspace
) -> None:
    cache = shutil.copytree(built_toy.path / ".dvc/cache", bare.path / ".dvc/cache")
    (out,) = yaml.safe_load(bare.read("dvc.lock"))["stages"]["evaluate"]["outs"]
    (cache / "files/md5" / out["md5"][:2] / out["md5"][2:]).unlink()
    configure(bare, Remote(f"http://me:{HIDDEN}@127.0.0.1:9/storage"))
    said = program("sync", "--all", status=1)
    assert "DVC's remote: http://***@127.0.0.1:9/storage does not answer (" in said
    assert "1 records that Git names come from neither DVC's cache nor its remote" in said
    assert "MLflow: 3 created" in said
    assert HIDDEN not in said
    assert "DVC's remote:" not in program("verify", "HEAD:evaluation", status=2), "said once"


def test_a_cache_that_cannot_be_written_is_not_laid_to_the_remote(
    bare: Workspace, program: Here, built_toy: Workspace
) -> None:
    storage = bare.path.parent / "storage"
    shutil.copytree(built_toy.path / ".dvc/cache", storage)
    (bare.path / ".dvc/cache/files").mkdir(parents=True)
    (bare.path / ".dvc/cache/files/md5").touch()
    configure(bare, Remote(str(storage)))
    said = program("sync", "--all", status=1)
    assert f"{bare.path}/.dvc/cache/files/md5" in said
    assert "does not answer" not in said
