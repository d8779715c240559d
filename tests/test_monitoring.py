"""The dashboard, Prometheus's configuration and the compose file: what they name is there."""

import json
import re

import pytest
import yaml

from service.settings import ROOT
from tests.running import running
from tests.test_metrics_endpoint import Scraped

MONITORING = ROOT / "service" / "monitoring"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def said(tiny_artefact):
    with running(tiny_artefact) as service:
        service.tag(["Ann Smith"])
        service.client.get("/nope")
        return Scraped(service.client)


def test_every_metric_of_the_dashboard_is_exposed(said):
    asked = {name for query in QUERIES for name in re.findall(r"\b(?:nametag|process)_\w+", query)}
    assert len(asked) >= 15
    assert asked - {sample.name for sample in said.samples} == set()


def test_every_metric_that_is_exposed_is_on_the_dashboard(said):
    suffix = re.compile("_(bucket|sum|count)$")
    shown = {suffix.sub("", name) for query in QUERIES for name in re.findall(r"\w+", query)}
    assert {suffix.sub("", sample.name) for sample in said.samples} - shown == set()


def test_the_labels_that_queries_group_by_are_there(said):
    for query in QUERIES:
        (name, *_) = re.findall(r"\b(?:nametag|process)_\w+", query)
        labels = {label for s in said.samples if s.name == name for label in s.labels}
        for grouped in re.findall(r"by \(([^)]*)\)", query):
            assert set(grouped.split(", ")) <= labels, query


def test_the_monitoring_profile_is_pinned_and_mounts_files_that_exist():
    services = {n: s for n, s in COMPOSE["services"].items() if s.get("profiles") == ["monitoring"]}
    assert set(services) == {"prometheus", "grafana"}
    for service in services.values():
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])
        for mount in service["volumes"]:
            source = mount.partition(":")[0]
            assert (ROOT / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]


def test_prometheus_asks_the_service_and_grafana_asks_prometheus():
    prometheus = yaml.safe_load((MONITORING / "prometheus.yml").read_text("utf-8"))
    (job,) = prometheus["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target.split(":")[0] in COMPOSE["services"]
    (source,) = yaml.safe_load((MONITORING / "datasource.yml").read_text("utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
    assert job["job_name"] == "nametag"  # by which queries select process_…
    (provider,) = yaml.safe_load((MONITORING / "dashboards.yml").read_text("utf-8"))["providers"]
    mounts = [mount.split(":") for mount in COMPOSE["services"]["grafana"]["volumes"]]
    assert any(to == f"{provider['options']['path']}/dashboard.json" for _, to, *_ in mounts)
