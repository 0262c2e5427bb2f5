"""The files for Docker Compose are sound, as far as a test without Docker can tell; deploy names only its own hosts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml

from gowork.base.http import LOOP_SECONDS
from gowork.base.telemetry import exporters_of
from gowork.leader._app.command import main as leader
from gowork.worker._app.command import main as worker

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SEVERAL = yaml.safe_load((FOLDER / "compose-ha.yaml").read_text())
LEADERS = ("leader-a", "leader-b", "leader-c")
MEMBERS = ("etcd-a", "etcd-b", "etcd-c")
#: Addresses on which a service listens, or is reached from its own machine.
LOCAL = {"127.0.0.1", "0.0.0.0"}
#: The addresses of the leaders of compose-ha.yaml, which stay.
FIXED = {SEVERAL["services"][name]["networks"]["default"]["ipv4_address"] for name in LEADERS}
IMAGES = {"gowork-leader", "gowork-worker"}
#: Templates for ECS name hosts of AWS, and have tests of their own.
PAGES = sorted(
    path
    for path in FOLDER.rglob("*")
    if path.suffix in {".yaml", ".yml", ".json", ".md"} and FOLDER / "ecs" not in path.parents
)
each_service = pytest.mark.parametrize(
    ("compose", "name"),
    [pytest.param(each, name, id=f"{each['name']} {name}") for each in (COMPOSE, SEVERAL) for name in each["services"]],
)


def mounts(service: dict[str, Any]) -> list[list[str]]:
    return [volume.split(":") for volume in service.get("volumes", [])]


def test_there_is_a_cluster_and_what_watches_it() -> None:
    assert set(SERVICES) == {"leader", "worker", "prometheus", "tempo", "grafana"}
    assert SERVICES["worker"]["deploy"]["replicas"] == 3


def test_there_are_several_leaders_and_members_with_a_balancer() -> None:
    assert set(SEVERAL["services"]) == {*LEADERS, *MEMBERS, "nginx", "worker", "prometheus", "grafana"}
    assert SEVERAL["services"]["worker"] | {"depends_on": 0, "command": 0} == {
        key: value for key, value in SERVICES["worker"].items() if key != "environment"
    } | {"depends_on": 0, "command": 0}


@each_service
def test_what_is_mounted_exists(compose: dict[str, Any], name: str) -> None:
    for source, target, *_ in mounts(compose["services"][name]):
        assert target.startswith("/")
        if source.startswith("."):
            assert (FOLDER / source).is_dir() or source.endswith(".conf"), source
            assert (FOLDER / source).exists(), source
        else:
            assert source in compose["volumes"]


@pytest.mark.parametrize("name", ["leader", "worker"])
def test_traces_go_to_the_service_that_keeps_them(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert exporters_of(environment) == ("otlp",)
    assert urlsplit(environment["OTEL_EXPORTER_OTLP_ENDPOINT"]).hostname in SERVICES


@pytest.mark.parametrize("compose", [COMPOSE, SEVERAL], ids=["one leader", "several"])
def test_every_volume_is_used(compose: dict[str, Any]) -> None:
    mounted = [source for service in compose["services"].values() for source, *_ in mounts(service)]
    volumes = [source for source in mounted if not source.startswith(".")]
    # Each has a single writer.
    assert sorted(volumes) == sorted(compose["volumes"])


@each_service
def test_files_that_a_service_is_told_of_are_where_it_mounts_them(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    if name == "nginx":
        # It reads nginx.conf without being told, and that includes leaders.conf from beside it.
        assert [target for _, target, *_ in mounts(service)] == ["/etc/nginx/nginx.conf", "/etc/nginx/leaders.conf"]
        return
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


@pytest.mark.parametrize("compose", [COMPOSE, SEVERAL], ids=["one leader", "several"])
def test_grafana_provisions_the_boards_from_where_they_are_mounted(compose: dict[str, Any]) -> None:
    grafana = compose["services"]["grafana"]
    (provider,) = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/gowork.yaml").read_text())["providers"]
    targets = {target: source for source, target, *_ in mounts(grafana)}
    assert list((FOLDER / targets[provider["options"]["path"]]).glob("*.json"))
    sources = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/gowork.yaml").read_text())["datasources"]
    assert {source["url"].removeprefix("$") for source in sources} <= set(grafana["environment"])


@each_service
def test_services_are_published_on_loopback_alone(compose: dict[str, Any], name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in compose["services"][name].get("ports", []))


@each_service
def test_every_service_has_a_health_check_and_an_image_of_one_version(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["image"] in IMAGES or re.search(r":v?\d+\.\d+\.\d+$", service["image"])


@pytest.mark.parametrize(
    ("compose", "name"),
    [(COMPOSE, "leader"), (COMPOSE, "worker"), (SEVERAL, "worker"), *((SEVERAL, n) for n in LEADERS)],
)
def test_leader_and_worker_may_do_little_and_are_asked_as_their_image_says(compose: dict[str, Any], name: str) -> None:
    service, kind = compose["services"][name], name.partition("-")[0]
    assert service["image"] == f"gowork-{kind}"
    assert service["build"] == {"context": "..", "dockerfile": f"deploy/docker/{kind}.Dockerfile"}
    assert service["read_only"] is True
    assert (service["tmpfs"], service["cap_drop"]) == (["/tmp"], ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["healthcheck"]["test"] == ["CMD", f"gowork-{kind}", "--check"]
    # A process whose loop does not turn says so after 5 s.
    assert int(service["healthcheck"]["timeout"].removesuffix("s")) > LOOP_SECONDS


@pytest.mark.parametrize(
    ("compose", "name"),
    [(COMPOSE, "leader"), (COMPOSE, "worker"), (SEVERAL, "worker"), *((SEVERAL, n) for n in LEADERS)],
)
def test_options_of_leader_and_worker_exist(compose: dict[str, Any], name: str) -> None:
    commands: dict[str, click.Command] = {"leader": leader, "worker": worker}
    kind = name.partition("-")[0]
    # The program itself is the image's entry point.
    with commands[kind].make_context(f"gowork-{kind}", list(compose["services"][name]["command"])) as context:
        assert context.params


def test_several_leaders_differ_in_name_and_address_and_share_the_members() -> None:
    services = SEVERAL["services"]
    for name in LEADERS:
        environment = services[name]["environment"]
        assert f"leader-{environment['GOWORK_NAME']}" == name
        assert environment["GOWORK_ADVERTISE"] == services[name]["networks"]["default"]["ipv4_address"]
        (log,) = [option for option in services[name]["command"] if option.startswith("--log=")]
        assert log == f"--log=etcd://{','.join(f'{member}:2379' for member in MEMBERS)}/gowork"
        assert services[name]["networks"]["default"]["aliases"] == ["leader"]
    assert len(FIXED) == 3
    for name in MEMBERS:
        environment = services[name]["environment"]
        assert f"etcd-{environment['ETCD_NAME']}" == name
        assert environment["ETCD_ADVERTISE_CLIENT_URLS"] == f"http://{name}:2379"
        assert f"{environment['ETCD_NAME']}={environment['ETCD_INITIAL_ADVERTISE_PEER_URLS']}" in (
            environment["ETCD_INITIAL_CLUSTER"].split(",")
        )
        assert len(environment["ETCD_INITIAL_CLUSTER"].split(",")) == len(MEMBERS)


def test_the_balancer_of_several_leaders_knows_them_as_the_shipped_file_knows_three_machines() -> None:
    shipped = (FOLDER / "nginx/leaders.conf").read_text()
    composed = (FOLDER / "nginx/leaders-compose.conf").read_text()
    assert set(re.findall(r"server ([\d.]+):", composed)) == FIXED
    after_comment = [text.split("\n", 1)[1] for text in (shipped, composed)]
    assert after_comment[0].replace("10.0.0.", "172.30.53.1") == after_comment[1]


def test_prometheus_looks_where_leader_and_workers_listen() -> None:
    read = yaml.safe_load((FOLDER / "prometheus/prometheus-dns.yml").read_text())
    for job in read["scrape_configs"]:
        (found,) = job["dns_sd_configs"]
        (name,) = found["names"]
        several = [service for each, service in SEVERAL["services"].items() if each.partition("-")[0] == name]
        assert len(several) == (3 if name == "leader" else 1)
        for service in (SERVICES[name], *several):
            assert f"--http-listen=0.0.0.0:{found['port']}" in service["command"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(FOLDER)))
def test_no_host_is_named_but_loopback_and_the_services(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"\w+://([\w.-]+)", text) + re.findall(
        r"\b((?:\d{1,3}\.){3}\d{1,3}|[a-z][\w.-]*[a-z]):\d{4,5}\b", text
    )
    allowed = LOCAL | FIXED | set(SERVICES) | set(SEVERAL["services"])
    assert set(named) <= allowed, set(named) - allowed
