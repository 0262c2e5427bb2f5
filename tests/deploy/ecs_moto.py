"""Makes what a template declares in moto, a stand-in of AWS in this process.

moto's own CloudFormation does not know half of the types. So each resource is made by the call of its service. The
call's parameters are taken from botocore's description of AWS, and a property that AWS would not know raises KeyError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import boto3
from ecs_templates import ACCOUNT, REGION, Stack

Made = tuple[Any, dict[str, Any]]


class Maker:
    """Makes the resources of stacks, in one account."""

    def __init__(self) -> None:
        self._clients: dict[str, Any] = {}
        #: What was sent: {type: [parameters of each]}
        self.sent: dict[str, list[dict[str, Any]]] = {}
        self._kind = ""

    def client(self, service: str) -> Any:
        """The client of a service."""
        if service not in self._clients:
            self._clients[service] = boto3.client(service, region_name=REGION)
        return self._clients[service]

    def make(self, stack: Stack) -> None:
        """Makes all resources of a stack, and notes their ids in it."""
        for id, kind, properties in stack.resources():
            self._kind = kind
            make: Callable[[str, dict[str, Any]], Made] = getattr(
                self, "_" + kind.removeprefix("AWS::").replace("::", "_")
            )
            try:
                stack.ids[id], attributes = make(f"{stack.name}-{id}", properties())
            except Exception as error:
                error.add_note(f"{id} ({kind})")
                raise
            for attribute, value in attributes.items():
                stack.attributes[id, attribute] = value

    def _call(self, service: str, operation: str, properties: dict[str, Any]) -> dict[str, Any]:
        client = self.client(service)
        shape = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[operation]).input_shape
        parameters = _fitted(properties, shape)
        self.sent.setdefault(self._kind, []).append(parameters)
        answer: dict[str, Any] = getattr(client, operation)(**parameters)
        return answer

    # ECS

    def _ECS_Cluster(self, id: str, properties: dict[str, Any]) -> Made:
        cluster = self._call("ecs", "create_cluster", properties)["cluster"]
        return cluster["clusterName"], {"Arn": cluster["clusterArn"]}

    def _ECS_CapacityProvider(self, id: str, properties: dict[str, Any]) -> Made:
        made = self._call("ecs", "create_capacity_provider", {"Name": id, **properties})
        return made["capacityProvider"]["name"], {}

    def _ECS_ClusterCapacityProviderAssociations(self, id: str, properties: dict[str, Any]) -> Made:
        self._call("ecs", "put_cluster_capacity_providers", properties)
        return id, {}

    def _ECS_TaskDefinition(self, id: str, properties: dict[str, Any]) -> Made:
        task = self._call("ecs", "register_task_definition", properties)["taskDefinition"]
        return task["taskDefinitionArn"], {}

    def _ECS_Service(self, id: str, properties: dict[str, Any]) -> Made:
        made = self._call("ecs", "create_service", {"DesiredCount": 1, **properties})["service"]
        return made["serviceArn"], {"Name": made["serviceName"]}

    # The network

    def _EC2_SecurityGroup(self, id: str, properties: dict[str, Any]) -> Made:
        ingress = properties.pop("SecurityGroupIngress", [])
        described = {"GroupName": id, "Description": properties.pop("GroupDescription"), **properties}
        group = self._call("ec2", "create_security_group", described)["GroupId"]
        for rule in ingress:
            self._EC2_SecurityGroupIngress(id, {"GroupId": group, **rule})
        return group, {"GroupId": group}

    def _EC2_SecurityGroupIngress(self, id: str, properties: dict[str, Any]) -> Made:
        pair = {"GroupId": properties.pop("SourceSecurityGroupId"), "Description": properties.pop("Description")}
        group = properties.pop("GroupId")
        permission = {**properties, "UserIdGroupPairs": [pair]}
        self._call("ec2", "authorize_security_group_ingress", {"GroupId": group, "IpPermissions": [permission]})
        return id, {}

    def _ServiceDiscovery_PrivateDnsNamespace(self, id: str, properties: dict[str, Any]) -> Made:
        self._call("servicediscovery", "create_private_dns_namespace", properties)
        spaces = self.client("servicediscovery").list_namespaces()["Namespaces"]
        return next(space["Id"] for space in spaces if space["Name"] == properties["Name"]), {}

    def _ServiceDiscovery_Service(self, id: str, properties: dict[str, Any]) -> Made:
        made = self._call("servicediscovery", "create_service", properties)["Service"]
        return made["Id"], {"Arn": made["Arn"]}

    # The database and its password

    def _SecretsManager_Secret(self, id: str, properties: dict[str, Any]) -> Made:
        wanted = properties.pop("GenerateSecretString")
        secret = json.loads(wanted.pop("SecretStringTemplate"))
        key = wanted.pop("GenerateStringKey")
        secret[key] = self._call("secretsmanager", "get_random_password", wanted)["RandomPassword"]
        made = self._call(
            "secretsmanager", "create_secret", {"Name": id, "SecretString": json.dumps(secret), **properties}
        )
        return made["ARN"], {}

    def _RDS_DBSubnetGroup(self, id: str, properties: dict[str, Any]) -> Made:
        self._call("rds", "create_db_subnet_group", {"DBSubnetGroupName": id, **properties})
        return id, {}

    def _RDS_DBInstance(self, id: str, properties: dict[str, Any]) -> Made:
        groups = properties.pop("VPCSecurityGroups")
        reference = re.fullmatch(
            r"\{\{resolve:secretsmanager:(.*):SecretString:(\w+)\}\}", properties["MasterUserPassword"]
        )
        assert reference
        secret = self.client("secretsmanager").get_secret_value(SecretId=reference[1])["SecretString"]
        properties["MasterUserPassword"] = json.loads(secret)[reference[2]]
        described = {"DBInstanceIdentifier": id, "VpcSecurityGroupIds": groups, **properties}
        made = self._call("rds", "create_db_instance", described)["DBInstance"]
        endpoint = made["Endpoint"]
        return made["DBInstanceIdentifier"], {
            "Endpoint.Address": endpoint["Address"],
            "Endpoint.Port": str(endpoint["Port"]),
        }

    # Roles and logs

    def _IAM_Role(self, id: str, properties: dict[str, Any]) -> Made:
        policies, managed = properties.pop("Policies", []), properties.pop("ManagedPolicyArns", [])
        trust = json.dumps(properties.pop("AssumeRolePolicyDocument"))
        described = {"RoleName": id, "AssumeRolePolicyDocument": trust, **properties}
        role = self._call("iam", "create_role", described)["Role"]
        for policy in policies:
            self._IAM_RolePolicy(id, {"RoleName": id, **policy})
        for arn in managed:
            self._call("iam", "attach_role_policy", {"RoleName": id, "PolicyArn": arn})
        return id, {"Arn": role["Arn"]}

    def _IAM_RolePolicy(self, id: str, properties: dict[str, Any]) -> Made:
        document = json.dumps(properties.pop("PolicyDocument"))
        self._call("iam", "put_role_policy", {**properties, "PolicyDocument": document})
        return id, {}

    def _IAM_InstanceProfile(self, id: str, properties: dict[str, Any]) -> Made:
        made = self._call("iam", "create_instance_profile", {"InstanceProfileName": id})["InstanceProfile"]
        for role in properties["Roles"]:
            self._call("iam", "add_role_to_instance_profile", {"InstanceProfileName": id, "RoleName": role})
        return id, {"Arn": made["Arn"]}

    def _Logs_LogGroup(self, id: str, properties: dict[str, Any]) -> Made:
        name = properties["LogGroupName"]
        self._call("logs", "create_log_group", {"LogGroupName": name})
        self._call("logs", "put_retention_policy", properties)
        return name, {"Arn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{name}:*"}

    # The instance

    def _EC2_Volume(self, id: str, properties: dict[str, Any]) -> Made:
        tags = [{"ResourceType": "volume", "Tags": properties.pop("Tags")}]
        return self._call("ec2", "create_volume", {**properties, "TagSpecifications": tags})["VolumeId"], {}

    def _EC2_LaunchTemplate(self, id: str, properties: dict[str, Any]) -> Made:
        made = self._call("ec2", "create_launch_template", {"LaunchTemplateName": id, **properties})["LaunchTemplate"]
        return made["LaunchTemplateId"], {"LatestVersionNumber": str(made["LatestVersionNumber"])}

    def _AutoScaling_AutoScalingGroup(self, id: str, properties: dict[str, Any]) -> Made:
        subnets = ",".join(properties.pop("VPCZoneIdentifier"))
        described = {"AutoScalingGroupName": id, "VPCZoneIdentifier": subnets, **properties}
        self._call("autoscaling", "create_auto_scaling_group", described)
        found = self.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[id])
        # In AWS Ref gives the name, which a capacity provider takes as well.
        return found["AutoScalingGroups"][0]["AutoScalingGroupARN"], {}

    # Scaling

    def _ApplicationAutoScaling_ScalableTarget(self, id: str, properties: dict[str, Any]) -> Made:
        self._call("application-autoscaling", "register_scalable_target", properties)
        keys = ("ResourceId", "ScalableDimension", "ServiceNamespace")
        return {key: properties[key] for key in keys}, {}

    def _ApplicationAutoScaling_ScalingPolicy(self, id: str, properties: dict[str, Any]) -> Made:
        target = properties.pop("ScalingTargetId")
        made = self._call("application-autoscaling", "put_scaling_policy", {**target, **properties})
        return made["PolicyARN"], {}

    def _CloudWatch_Alarm(self, id: str, properties: dict[str, Any]) -> Made:
        self._call("cloudwatch", "put_metric_alarm", {"AlarmName": id, **properties})
        return id, {}


def _fitted(value: Any, shape: Any) -> Any:
    """Gives a value the names and types that a call has. CloudFormation begins names with a capital letter."""
    match shape.type_name:
        case "structure":
            names = {name.lower(): name for name in shape.members}
            return {names[key.lower()]: _fitted(each, shape.members[names[key.lower()]]) for key, each in value.items()}
        case "list":
            return [_fitted(each, shape.member) for each in value]
        case "map":
            return {key: _fitted(each, shape.value) for key, each in value.items()}
        case "boolean":
            return {"true": True, "false": False, True: True, False: False}[value]
        case "integer" | "long":
            return int(value)
        case "double" | "float":
            return float(value)
        case _:
            return str(value)
