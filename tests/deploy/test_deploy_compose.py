"""The file deploy/compose.yaml is sound, as far as a test without Docker can tell; deploy names only its own hosts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml

from gowork.base.telemetry import exporters_of
from gowork.leader._app.command import main as leader
from gowork.worker._app.command import main as worker

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
#: Addresses on which a service listens, or is reached from its own machine.
LOCAL = {"127.0.0.1", "0.0.0.0"}
PAGES = sorted(
    path
    for path in FOLDER.rglob("*")
    if path.suffix in {".yaml", ".yml", ".json", ".md"} or path.name.startswith("Dockerfile")
)
each_service = pytest.mark.parametrize("name", SERVICES)


def mounts(service: dict[str, Any]) -> list[list[str]]:
    return [volume.split(":") for volume in service.get("volumes", [])]


def test_there_is_a_cluster_and_what_watches_it() -> None:
    assert set(SERVICES) == {"leader", "worker", "prometheus", "tempo", "grafana"}
    assert SERVICES["worker"]["deploy"]["replicas"] == 3


@each_service
def test_what_is_mounted_exists(name: str) -> None:
    for source, target, *_ in mounts(SERVICES[name]):
        assert target.startswith("/")
        if source.startswith("."):
            assert (FOLDER / source).is_dir(), source
        else:
            assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", ["leader", "worker"])
def test_traces_go_to_the_service_that_keeps_them(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert exporters_of(environment) == ("otlp",)
    assert urlsplit(environment["OTEL_EXPORTER_OTLP_ENDPOINT"]).hostname in SERVICES


def test_every_volume_is_used() -> None:
    assert set(COMPOSE["volumes"]) == {source for service in SERVICES.values() for source, *_ in mounts(service)} - {
        source for service in SERVICES.values() for source, *_ in mounts(service) if source.startswith(".")
    }


@each_service
def test_files_that_a_service_is_told_of_are_where_it_mounts_them(name: str) -> None:
    service = SERVICES[name]
    folders = {target: FOLDER / source for source, target, *_ in mounts(service) if source.startswith(".")}
    told = re.findall(
        r"/etc/[\w./-]+\.(?:ya?ml|json)", f"{service.get('command', '')} {service.get('environment', '')}"
    )
    assert bool(told) == bool(folders)
    for path in told:
        (file,) = [
            folder / path.removeprefix(f"{target}/") for target, folder in folders.items() if path.startswith(target)
        ]
        assert file.is_file(), path


def test_grafana_provisions_the_boards_from_where_they_are_mounted() -> None:
    (provider,) = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/gowork.yaml").read_text())["providers"]
    targets = {target: source for source, target, *_ in mounts(SERVICES["grafana"])}
    assert list((FOLDER / targets[provider["options"]["path"]]).glob("*.json"))
    sources = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/gowork.yaml").read_text())["datasources"]
    assert {source["url"].removeprefix("$") for source in sources} <= set(SERVICES["grafana"]["environment"])


@each_service
def test_services_are_published_on_loopback_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@each_service
def test_every_service_has_a_health_check_and_an_image_of_one_version(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["image"] == "gowork" or re.search(r":v?\d+\.\d+\.\d+$", service["image"])


@pytest.mark.parametrize(("name", "command"), [("leader", leader), ("worker", worker)])
def test_options_of_leader_and_worker_exist(name: str, command: click.Command) -> None:
    program, *options = SERVICES[name]["command"]
    assert program == f"gowork-{name}"
    with command.make_context(program, options) as context:
        assert context.params


def test_prometheus_looks_where_leader_and_workers_listen() -> None:
    read = yaml.safe_load((FOLDER / "prometheus/prometheus-dns.yml").read_text())
    for job in read["scrape_configs"]:
        (found,) = job["dns_sd_configs"]
        (service,) = found["names"]
        assert f"--http-listen=0.0.0.0:{found['port']}" in SERVICES[service]["command"]
        assert f":{found['port']}/readyz" in str(SERVICES[service]["healthcheck"])


def test_the_image_is_built_from_what_the_builder_is_given() -> None:
    build = SERVICES["leader"]["build"]
    dockerfile = FOLDER / build["context"] / build["dockerfile"]
    (source,) = re.findall(r"--mount=type=bind,source=(\w+)", dockerfile.read_text())
    assert f"!{source}" in dockerfile.with_name("Dockerfile.dockerignore").read_text().splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(FOLDER)))
def test_no_host_is_named_but_loopback_and_the_services(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"\w+://([\w.-]+)", text) + re.findall(
        r"\b((?:\d{1,3}\.){3}\d{1,3}|[a-z][\w.-]*[a-z]):\d{4,5}\b", text
    )
    assert set(named) <= LOCAL | set(SERVICES), set(named) - LOCAL - set(SERVICES)
