"""The files that start a cluster, read by whoever reads them: Ray, EC2's API, KubeRay, hadolint.

All offline. `ray up` has no dry run, and what the clouds make of these files is not known here;
deploy/README.md says what was checked how.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from jsonschema import ValidationError, validate
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.budget import Demand
from orchestrator.devices import GIGABYTES, KIND_LABEL, device
from orchestrator.ray_cluster import Node

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
AWS, GCP = ROOT / "cluster.yaml", DEPLOY / "cluster-gcp.yaml"
RAYJOB, DOCKERFILE = DEPLOY / "rayjob.yaml", DEPLOY / "Dockerfile"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


def read(file: Path) -> dict[str, Any]:
    """Return a cluster file as Ray has it, its own defaults filled in and its schema checked."""
    config: dict[str, Any] = prepare_config(yaml.safe_load(file.read_text()))
    validate_config(config)
    return config


def rayjob() -> dict[str, Any]:
    job: dict[str, Any] = list(yaml.safe_load_all(RAYJOB.read_text()))[-1]
    return job


def node(kind: Mapping[str, Any]) -> Node:
    """Return a machine of a kind, as Peaksweep sees it when it is there."""
    memory = {"memory": 2.0**40}
    return Node(
        id="n",
        address="10.0.0.1",
        total={**kind["resources"], **memory},
        device=device(kind.get("labels") or {}, kind["resources"]),
    )


def kinds() -> Iterator[Any]:
    """Return the kinds of machines of each file: whose, the head, the others by name."""
    for file in (AWS, GCP):
        found = dict(read(file)["available_node_types"])
        yield pytest.param(found.pop("head"), found, id=file.stem)
    spec = rayjob()["spec"]["rayClusterSpec"]
    job = {"metadata": {"name": "job", "namespace": "sweeps"}, "spec": spec}
    found = dict(_derive_autoscaling_config_from_ray_cr(job)["available_node_types"])
    yield pytest.param(found.pop("headgroup"), found, id=RAYJOB.stem)


@pytest.mark.parametrize("file", [AWS, GCP], ids=lambda file: file.stem)
def test_a_wrong_key_is_noticed(file: Path) -> None:
    wrong = {**yaml.safe_load(file.read_text()), "max_wokers": 3}
    with pytest.raises(ValidationError, match="max_wokers"):
        validate_config(prepare_config(wrong))


@pytest.mark.parametrize(("head", "others"), [*kinds()])
def test_the_head_holds_no_replica_and_the_others_as_many_as_they_have_gpus(
    head: dict[str, Any], others: dict[str, Any]
) -> None:
    assert head["resources"]["CPU"] == 0
    assert "GPU" not in head["resources"]
    assert head["max_workers"] == 0
    on_gpus, on_cpus = Demand(cpus=1, gpus=1), Demand(cpus=1, gpus=0)
    assert node(head).holds(on_gpus, 2**30) == node(head).holds(on_cpus, 2**30) == 0
    assert {node(kind).holds(on_gpus, 2**30) for kind in others.values()} == {1, 8}
    for kind in others.values():
        assert (
            node(kind).holds(Demand(cpus=1, gpus=1, ranks=8), 2**30)
            == kind["resources"]["GPU"] // 8
        )
        assert kind["labels"][KIND_LABEL] in GIGABYTES
        assert kind["min_workers"] == 0 < kind["max_workers"]


@pytest.mark.parametrize("file", [AWS, GCP], ids=lambda file: file.stem)
def test_each_size_is_to_be_had_spot_and_on_demand(file: Path) -> None:
    config = read(file)
    found = {
        (kind["resources"]["GPU"], kind["labels"]["ray.io/market-type"], spot(kind["node_config"]))
        for kind in config["available_node_types"].values()
        if "GPU" in kind["resources"]
    }
    assert found == {(n, m, m == "spot") for n in (1, 8) for m in ("spot", "on-demand")}
    assert config["max_workers"] == 8
    assert config["idle_timeout_minutes"] == 10


def spot(machine: Mapping[str, Any]) -> bool:
    """Whether the cloud may take the machine away."""
    aws = machine.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return aws or machine.get("scheduling", {}).get("provisioningModel") == "SPOT"


@pytest.mark.parametrize("file", [AWS, GCP], ids=lambda file: file.stem)
def test_nothing_is_installed_when_a_machine_starts(file: Path) -> None:
    config = read(file)
    setup = [c for key, commands in config.items() if key.endswith("_commands") for c in commands]
    assert {command.split()[0] for command in setup} == {"ray"}
    for command in setup:
        verb, *options = command.split()[1:]
        if verb == "start":
            start.make_context("start", options)  # Ray's own reading of them; starts nothing
    images = {config["docker"]["head_image"], config["docker"]["worker_image"]}
    assert images == {f"peaksweep:{PROJECT['version']}-{kind}" for kind in ("cpu", "cuda")}


@pytest.mark.parametrize("file", [AWS, GCP], ids=lambda file: file.stem)
def test_nothing_is_open_and_no_node_is_without_the_token(file: Path) -> None:
    config = read(file)
    assert "0.0.0.0" not in yaml.safe_dump(config)
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]
    for kind in config["available_node_types"].values():  # else Ray makes a group that is open
        named = kind["node_config"].get("SecurityGroupIds") or [
            net["subnetwork"] for net in kind["node_config"]["networkInterfaces"]
        ]
        assert len(named) == 1
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}


@pytest.mark.parametrize("file", [AWS, *sorted(DEPLOY.iterdir())], ids=lambda file: file.name)
def test_no_secret_stands_in_a_file(file: Path) -> None:
    text = file.read_text()
    assert re.findall(r"\b[A-Za-z0-9+]{32,}\b|AKIA|PRIVATE KEY|hf_\w{8}", text) == []
    assert re.findall(r"(?i)(?:token|password|secret)\w*[:=] *[\"'][^\"'$]", text) == []


def test_machines_are_described_as_ec2_wants_them() -> None:
    service = botocore.session.get_session().get_service_model("ec2")
    shape = service.operation_model("RunInstances").input_shape
    for name, kind in read(AWS)["available_node_types"].items():
        asked = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        found = ParamValidator().validate(asked, shape)
        assert not found.has_errors(), (name, found.generate_report())


def closed(*required: str, **properties: object) -> dict[str, object]:
    """Return the schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


TEXT, NUMBER, TRUTH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
WORDS, POD = {"type": "object", "additionalProperties": TEXT}, {"type": "object"}
GROUP = {"rayStartParams": WORDS, "labels": WORDS, "template": POD}
RAYJOB_SPEC = closed(
    "entrypoint",
    "rayClusterSpec",
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    backoffLimit=NUMBER,
    activeDeadlineSeconds=NUMBER,
    shutdownAfterJobFinishes=TRUTH,
    ttlSecondsAfterFinished=NUMBER,
    suspend=TRUTH,
    submitterPodTemplate=POD,
    rayClusterSpec=closed(
        "headGroupSpec",
        rayVersion=TEXT,
        authOptions=closed(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
        enableInTreeAutoscaling=TRUTH,
        autoscalerOptions=closed(
            version={"enum": ["v1", "v2"]},
            idleTimeoutSeconds=NUMBER,
            upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        ),
        headGroupSpec=closed("template", serviceType=TEXT, enableIngress=TRUTH, **GROUP),
        workerGroupSpecs={
            "type": "array",
            "items": closed(
                *("groupName", "template", "minReplicas", "maxReplicas"),
                **{"groupName": TEXT, "replicas": NUMBER, "minReplicas": NUMBER},
                **{"maxReplicas": NUMBER, "numOfHosts": NUMBER, "idleTimeoutSeconds": NUMBER},
                **GROUP,
            ),
        },
    ),
)
"""What of KubeRay's RayJob is used here, written down from its reference of `ray.io/v1`.

Of KubeRay 1.6.2, read on 24 November 2026; the whole schema has 1.3 MB, most of them pods.
"""


def test_the_ray_job_is_one_and_a_wrong_key_is_noticed() -> None:
    job = rayjob()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    validate(job["spec"], RAYJOB_SPEC)
    job["spec"]["rayClusterSpec"]["authOption"] = {"mode": "token"}
    with pytest.raises(ValidationError, match="authOption"):
        validate(job["spec"], RAYJOB_SPEC)


def test_the_ray_job_ends_with_its_sweep_and_asks_for_the_token() -> None:
    spec = rayjob()["spec"]
    assert spec["shutdownAfterJobFinishes"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    pinned = (ROOT / "constraints.txt").read_text().split("\nray==")[1].split()[0]
    assert cluster["rayVersion"] == pinned  # the operator refuses a token without a version
    program, verb, *words = spec["entrypoint"].split()
    assert program == "peaksweep"
    said = CliRunner().invoke(cli.app, [verb, *words, "--help"])
    assert said.exit_code == 0, said.output


def test_pods_have_no_rights_and_the_policy_knows_them() -> None:
    _, policy, job = yaml.safe_load_all(RAYJOB.read_text())
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in [spec["submitterPodTemplate"], *(group["template"] for group in groups)]:
        assert pod["metadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert {m["name"] for m in container.get("volumeMounts", ())} == volumes
            assert container["image"].startswith(f"peaksweep:{PROJECT['version']}-")
    assert policy["spec"]["policyTypes"] == ["Ingress"]


def test_the_image_is_clean_pinned_and_not_roots() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    found = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
    lines = DOCKERFILE.read_text().replace("\\\n", "").splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert len(installs) == 6
    for line in installs:
        assert "--constraint constraints.txt" in line or "--no-deps ." in line
    targets = re.split(r"\nFROM ", "\n".join(lines))[1:]
    ends = {target.split("\n")[0].split(" AS ")[1]: target for target in targets}
    assert ends["cpu"].count("\nUSER 1000\n") == ends["cuda"].count("\nUSER 1000\n") == 1
    assert not [line for line in lines if line.startswith(("EXPOSE", "ENTRYPOINT", "ADD"))]


def test_what_lies_about_does_not_come_into_the_image() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert lines[1] == "*"
    copied = re.findall(r"^COPY (.*) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    assert set(kept) == {name for names in copied for name in names.split()}


@pytest.mark.parametrize("package", ["orchestrator", "workers"])
def test_an_installed_package_has_all_its_files(package: str) -> None:
    """In an image there is no source folder to fall back on."""
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"][package]
    taken = {file for pattern in patterns for file in (ROOT / package).glob(pattern)}
    there = {f for f in (ROOT / package).rglob("*") if f.is_file() and "__pycache__" not in f.parts}
    assert {f for f in there - taken if f.suffix != ".py"} == set()
