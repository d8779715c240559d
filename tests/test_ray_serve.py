"""deploy/ray_serve.py: the same answers from Ray Serve's replicas. Needs ray[serve]."""

import os
import subprocess
import sys
from importlib.util import find_spec

import httpx
import pytest

from benchmarks.servers import free_port
from service.settings import ROOT
from tests.running import check_problem, running

# Ray in a process of its own, as `serve run` is: it starts processes and threads that outlive a test.
SCRIPT = """
import ray, sys, time
from ray import serve
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
from deploy.ray_serve import app
serve.run(app)
print("serving", flush=True)
sys.stdin.read()
serve.shutdown()
"""


def test_the_application_is_at_most_40_lines():
    assert len((ROOT / "deploy" / "ray_serve.py").read_text("utf-8").splitlines()) <= 40


@pytest.mark.ray
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: nametag[ray]")
def test_ray_serve_answers_as_the_service_does(tiny_artefact):
    port = free_port()
    env = {**os.environ, "NAMETAG_MODEL": str(tiny_artefact), "NAMETAG_DEVICE": "cpu",
           "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip
    body = {"sentences": ["Harry Potter met Hermione .", "London 🦉 ."]}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(port)],
        cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as ray:  # fmt: skip
        try:
            assert ray.stdout.readline() == "serving\n"
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                found = client.post("/v1/tag", json=body)
                assert client.get("/readyz").status_code == 200
                check_problem(client.post("/v1/tag", json={"sentence": []}), 422, "invalid-request")
            with running(tiny_artefact) as service:
                assert found.json() == service.client.post("/v1/tag", json=body).json()
        finally:
            ray.stdin.close()
            ray.wait(60)
