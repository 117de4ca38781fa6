"""launch/jobset-*.yaml say what JobSet's schema allows, and what they say fits together. No cluster is needed."""

import copy
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deepmodels import cli, parallel
from deepmodels.parallel import hosts
from deepmodels.training import Preempted, TrainingError

jsonschema = pytest.importorskip("jsonschema")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent.parent
SCHEMA = json.loads((ROOT / "tests" / "golden" / "jobset_schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
FILES = sorted((ROOT / "launch").glob("jobset-*.yaml"))
# What a Job says of a pod that its failure policy is about; Kubernetes, pkg/controller/job/pod_failure_policy.go.
OF_A_CODE = (
    "Container train for pod default/d-workers-0-1-x7k2p failed with exit code {} matching FailJob rule at index 0"
)
OF_A_CONDITION = "Pod default/d-workers-0-1-x7k2p has condition DisruptionTarget matching FailJob rule at index 1"


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def jobset(request):
    (document,) = yaml.safe_load_all(request.param.read_text())
    return document


def job(jobset: dict) -> dict:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def container(jobset: dict) -> dict:
    (only,) = job(jobset)["template"]["spec"]["containers"]
    return only


def test_there_is_one_of_gpus_and_one_of_tpus():
    assert [path.stem for path in FILES] == ["jobset-gpu", "jobset-tpu"]
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_allows_it(jobset):
    VALIDATOR.validate(jobset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it["spec"].update(failurePolicies={}), "failurePolicies"),
        (lambda it: it["spec"]["failurePolicy"].update(maxRestarts="5"), "integer"),
        (lambda it: it["spec"]["failurePolicy"]["rules"][0].pop("name"), "'name' is a required"),
        (lambda it: it["spec"]["failurePolicy"]["rules"][0].update(action="FailJob"), "'FailJob' is not one of"),
        (lambda it: job(it).update(backofLimit=0), "backofLimit"),
        (lambda it: job(it)["podFailurePolicy"]["rules"][0]["onExitCodes"].update(values=["75"]), "integer"),
        (lambda it: job(it)["template"]["spec"].update(container=[]), "container"),
        (lambda it: container(it).update(env={"A": "b"}), "array"),
        (lambda it: container(it)["volumeMounts"][0].pop("mountPath"), "'mountPath' is a required"),
        (lambda it: it.update(apiVersion="jobset.x-k8s.io/v1"), "v1alpha2"),
    ],
)
def test_the_schema_refuses_what_is_wrong(jobset, change, message):
    wrong = copy.deepcopy(jobset)
    change(wrong)
    with pytest.raises(jsonschema.ValidationError, match=message):
        VALIDATOR.validate(wrong)


def test_all_or_nothing(jobset):
    """One pod that ends with an error ends its Job, and that starts all of them again."""
    assert job(jobset)["backoffLimit"] == 0
    assert job(jobset)["completionMode"] == "Indexed"
    assert job(jobset)["parallelism"] == job(jobset)["completions"]
    assert job(jobset)["template"]["spec"]["restartPolicy"] == "Never"
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (TrainingError.exit_code, "FailJobSet"),
        (Preempted.exit_code, "RestartJobSetAndIgnoreMaxRestarts"),
        (None, "RestartJobSetAndIgnoreMaxRestarts"),  # no exit code: the host was taken away
        (1, None),
        (76, None),
        (134, None),
        (137, None),
    ],
)
def test_what_follows_an_exit_code(jobset, code, action):
    """A run that diverged isn't started again; one that was asked to leave is, always; others up to maxRestarts."""
    first, second = job(jobset)["podFailurePolicy"]["rules"]
    assert (first["action"], second["action"]) == ("FailJob", "FailJob")
    assert second["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert first["onExitCodes"]["containerName"] == container(jobset)["name"]
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    if code is None:
        reason, message = "PodFailurePolicy", OF_A_CONDITION
    elif code in first["onExitCodes"]["values"]:
        reason, message = "PodFailurePolicy", OF_A_CODE.format(code)
    found = None
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(pattern, message) for pattern in patterns):
            found = rule["action"]
            break
    assert found == action


def test_the_coordinator_is_the_first_pod(jobset):
    spec, name = jobset["spec"], jobset["metadata"]["name"]
    (replicated,) = spec["replicatedJobs"]
    assert spec["coordinator"] == {"replicatedJob": replicated["name"], "jobIndex": 0, "podIndex": 0}
    env = {variable["name"]: variable["value"] for variable in container(jobset)["env"]}
    if "nvidia.com/gpu" not in container(jobset)["resources"]["limits"]:
        assert "JAX_COORDINATOR_ADDRESS" not in env  # GKE tells, and knows it better
        return
    host, _, port = env["JAX_COORDINATOR_ADDRESS"].partition(":")
    assert host == f"{name}-{replicated['name']}-0-0.{spec['network']['subdomain']}"
    assert [entry["containerPort"] for entry in container(jobset)["ports"]] == [int(port)]
    assert int(env["JAX_PROCESS_COUNT"]) == replicated["replicas"] * job(jobset)["parallelism"]


def pod(jobset: dict, index: int) -> dict[str, str]:
    """The environment of a container, as Kubernetes makes it."""
    env = {variable["name"]: variable["value"] for variable in container(jobset)["env"]}
    return env | {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": str(index)}


def test_pods_on_gpus_find_each_other_by_their_environment():
    jobset = yaml.safe_load((ROOT / "launch" / "jobset-gpu.yaml").read_text())
    assert parallel.surroundings(pod(jobset, 2)) == "Kubernetes"
    found = hosts._find("Kubernetes", pod(jobset, 2), 1)
    assert found[:3] == ("deepmodels-workers-0-0.deepmodels:55527", 4, 2)


@pytest.mark.slow
def test_two_pods_train(tmp_path):
    """`pytest -m slow tests/launch/test_jobset.py`: half a minute. The file's environment, two pods here."""
    jobset = yaml.safe_load((ROOT / "launch" / "jobset-gpu.yaml").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        here = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free.getsockname()[1]}", "JAX_PROCESS_COUNT": "2"}
    here |= {"DEEPMODELS_CACHE": str(tmp_path / "cache"), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    config = ROOT / "experiments" / "lenet5_fashion.py"
    command = ["train", f"--config={config}:smoke", f"--workdir={tmp_path / 'run'}"]
    pods = [
        subprocess.Popen(
            [sys.executable, "-m", "deepmodels", *command],
            env=os.environ | pod(jobset, index) | here,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in pods]
    assert [process.returncode for process in pods] == [0, 0], said
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["processes"], run["devices"]) == (2, "4 x cpu")


def test_hosts_and_chips_fit_the_topology():
    jobset = yaml.safe_load((ROOT / "launch" / "jobset-tpu.yaml").read_text())
    selector = job(jobset)["template"]["spec"]["nodeSelector"]
    chips = eval(selector["cloud.google.com/gke-tpu-topology"].replace("x", "*"))
    assert chips == job(jobset)["parallelism"] * container(jobset)["resources"]["limits"]["google.com/tpu"]


def test_the_command_is_the_same_as_everywhere(jobset):
    program, *arguments = container(jobset)["command"]
    options, rest = cli._parser().parse_known_args(arguments)
    assert (program, options.command, rest) == ("deepmodels", "train", [])
    assert (ROOT / options.config.partition(":")[0]).is_file()
    mounts = [mount["mountPath"] for mount in container(jobset)["volumeMounts"]]
    assert any(options.workdir.startswith(f"{mount}/") for mount in mounts)
    volumes = {volume["name"] for volume in job(jobset)["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container(jobset)["volumeMounts"]} == volumes
