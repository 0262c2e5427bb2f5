"""The templates of deploy/ecs: clean by cfn-lint, made in moto, and as docs/ecs.md says."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from ecs_moto import Maker
from ecs_templates import FOLDER, NAMES, REGION, Stack, load
from moto import mock_aws

from gowork.leader._app.command import main as leader_command
from gowork.leader._core.backlog import Backlog
from gowork.leader._engine import backlog_log
from gowork.worker._app import service as worker_service
from gowork.worker._app.command import main as worker_command
from gowork.worker._supervisor import supervisor as worker_supervisor

ROOT = FOLDER.parents[1]
DOCS = (ROOT / "docs/ecs.md").read_text()
#: moto and cfn-lint take long.
pytestmark = pytest.mark.longer
each_template = pytest.mark.parametrize("name", NAMES)


class Account:
    """An account of AWS, and what is made in it. Each stack of leaders has a network of its own, with two zones."""

    def __init__(self) -> None:
        self.maker = Maker()
        #: {name of a stack: the subnets of its network}
        self._subnets: dict[str, list[str]] = {}

    def leaders(self, **parameters: str) -> Stack:
        vpc, subnets = self._network("gowork")
        named = {"Vpc": vpc, "Subnets": ",".join(subnets), "LeaderImage": "leader", "ClientImage": "cli"}
        return self._made("leaders", "gowork", named | parameters, {})

    def one_leader(self, **parameters: str) -> Stack:
        vpc, subnets = self._network("small")
        image = self.maker.client("ec2").describe_images()["Images"][0]["ImageId"]
        named = {"Vpc": vpc, "Subnet": subnets[0], "AvailabilityZone": f"{REGION}a"}
        named |= {"LeaderImage": "leader", "ClientImage": "cli", "InstanceImage": image}
        return self._made("one-leader", "small", named | parameters, {})

    def workers(self, leaders: Stack, **parameters: str) -> Stack:
        subnets = ",".join(self._subnets[leaders.name])
        named = {"LeadersStack": leaders.name, "Subnets": subnets, "WorkerImage": "worker"}
        return self._made("workers", f"{leaders.name}-workers", named | parameters, leaders.exports())

    def _network(self, stack: str) -> tuple[str, list[str]]:
        ec2 = self.maker.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        made = [
            ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"{REGION}{zone}")
            for number, zone in enumerate("ab")
        ]
        self._subnets[stack] = [each["Subnet"]["SubnetId"] for each in made]
        return vpc, self._subnets[stack]

    def _made(self, template: str, name: str, parameters: dict[str, str], imports: dict[str, Any]) -> Stack:
        stack = Stack(load(template), name, parameters, imports)
        self.maker.make(stack)
        return stack

    def container(self, stack: Stack, task: str) -> dict[str, Any]:
        """The one container of a task definition, as ECS has it."""
        described = self.maker.client("ecs").describe_task_definition(taskDefinition=stack.ids[task])
        (container,) = described["taskDefinition"]["containerDefinitions"]
        return container | {name: described["taskDefinition"].get(name) for name in ("volumes", "networkMode")}

    def service(self, stack: Stack, name: str) -> dict[str, Any]:
        """A service as ECS has it, and with what moto forgets of it: how it is deployed, and on which capacity."""
        cluster = stack.ids.get("Cluster") or stack.name.removesuffix("-workers")
        (found,) = self.maker.client("ecs").describe_services(cluster=cluster, services=[stack.ids[name]])["services"]
        (sent,) = [
            each
            for each in self.maker.sent["AWS::ECS::Service"]
            if (each["cluster"], each["serviceName"]) == (cluster, found["serviceName"])
        ]
        return sent | found


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield Account()


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["environment"]}


def secrets(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["valueFrom"] for each in container.get("secrets", [])}


@each_template
def test_cfn_lint_finds_nothing(name: str) -> None:
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "cfn-lint"),
            "--regions",
            REGION,
            "us-east-1",
            "--",
            str(FOLDER / f"{name}.yaml"),
        ],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


# Made in moto


def test_leaders_with_a_database_and_workers_are_made(account: Account) -> None:
    leaders = account.leaders()
    workers = account.workers(leaders)
    ecs, discovery = account.maker.client("ecs"), account.maker.client("servicediscovery")
    assert account.service(leaders, "LeaderService")["desiredCount"] == 2
    (registry,) = account.service(leaders, "LeaderService")["serviceRegistries"]
    assert registry["registryArn"] == leaders.attributes["LeadersName", "Arn"]
    (named,) = discovery.list_services()["Services"]
    assert (named["Name"], named["DnsConfig"]["RoutingPolicy"]) == ("leaders", "MULTIVALUE")
    (cluster,) = ecs.describe_clusters(clusters=["gowork"])["clusters"]
    assert cluster["capacityProviders"] == ["FARGATE", "FARGATE_SPOT"]
    (database,) = account.maker.client("rds").describe_db_instances()["DBInstances"]
    assert (database["Engine"], database["MultiAZ"], database["StorageEncrypted"]) == ("postgres", True, True)
    assert not database["PubliclyAccessible"]
    leader = variables(account.container(leaders, "LeaderTask"))
    host = f"{database['Endpoint']['Address']}:{database['Endpoint']['Port']}"
    assert leader["GOWORK_LOG"] == leader["GOWORK_SNAPSHOTS"] == f"postgresql://gowork@{host}/gowork"
    # Where workers look is where the leaders are named.
    worker = variables(account.container(workers, "WorkerTask"))
    (space,) = discovery.list_namespaces()["Namespaces"]
    assert worker["GOWORK_LEADER"] == f"{named['Name']}.{space['Name']}:50051"
    assert variables(account.container(leaders, "ClientTask"))["GOWORK_LEADER"] == leaders.outputs()["ClientAddress"]
    assert leaders.outputs()["ClientAddress"] == f"{named['Name']}.{space['Name']}:50052"
    assert account.service(workers, "WorkerService")["serviceName"] == "gowork-workers"


def test_the_password_comes_from_secrets_manager_and_stands_nowhere(account: Account) -> None:
    leaders = account.leaders()
    arn = leaders.ids["DatabaseSecret"]
    password = json.loads(account.maker.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])
    assert len(password["password"]) == 40
    assert secrets(account.container(leaders, "LeaderTask")) == {"PGPASSWORD": f"{arn}:password::"}
    assert password["password"] not in json.dumps(account.maker.sent["AWS::ECS::TaskDefinition"])
    assert allowed(account, leaders, "ExecutionRole")["secretsmanager:GetSecretValue"] == [arn]


def test_a_log_in_etcd_takes_the_place_of_the_database(account: Account) -> None:
    etcd, postgresql = (f"arn:aws:secretsmanager:{REGION}:123456789012:secret:{name}" for name in ("etcd", "pg"))
    leaders = account.leaders(
        Log="etcd://10.0.0.1:2379,10.0.0.2:2379/gowork",
        Snapshots="postgresql://gowork@db/gowork",
        EtcdSecret=etcd,
        PostgresqlSecret=postgresql,
        Leaders="3",
    )
    assert account.maker.client("rds").describe_db_instances()["DBInstances"] == []
    assert account.maker.client("secretsmanager").list_secrets()["SecretList"] == []
    container = account.container(leaders, "LeaderTask")
    assert variables(container)["GOWORK_LOG"] == "etcd://10.0.0.1:2379,10.0.0.2:2379/gowork"
    assert variables(container)["GOWORK_SNAPSHOTS"] == "postgresql://gowork@db/gowork"
    assert secrets(container) == {
        "PGPASSWORD": f"{postgresql}:password::",
        "GOWORK_ETCD_USER": f"{etcd}:username::",
        "GOWORK_ETCD_PASSWORD": f"{etcd}:password::",
    }
    assert allowed(account, leaders, "ExecutionRole")["secretsmanager:GetSecretValue"] == [postgresql, etcd]
    assert account.service(leaders, "LeaderService")["desiredCount"] == 3


def test_a_log_without_secrets_needs_no_permission_for_any(account: Account) -> None:
    leaders = account.leaders(Log="etcd://10.0.0.1:2379/gowork", Snapshots="postgresql://gowork@db/gowork")
    assert secrets(account.container(leaders, "LeaderTask")) == {}
    assert "secretsmanager:GetSecretValue" not in allowed(account, leaders, "ExecutionRole")


def test_a_log_of_your_own_without_snapshots_is_refused() -> None:
    # Without a lasting disk, the leaders would lose what the log has dropped.
    template = load("leaders")
    (rule,) = template["Rules"].values()
    parameters = {"Vpc": "", "Subnets": "", "LeaderImage": "", "ClientImage": ""}
    for log, snapshots, passes in (("", "", True), ("etcd://a/b", "", False), ("etcd://a/b", "postgresql://a/b", True)):
        stack = Stack(template, "gowork", parameters | {"Log": log, "Snapshots": snapshots}, {})
        applies = stack.resolve(rule["RuleCondition"])
        assert (not applies or all(stack.resolve(each["Assert"]) for each in rule["Assertions"])) is passes


def test_a_database_is_made_from_a_snapshot_with_the_password_of_the_stack() -> None:
    stack = Stack(
        load("leaders"),
        "gowork",
        {"Vpc": "v", "Subnets": "s", "LeaderImage": "l", "ClientImage": "c", "DatabaseSnapshot": "snap"},
        {},
    )
    stack.ids |= {"DatabaseSecret": "arn", "DatabaseSubnets": "n"}
    stack.attributes["DatabaseGroup", "GroupId"] = "sg"
    properties = stack.resolve(stack.template["Resources"]["Database"]["Properties"])
    assert properties["DBSnapshotIdentifier"] == "snap"
    # AWS refuses these beside a snapshot.
    assert not {"DBName", "MasterUsername"} & properties.keys()
    assert properties["MasterUserPassword"] == "{{resolve:secretsmanager:arn:SecretString:password}}"


def test_one_leader_keeps_its_store_on_the_volume_that_its_instance_mounts(account: Account) -> None:
    stack = account.one_leader()
    workers = account.workers(stack)
    container = account.container(stack, "LeaderTask")
    (volume,) = container["volumes"]
    (mount,) = container["mountPoints"]
    assert volume == {"name": mount["sourceVolume"], "host": {"sourcePath": "/srv/gowork"}}
    assert mount["containerPath"] == variables(container)["GOWORK_DATA_DIR"]
    assert "GOWORK_LOG" not in variables(container)
    (sent,) = account.maker.sent["AWS::EC2::Volume"][:1]
    assert sent["Encrypted"]
    assert "SnapshotId" not in sent
    (group,) = account.maker.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    assert (group["MaxSize"], group["AvailabilityZones"]) == (1, [f"{REGION}a"])
    (strategy,) = account.service(stack, "LeaderService")["capacityProviderStrategy"]
    assert strategy["capacityProvider"] == stack.ids["InstanceProvider"]
    assert variables(account.container(workers, "WorkerTask"))["GOWORK_LEADER"] == "leaders.gowork.internal:50051"


def test_the_script_of_the_instance_is_one_of_bash_and_never_formats_a_volume_that_has_a_file_system(
    account: Account, tmp_path: Path
) -> None:
    stack = account.one_leader()
    script = stack.resolve(stack.template["Resources"]["InstanceTemplate"]["Properties"]["LaunchTemplateData"])
    (tmp_path / "script").write_text(_decoded(script["UserData"]))
    text = (tmp_path / "script").read_text()
    assert subprocess.run(["bash", "-n", str(tmp_path / "script")], capture_output=True, text=True).stderr == ""
    assert "${" not in text
    # The line itself, with stand-ins of what it calls.
    (line,) = [line for line in text.splitlines() if "mkfs.xfs" in line]
    for kind, formatted in (("xfs", ""), ("", "formatted /disk\n")):
        around = f'blkid() {{ echo -n "{kind}"; [ -n "{kind}" ]; }}; mkfs.xfs() {{ echo "formatted $1"; }}; disk=/disk'
        done = subprocess.run(["bash", "-ec", f"set -euo pipefail; {around}; {line}"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, formatted), done.stderr


def _decoded(data: str) -> str:
    import base64

    return base64.b64decode(data).decode()


# Upgrades


def test_an_upgrade_of_several_leaders_starts_the_new_ones_before_it_stops_the_old_ones(account: Account) -> None:
    settings = account.service(account.leaders(), "LeaderService")["deploymentConfiguration"]
    assert (settings["minimumHealthyPercent"], settings["maximumPercent"]) == (100, 200)
    assert settings["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}


def test_an_upgrade_of_one_leader_stops_the_old_one_first_because_of_the_store(account: Account) -> None:
    settings = account.service(account.one_leader(), "LeaderService")["deploymentConfiguration"]
    assert (settings["minimumHealthyPercent"], settings["maximumPercent"]) == (0, 100)
    assert settings["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}


def test_a_worker_has_drained_and_reported_before_ecs_kills_it(account: Account) -> None:
    workers = account.workers(account.leaders())
    container = account.container(workers, "WorkerTask")
    drain = float(variables(container)["GOWORK_DRAIN_TIMEOUT"])
    ends = (
        2 * worker_supervisor._INTERRUPT_GRACE
        + max(
            worker_service._ACKNOWLEDGE_TIMEOUT + worker_service._GOODBYE_TIMEOUT,
            worker_supervisor._STOP_GRACE,
        )
        + 5
    )
    assert drain + ends <= container["stopTimeout"]
    # The most that Fargate gives, and what Spot gives.
    assert container["stopTimeout"] == 120
    assert account.service(workers, "WorkerService")["deploymentConfiguration"]["deploymentCircuitBreaker"]["rollback"]


def test_workers_run_on_fargate_first_and_then_on_spot(account: Account) -> None:
    first, then = account.service(account.workers(account.leaders()), "WorkerService")["capacityProviderStrategy"]
    assert first == {"capacityProvider": "FARGATE", "weight": 0, "base": 1}
    assert (then["capacityProvider"], then["weight"]) == ("FARGATE_SPOT", 1)


# What runs


def envvars(command: click.Command) -> set[str]:
    """The variables of a command's options."""
    return {
        "GOWORK_" + max(option.opts, key=len).removeprefix("--").replace("-", "_").upper()
        for option in command.params
        if isinstance(option, click.Option)
    }


def test_each_variable_is_one_that_the_program_reads(account: Account) -> None:
    leaders, one = account.leaders(), account.one_leader()
    for stack in (leaders, one):
        names = {*variables(account.container(stack, "LeaderTask")), *secrets(account.container(stack, "LeaderTask"))}
        assert names - envvars(leader_command) <= {"TMPDIR", "PGPASSWORD", "PGSSLMODE"}
    worker = account.container(account.workers(leaders), "WorkerTask")
    assert variables(worker).keys() <= envvars(worker_command)


@contextmanager
def pages(statuses: dict[str, int]) -> Iterator[int]:
    """A leader's probes, with statuses that the test may change."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses[self.path])
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def healthy(container: dict[str, Any], port: int, folder: Path) -> bool:
    """Runs the health check of a container, with its port and its directory replaced."""
    kind, program, *arguments = container["healthCheck"]["command"]
    assert (kind, program) == ("CMD", "python3")
    assert sum(":9464/" in each or ":9465/" in each for each in arguments) == 1
    asked = [re.sub(r":946[45]/", f":{port}/", each) for each in arguments]
    environment = {"PATH": os.environ["PATH"], "GOWORK_DATA_DIR": str(folder)}
    return subprocess.run([sys.executable, *asked], env=environment, capture_output=True).returncode == 0


def test_a_new_leader_is_healthy_when_it_is_first_ready_and_then_while_its_loop_turns(
    account: Account, tmp_path: Path
) -> None:
    container = account.container(account.leaders(), "LeaderTask")
    statuses = {"/readyz": 503, "/healthz": 200}
    with pages(statuses) as port:
        assert not healthy(container, port, tmp_path)
        statuses["/readyz"] = 200
        assert healthy(container, port, tmp_path)
        # Its database is away, and a restart would not help.
        statuses["/readyz"] = 503
        assert healthy(container, port, tmp_path)
        statuses["/healthz"] = 503
        assert not healthy(container, port, tmp_path)
    assert not healthy(container, port, tmp_path)


def test_a_real_leader_runs_with_what_the_template_gives_it_and_is_healthy(account: Account, tmp_path: Path) -> None:
    container = account.container(account.one_leader(), "LeaderTask")
    given = {name: value for name, value in variables(container).items() if not name.endswith("_LISTEN")}
    free = {f"GOWORK_{name}_LISTEN": "127.0.0.1:0" for name in ("CLUSTER", "SCHEDULER", "HTTP")}
    command = Path(sys.executable).parent / container["command"][0]
    with subprocess.Popen(
        [str(command), "--print-addresses"],
        env={"PATH": os.environ["PATH"], **given, **free, "GOWORK_DATA_DIR": str(tmp_path), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            port = int(json.loads(process.stdout.readline())["http"].rpartition(":")[2])
            assert healthy(container, port, tmp_path)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60) as answer:
                assert answer.status == 200
        finally:
            process.terminate()
        assert process.wait(60) == 0
    assert not healthy(container, port, tmp_path)


# Scaling


def test_workers_scale_on_the_metrics_that_the_leader_writes(account: Account) -> None:
    leaders = account.leaders()
    account.workers(leaders, WorkersMin="0", WorkersMax="7", BacklogPerSlot="2.5")
    scaling = account.maker.client("application-autoscaling")
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="ecs")["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (0, 7)
    assert target["ResourceId"] == "service/gowork/gowork-workers"
    policies = {
        each["PolicyName"]: each
        for each in scaling.describe_scaling_policies(ServiceNamespace="ecs")["ScalingPolicies"]
    }
    written = backlog_log.embedded(Backlog(1, 1, 1), leaders.name, 1)
    asked = [
        policies[f"gowork-workers-{name}"]["TargetTrackingScalingPolicyConfiguration"] for name in ("backlog", "busy")
    ]
    (alarm,) = account.maker.client("cloudwatch").describe_alarms()["MetricAlarms"][-1:]
    for metric in (*(each["CustomizedMetricSpecification"] for each in asked), alarm):
        assert metric["Namespace"] == backlog_log.NAMESPACE
        assert metric["MetricName"] in written
        assert metric["Dimensions"] == [{"Name": "Cluster", "Value": written["Cluster"]}]
    assert variables(account.container(leaders, "LeaderTask"))["GOWORK_CLOUDWATCH_METRICS"] == leaders.name
    assert variables(account.container(leaders, "LeaderTask"))["GOWORK_LOG_FORMAT"] == "json"
    backlog, busy = asked
    assert (backlog["TargetValue"], backlog["CustomizedMetricSpecification"]["MetricName"]) == (2.5, "BacklogPerSlot")
    # No backlog does not mean that workers may go.
    assert backlog["DisableScaleIn"]
    assert not busy.get("DisableScaleIn")


def test_the_first_worker_is_started_by_an_alarm_that_only_ever_adds(account: Account) -> None:
    workers = account.workers(account.leaders())
    (alarm,) = [
        each
        for each in account.maker.client("cloudwatch").describe_alarms()["MetricAlarms"]
        if each["MetricName"] == "BacklogWithoutSlots"
    ]
    assert alarm["AlarmActions"] == [workers.ids["ScaleFromZero"]]
    assert (alarm["Statistic"], alarm["Threshold"], alarm["TreatMissingData"]) == ("Minimum", 1.0, "notBreaching")
    policies = account.maker.client("application-autoscaling").describe_scaling_policies(ServiceNamespace="ecs")
    (first,) = [each for each in policies["ScalingPolicies"] if each["PolicyType"] == "StepScaling"]
    step = first["StepScalingPolicyConfiguration"]
    # An exact number would stop the others when all of them have lost their leader.
    assert (step["AdjustmentType"], step["StepAdjustments"][0]["ScalingAdjustment"]) == ("ChangeInCapacity", 1)
    assert step["Cooldown"] >= 300


# Who may what


def allowed(account: Account, stack: Stack, role: str) -> dict[str, list[str]]:
    """What a role's own policies allow: {action: resources}."""
    iam, found = account.maker.client("iam"), dict[str, list[str]]()
    for name in iam.list_role_policies(RoleName=stack.ids[role])["PolicyNames"]:
        document = iam.get_role_policy(RoleName=stack.ids[role], PolicyName=name)["PolicyDocument"]
        for statement in document["Statement"]:
            assert statement["Effect"] == "Allow"
            actions, resources = (
                [value] if isinstance(value, str) else value for value in (statement["Action"], statement["Resource"])
            )
            for action in actions:
                found.setdefault(action, []).extend(resources)
    return found


def test_roles_allow_what_is_needed_and_no_more(account: Account) -> None:
    leaders, one = account.leaders(), account.one_leader()
    workers = account.workers(leaders, TaskPolicies="arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
    for stack in (leaders, one, workers):
        start = allowed(account, stack, "ExecutionRole")
        assert {action for action, resources in start.items() if "*" in resources} == {"ecr:GetAuthorizationToken"}
        assert start.keys() - {"secretsmanager:GetSecretValue"} == {
            "ecr:GetAuthorizationToken",
            "ecr:BatchCheckLayerAvailability",
            "ecr:BatchGetImage",
            "ecr:GetDownloadUrlForLayer",
            "logs:CreateLogStream",
            "logs:PutLogEvents",
        }
        groups = (
            {f"log-group:/gowork/{stack.name}/"}
            if stack is not workers
            else {"log-group:/gowork/gowork/gowork-workers"}
        )
        assert all(any(group in resource for group in groups) for resource in start["logs:PutLogEvents"])
    assert allowed(account, leaders, "TaskRole") == allowed(account, one, "TaskRole") == {}
    assert allowed(account, workers, "TaskRole") == {
        "ecs:UpdateTaskProtection": [f"arn:aws:ecs:{REGION}:123456789012:task/gowork/*"]
    }
    attached = account.maker.client("iam").list_attached_role_policies(RoleName=workers.ids["TaskRole"])
    assert [each["PolicyName"] for each in attached["AttachedPolicies"]] == ["AmazonS3ReadOnlyAccess"]
    assert allowed(account, one, "InstanceRole").keys() == {"ec2:AttachVolume"}
    for stack in (leaders, workers):
        for task in account.maker.sent["AWS::ECS::TaskDefinition"]:
            assert task["executionRoleArn"] != task["taskRoleArn"], stack.name


def test_only_members_and_clients_reach_the_ports_of_leaders_and_only_leaders_the_database(account: Account) -> None:
    ec2 = account.maker.client("ec2")
    for stack in (leaders := account.leaders(), account.one_leader()):
        wanted = {
            (stack.ids["WorkersGroup"], 50051, 50051),
            (stack.ids["ClientsGroup"], 50052, 50052),
        }
        if stack is leaders:
            wanted.add((stack.ids["LeadersGroup"], 50051, 50052))
        assert _let_in(ec2, stack.ids["LeadersGroup"]) == wanted
        for closed in ("WorkersGroup", "ClientsGroup", *(["InstanceGroup"] if stack is not leaders else [])):
            assert _let_in(ec2, stack.ids[closed]) == set()
    assert _let_in(ec2, leaders.ids["DatabaseGroup"]) == {(leaders.ids["LeadersGroup"], 5432, 5432)}


def _let_in(ec2: Any, group: str) -> set[tuple[str, int, int]]:
    """Who may connect to the members of a group, and to which ports."""
    (found,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert not any(rule.get("IpRanges") or rule.get("Ipv6Ranges") for rule in found["IpPermissions"])
    return {
        (pair["GroupId"], rule["FromPort"], rule["ToPort"])
        for rule in found["IpPermissions"]
        for pair in rule["UserIdGroupPairs"]
    }


def test_every_container_logs_to_a_group_that_forgets(account: Account) -> None:
    leaders, one = account.leaders(), account.one_leader()
    account.workers(leaders, LogRetentionDays="7")
    groups = {
        group["logGroupName"]: group.get("retentionInDays")
        for group in account.maker.client("logs").describe_log_groups()["logGroups"]
    }
    assert groups["/gowork/gowork/gowork-workers"] == 7
    assert set(groups.values()) == {7, 30}
    for task in account.maker.sent["AWS::ECS::TaskDefinition"]:
        for container in task["containerDefinitions"]:
            assert container["logConfiguration"]["options"]["awslogs-group"] in groups
    assert one.outputs()["LeaderLogs"] in groups


# The page


@each_template
def test_the_page_explains_each_parameter_with_its_default(name: str) -> None:
    (table,) = re.findall(rf"^### Parameters of {name}\.yaml\n\n(?:[^|].*\n+)*((?:\|.*\n)+)", DOCS, flags=re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    told = {row[0].strip("`"): row[1].strip("`") for row in rows}
    declared = load(name)["Parameters"]
    assert told == {key: str(each.get("Default", "required")) or "empty" for key, each in declared.items()}
    assert all(len(row[2]) > 20 for row in rows)


def test_commands_of_the_page_name_outputs_and_parameters_that_there_are() -> None:
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", DOCS, flags=re.DOTALL)).replace("\\\n", " ")
    outputs = {name for each in NAMES for name in load(each)["Outputs"]}
    asked = set(re.findall(r"output (?:gowork|small|gowork-workers) (\w+)", blocks))
    assert asked
    assert asked <= outputs
    assert subprocess.run(["bash", "-n"], input=blocks, capture_output=True, text=True).stderr == ""
    deployed = re.findall(r"cloudformation deploy .*?--template-file deploy/ecs/([\w-]+)\.yaml(.*)", blocks)
    assert {name for name, _ in deployed} == set(NAMES)
    first: set[str] = set()
    for name, rest in deployed:
        given = set(re.findall(r"\b([A-Z]\w+)=", rest))
        declared = load(name)["Parameters"]
        assert given <= declared.keys()
        if name not in first:
            # Later ones are updates, which keep what they don't name.
            assert {key for key, each in declared.items() if "Default" not in each} <= given
        first.add(name)


@pytest.mark.parametrize("template", ["leaders", "one-leader"])
def test_the_costs_add_up_and_each_is_a_unit_price_times_an_amount(template: str) -> None:
    (table,) = re.findall(rf"^`{template}\.yaml` with its defaults:\n\n((?:\|.*\n)+)", DOCS, flags=re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    *parts, total = rows
    for _, price, amount, month in parts:
        product = float(price.split()[0])
        for factor in amount.split(" × "):
            product *= float(factor)
        assert float(month) == pytest.approx(product, abs=0.005)
    assert float(total[3].strip("*")) == pytest.approx(sum(float(each[3]) for each in parts), abs=0.001)
