"""The CloudFormation templates of deploy/ecs: read, filled in with parameters, and resolved.

It knows the functions that the templates use, and raises KeyError at any other.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "deploy/ecs"
NAMES = ("leaders", "one-leader", "workers")
ACCOUNT = "123456789012"
REGION = "eu-central-1"
#: What stands for AWS::NoValue until the property is left out.
_NOTHING = object()


class _Loader(yaml.SafeLoader):
    """Reads the short forms of functions, such as !Ref, as their long ones."""


def _function(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        return {name: value.split(".", 1) if suffix == "GetAtt" else value}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _function)


def load(name: str) -> dict[str, Any]:
    """A template as it is written."""
    text = (FOLDER / f"{name}.yaml").read_text()
    return yaml.load(text, _Loader)


class Stack:
    """A template with its parameters, and what has been made of it.

    Args:
        template: as `load` returns it.
        name: the stack's.
        parameters: those that differ from the defaults.
        imports: what other stacks export: {name: value}.
    """

    def __init__(
        self, template: Mapping[str, Any], name: str, parameters: Mapping[str, str], imports: Mapping[str, Any]
    ) -> None:
        self.template = template
        self.name = name
        self._imports = imports
        declared = template["Parameters"]
        assert parameters.keys() <= declared.keys(), parameters.keys() - declared.keys()
        self.parameters = {
            key: _typed(parameters[key] if key in parameters else each["Default"], each["Type"])
            for key, each in declared.items()
        }
        #: {logical id: what Ref gives}, and {(logical id, attribute): what GetAtt gives}
        self.ids: dict[str, Any] = {}
        self.attributes: dict[tuple[str, str], Any] = {}

    def holds(self, condition: str) -> bool:
        """Whether a condition is true."""
        return bool(self.resolve(self.template["Conditions"][condition]))

    def resources(self) -> Iterator[tuple[str, str, Callable[[], dict[str, Any]]]]:
        """Yields (logical id, type, its properties when they are asked for), each after those that it needs."""
        wanted = {
            id: each
            for id, each in self.template["Resources"].items()
            if "Condition" not in each or self.holds(each["Condition"])
        }
        while wanted:
            ready = [id for id, each in wanted.items() if not self._needs(each) & (wanted.keys() - {id})]
            assert ready, f"they need one another: {sorted(wanted)}"
            for id in ready:
                each = wanted.pop(id)
                yield id, each["Type"], partial(self.resolve, each.get("Properties", {}))

    def outputs(self) -> dict[str, Any]:
        """The values of the outputs."""
        return {key: self.resolve(each["Value"]) for key, each in self._outputs()}

    def exports(self) -> dict[str, Any]:
        """What other stacks may import."""
        return {
            self.resolve(each["Export"]["Name"]): self.resolve(each["Value"])
            for _, each in self._outputs()
            if "Export" in each
        }

    def _outputs(self) -> list[tuple[str, Any]]:
        outputs = self.template["Outputs"].items()
        return [(key, each) for key, each in outputs if "Condition" not in each or self.holds(each["Condition"])]

    def _needs(self, value: Any) -> set[str]:
        """The logical ids that a value names, also in branches that are not taken."""
        if isinstance(value, list):
            return {id for each in value for id in self._needs(each)}
        if not isinstance(value, dict):
            return set()
        found = {id for each in value.values() for id in self._needs(each)}
        if isinstance(value.get("Ref"), str):
            found.add(value["Ref"])
        if "Fn::GetAtt" in value:
            found.add(value["Fn::GetAtt"][0])
        if "Fn::Sub" in value:
            text = value["Fn::Sub"] if isinstance(value["Fn::Sub"], str) else value["Fn::Sub"][0]
            found |= {name.partition(".")[0] for name in re.findall(r"\$\{([\w:.]+)\}", text)}
        depends = value.get("DependsOn", [])
        return found | set([depends] if isinstance(depends, str) else depends)

    def resolve(self, value: Any) -> Any:
        """Works out the functions in a value."""
        if isinstance(value, list):
            return [each for each in map(self.resolve, value) if each is not _NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name in ("Ref", "Condition") or name.startswith("Fn::"):
                return self._called(name, argument)
        resolved = {key: self.resolve(each) for key, each in value.items()}
        return {key: each for key, each in resolved.items() if each is not _NOTHING}

    def _called(self, name: str, argument: Any) -> Any:
        match name:
            case "Ref":
                return self._named(argument)
            case "Condition":
                return self.holds(argument) if isinstance(argument, str) else {name: self.resolve(argument)}
            case "Fn::GetAtt":
                return self.attributes[tuple(argument)]
            case "Fn::Sub":
                text, names = (argument, {}) if isinstance(argument, str) else (argument[0], self.resolve(argument[1]))
                return re.sub(r"\$\{([\w:.]+)\}", lambda found: str(self._substituted(found[1], names)), text)
            case "Fn::If":
                return self.resolve(argument[1] if self.holds(argument[0]) else argument[2])
            case "Fn::Not":
                return not self.resolve(argument[0])
            case "Fn::Or":
                return any(self.resolve(each) for each in argument)
            case "Fn::Equals":
                return self.resolve(argument[0]) == self.resolve(argument[1])
            case "Fn::Join":
                return argument[0].join(self.resolve(argument[1]))
            case "Fn::Base64":
                return base64.b64encode(self.resolve(argument).encode()).decode()
            case "Fn::ImportValue":
                return self._imports[self.resolve(argument)]
            case _:
                raise KeyError(name)

    def _substituted(self, name: str, names: Mapping[str, Any]) -> Any:
        if name in names:
            return names[name]
        id, dot, attribute = name.partition(".")
        return self.attributes[id, attribute] if dot else self._named(name)

    def _named(self, name: str) -> Any:
        known = {
            "AWS::AccountId": ACCOUNT,
            "AWS::NoValue": _NOTHING,
            "AWS::Partition": "aws",
            "AWS::Region": REGION,
            "AWS::StackName": self.name,
        }
        if name in known:
            return known[name]
        return self.parameters[name] if name in self.parameters else self.ids[name]


def _typed(value: Any, kind: str) -> Any:
    if kind == "Number":
        return float(value) if "." in str(value) else int(value)
    if kind.startswith("List") or kind == "CommaDelimitedList":
        return str(value).split(",")
    return str(value)
