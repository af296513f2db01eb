"""Ray: a cluster of two nodes on this machine, one of which goes away without a word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compose.request import Request
from compose_workflows.on_ray import OnRay
from compose_workflows.plan import Item, plan_jobs
from compose_workflows.runner import run_batch
from tests.workflows.stub import IDENTITY, Stub, pictures, run_inline

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.filterwarnings("ignore:::ray", "ignore::ResourceWarning")


def test_a_batch_outlives_a_node_bit_for_bit(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    asked = [Request("cat", steps=2, seeds=(n,)).to_json() for n in range(1, 61)]
    jobs = plan_jobs([Item("a", n, {}, 0, "m", one) for n, one in enumerate(asked, 1)], 1)
    run_inline(jobs, tmp_path / "inline", Stub(tmp_path / "calm"))
    environment = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, runtime_env={"env_vars": environment}, log_to_driver=False)
    (notes := tmp_path / "notes").mkdir()
    done: list[int] = []

    def each(count: int, total: int) -> None:
        done.append(count)
        if count == 20:
            cluster.remove_node(lost, allow_graceful=False)

    try:
        outcome = run_batch(
            jobs,
            lambda: OnRay(Stub(notes), 2, None, 0),
            tmp_path / "ray",
            identity=IDENTITY,
            each=each,
        )
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert (outcome.made, outcome.failed) == (60, ()) and done == [*range(1, 61)]
    assert pictures(tmp_path / "ray") == pictures(tmp_path / "inline")
