"""What deploy/ says to Kubernetes: of the published schemas, whatever is put together, and true of us."""

import functools
import hashlib
import http.server
import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading

import kubernetes_validate
import pytest
import yaml

from service.settings import ROOT, Settings, unknown_variables
from tests.running import running
from tests.test_metrics_endpoint import Scraped

DEPLOY = ROOT / "deploy"
COMPONENTS = sorted(folder.name for folder in (DEPLOY / "components").iterdir())
APART = (("hpa", "keda"), ("models-volume", "models-download"))  # one or the other
OLDEST, NEWEST = "1.29", "1.37"  # versions of Kubernetes
UID = 10001
# Some kubectls ask the cluster for its version first, and wait for an answer.
NO_CLUSTER = os.environ | {"KUBECONFIG": os.devnull}


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def folders():
    """Every kustomization, by its folder below deploy/."""
    return {path.parent.relative_to(DEPLOY): path.parent for path in DEPLOY.rglob("kustomization.yaml")}


def resources(folder):
    """The complete manifests that a kustomization names, as they are in their files."""
    (kustomization,) = documents((folder / "kustomization.yaml").read_text("utf-8"))
    files = [folder / name for name in kustomization.get("resources", ()) if name.endswith(".yaml")]
    return [document for file in files for document in documents(file.read_text("utf-8"))]


def check_schema(manifest):
    if manifest["apiVersion"].startswith("keda.sh/"):
        return  # not of Kubernetes itself: test_the_keda_object_…
    for version in (OLDEST, NEWEST):
        kubernetes_validate.validate(manifest, version, strict=True)


def sets_of_components():
    """None, each alone, and as many together as there can be."""
    together = [name for name in COMPONENTS if not any(name in apart for apart in APART)]
    return [
        (),
        *((name,) for name in COMPONENTS),
        *((*together, *one) for one in itertools.product(*APART)),
    ]


@functools.cache
def kubectl():
    """A kubectl that can put components together; None where there is none."""
    found = shutil.which("kubectl")
    if found is None:
        return None
    said = subprocess.run(
        [found, "version", "--client"], env=NO_CLUSTER, capture_output=True, text=True, check=False
    ).stdout
    version = re.search(r"Kustomize Version: v(\d+)", said)
    return found if version and int(version[1]) >= 4 else None


def put_together(folder):
    """What `kubectl kustomize` makes of a folder, by kind."""
    if kubectl() is None:
        pytest.skip("kubectl with kustomize 4 or later is not installed")
    done = subprocess.run(
        [kubectl(), "kustomize", folder], env=NO_CLUSTER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return {document["kind"]: document for document in documents(done.stdout)}


def with_components(tmp_path, chosen):
    """What the base and these components make, by kind."""
    relative = os.path.relpath(DEPLOY, tmp_path)
    kustomization = {
        "resources": [f"{relative}/base"],
        "components": [f"{relative}/components/{name}" for name in chosen],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), "utf-8")
    return put_together(tmp_path)


def variables(container):
    return {each["name"]: each["value"] for each in container.get("env", ())}


def check_containers(deployment):
    """Non-root, read-only, bounded, from an image whose tag or digest a kustomization says."""
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == UID
    assert not pod["automountServiceAccountToken"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"].keys() == {"requests", "limits"}
        assert container["image"].partition(":")[0].rpartition("/")[2] == "nametag"
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        known = {name: value for name, value in variables(container).items() if name.startswith("NAMETAG_")}
        assert unknown_variables(known) == []
        Settings.from_env(known)


def test_every_manifest_is_of_the_published_schemas():
    found = [manifest for folder in folders().values() for manifest in resources(folder)]
    assert {manifest["kind"] for manifest in found} == {
        "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "HorizontalPodAutoscaler",
        "ScaledObject",
    }  # fmt: skip
    for manifest in found:
        check_schema(manifest)


def test_a_misspelt_field_would_be_found():
    (deployment,) = (m for m in resources(DEPLOY / "base") if m["kind"] == "Deployment")
    deployment["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        check_schema(deployment)


@pytest.mark.parametrize("chosen", sets_of_components(), ids=lambda chosen: "+".join(chosen) or "base")
def test_whatever_is_put_together_is_of_the_schemas_and_confined(chosen, tmp_path):
    made = with_components(tmp_path, chosen)
    for manifest in made.values():
        check_schema(manifest)
    deployment = made["Deployment"]
    check_containers(deployment)
    assert all(":" in c["image"] for c in deployment["spec"]["template"]["spec"]["containers"])
    # Two that count replicas would undo each other's work.
    scales = bool({"hpa", "keda"} & set(chosen))
    assert ("replicas" in deployment["spec"]) != scales
    asks_others = made["NetworkPolicy"]["spec"]["egress"] != []
    assert asks_others == ("models-download" in chosen)


def test_the_example_is_of_the_schemas_and_an_image_can_be_pinned_by_its_digest(tmp_path):
    for manifest in put_together(DEPLOY / "example").values():
        check_schema(manifest)
        if manifest["kind"] == "Deployment":
            check_containers(manifest)
    digest = "sha256:" + "0" * 64
    kustomization = {
        "resources": [os.path.relpath(DEPLOY / "base", tmp_path)],
        "components": [os.path.relpath(DEPLOY / "components" / "models-download", tmp_path)],
        "images": [{"name": "nametag", "newName": "registry.example.org/n", "digest": digest}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), "utf-8")
    pod = put_together(tmp_path)["Deployment"]["spec"]["template"]["spec"]
    images = {container["image"] for container in (*pod["initContainers"], *pod["containers"])}
    assert images == {f"registry.example.org/n@{digest}"}


def base(kind):
    (found,) = (manifest for manifest in resources(DEPLOY / "base") if manifest["kind"] == kind)
    return found


def test_the_selectors_select_the_pods_of_the_deployment_and_of_nothing_else():
    deployment = base("Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == base("Service")["spec"]["selector"] == labels
    assert base("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert base("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    (spread,) = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels


def test_a_pod_has_time_to_leave_and_to_finish():
    pod = base("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = Settings.from_env(variables(container))
    assert settings.workers == 1
    assert 5 <= settings.drain_delay_s <= settings.grace_s / 2
    assert pod["terminationGracePeriodSeconds"] >= settings.grace_s + 10  # as the supervisor waits, too


def test_the_pod_is_as_the_image_is(tiny_artefact):
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    (container,) = base("Deployment")["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert f"USER {UID}:{UID}" in dockerfile
    assert f"EXPOSE {port['containerPort']}" in dockerfile
    (service_port,) = base("Service")["spec"]["ports"]
    (allowed,) = base("NetworkPolicy")["spec"]["ingress"][0]["ports"]
    assert port["name"] == service_port["targetPort"] == allowed["port"]
    with running(tiny_artefact) as service:
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[name]["httpGet"]
            assert asked["port"] == port["name"]
            assert service.client.get(asked["path"]).status_code == 200


def test_the_keda_object_asks_for_a_metric_that_there_is(tiny_artefact):
    (scaled,) = resources(DEPLOY / "components" / "keda")
    assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    spec = scaled["spec"]
    assert spec["scaleTargetRef"]["name"] == base("Deployment")["metadata"]["name"]
    assert spec["minReplicaCount"] <= spec["maxReplicaCount"]
    waits, cpu = spec["triggers"]
    assert (waits["type"], cpu["type"]) == ("prometheus", "cpu")
    assert all(isinstance(v, str) for trigger in spec["triggers"] for v in trigger["metadata"].values())
    (metric,) = re.findall(r"nametag_\w+", waits["metadata"]["query"])
    with running(tiny_artefact) as service:
        service.tag(["Ann Smith"])
        assert metric in {sample.name for sample in Scraped(service.client).samples}


@pytest.fixture
def served(tiny_artefact, tmp_path):
    """(URL, SHA-256) of an archive of a model, as it lies on somebody's server."""
    folder = tmp_path / "www"
    folder.mkdir()
    with tarfile.open(folder / "mine.tar.gz", "w:gz") as archive:
        archive.add(tiny_artefact, "mine")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        data = (folder / "mine.tar.gz").read_bytes()
        yield f"http://127.0.0.1:{server.server_port}/mine.tar.gz", hashlib.sha256(data).hexdigest()
        server.shutdown()
        thread.join()


def fetch(url, sha256, folder):
    """Runs what the init container does."""
    folder.mkdir()
    script = DEPLOY / "components" / "models-download" / "fetch.py"
    own = {"MODEL_URL": url, "MODEL_SHA256": sha256, "MODELS_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, script], env=os.environ | own, capture_output=True, text=True, check=False
    )


def test_a_model_is_fetched_and_serves(served, tmp_path):
    assert fetch(*served, tmp_path / "models").returncode == 0
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["mine"]
    with running(tmp_path / "models" / "mine") as service:
        assert service.tag(["Ann Smith"])


def test_a_model_of_another_checksum_is_refused_and_nothing_is_left(served, tmp_path):
    url, sha256 = served
    done = fetch(url, "0" * 64, tmp_path / "models")
    assert done.returncode == 1
    assert done.stderr == f"fetch.py: MODEL_URL: sha256 is {sha256}, MODEL_SHA256 expects {'0' * 64}\n"
    assert list((tmp_path / "models").iterdir()) == []
