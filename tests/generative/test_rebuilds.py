"""`runrecord verify` of this experiment's own runs, trained again by other arithmetic."""

import re

import pytest
from mlflow_views import runs, verdict
from workspaces import Workspace, verify


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
