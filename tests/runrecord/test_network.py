"""Nothing that this project starts tells its libraries' makers that it ran."""

import re
from pathlib import Path

import pytest
from workspaces import TOY_TRAIN, Workspace

_SILENT = """
    PYTEST_CURRENT_TEST CI GITHUB_ACTIONS CIRCLECI GITLAB_CI JENKINS_URL TRAVIS TF_BUILD
    BITBUCKET_BUILD_NUMBER CODEBUILD_BUILD_ARN BUILDKITE TEAMCITY_VERSION CLOUD_RUN_EXECUTION
    DO_NOT_TRACK
"""
"""Variables for which MLflow is silent by itself."""


@pytest.mark.slow
@pytest.mark.needs("strace")
def test_a_run_with_all_trackers_connects_to_this_machine_alone(
    toy: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in _SILENT.split():
        monkeypatch.delenv(name, raising=False)
    trace = tmp_path / "connections"
    strace = ("strace", "-f", "-qq", "-A", "-e", "trace=connect,sendto", "-o", str(trace))
    toy.run(*strace, *TOY_TRAIN, DVC_STAGE="train")
    for database in toy.path.glob("mlflow.db*"):
        database.unlink()
    assert " 0 failed" in toy.run(*strace, "runrecord", "sync")
    internet = r"sa_family=AF_INET6?,.*(?:inet_addr\(|inet_pton\(AF_INET6, )\"(.*?)\""
    assert {*re.findall(internet, trace.read_text())} <= {"127.0.0.1", "::1"}
