"""What Kubernetes is given, against its published schemas and what a run needs of it."""

import itertools
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.launch.test_dry_run import CASES

KUBERNETES = [case for case in CASES if case.startswith(("gke", "kubernetes"))]
# The fields of a JobSet (jobset.x-k8s.io/v1alpha2) that may be set here.
JOBSET = {"ttlSecondsAfterFinished", "failurePolicy", "replicatedJobs"}


def documents(text: str) -> dict[str, Any]:
    """The objects in what --dry-run prints, by kind."""
    inside = text.split("<<'END_OF_DOCUMENT'\n")[1].split("\nEND_OF_DOCUMENT")[0]
    return {document["kind"]: document for document in yaml.safe_load_all(inside)}


def job_of(objects: dict[str, Any]) -> dict[str, Any]:
    """The job's own description, also where a JobSet holds it."""
    if "JobSet" in objects:
        (replicated,) = objects["JobSet"]["spec"]["replicatedJobs"]
        return replicated["template"]["spec"]
    return objects["Job"]["spec"]


@pytest.mark.parametrize("case", KUBERNETES)
def test_objects_are_as_kubernetes_publishes_them(case, shown):
    objects = documents(shown(CASES[case]))
    jobset = objects.pop("JobSet", None)
    if jobset:
        assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
        assert set(jobset["spec"]) == JOBSET
        assert set(jobset["spec"]["failurePolicy"]) == {"maxRestarts", "rules"}
        (replicated,) = jobset["spec"]["replicatedJobs"]
        assert set(replicated) == {"name", "replicas", "template"}
        objects["Job"] = {"apiVersion": "batch/v1", "kind": "Job",
                          "metadata": {"name": "x"}, **replicated["template"]}  # fmt: skip
    assert "Job" in objects
    for one in objects.values():  # strict: a misspelt field is an error
        kubernetes_validate.validate(one, "1.31", strict=True)


@pytest.mark.parametrize("case", KUBERNETES)
def test_pods_can_save_and_share_memory(case, shown):
    job = job_of(documents(shown(CASES[case])))
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert pod["restartPolicy"] == "Never"  # the policies below need it
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory"}} in pod["volumes"]
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert "command" not in container  # the image's entry point, tini, stays


@pytest.mark.parametrize("case", KUBERNETES)
def test_wrong_input_ends_the_run_and_nothing_else_does(case, shown):
    objects = documents(shown(CASES[case]))
    job = job_of(objects)
    ends, *ignored = job["podFailurePolicy"]["rules"]
    assert ends["action"] == "FailJob"
    assert ends["onExitCodes"] == {"containerName": "mae-jax", "operator": "In", "values": [2]}
    assert all(rule["action"] == "Ignore" for rule in ignored)
    if "JobSet" in objects:
        policy = objects["JobSet"]["spec"]["failurePolicy"]
        assert policy["maxRestarts"] > 0
        assert job["backoffLimit"] == 0  # so that a failure reaches the JobSet
        (rule,) = policy["rules"]
        assert rule["action"] == "FailJobSet"
        assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    else:
        assert job.get("backoffLimit", 0) + job.get("backoffLimitPerIndex", 0) > 0
        disrupted = [{"type": "DisruptionTarget", "status": "True"}]
        assert any(rule.get("onPodConditions") == disrupted for rule in ignored)


def test_a_tpu_slice_has_its_hosts_chips_and_labels(shown):
    objects = documents(shown(CASES["gke-tpu-train"]))
    job = job_of(objects)
    assert objects["JobSet"]["spec"]["replicatedJobs"][0]["replicas"] == 2
    annotations = objects["JobSet"]["metadata"]["annotations"]
    exclusive = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert annotations == {exclusive: "cloud.google.com/gke-nodepool"}
    assert job["completions"] == job["parallelism"] == 64  # 256 chips, four a host
    assert job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    assert "serviceAccountName" not in pod  # GKE itself tells the pods of a slice


@pytest.mark.parametrize("case", ["gke-gpu-train", "kubernetes-train"])
def test_gpu_pods_may_ask_who_takes_part_and_find_each_other(case, shown):
    """What `jax.distributed` needs: to list pods and services, to read its job, and a name."""
    objects = documents(shown(CASES[case]))
    job = job_of(objects)
    pod = job["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 8}
    account = objects["ServiceAccount"]["metadata"]["name"]
    assert pod["serviceAccountName"] == account
    assert objects["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert objects["RoleBinding"]["roleRef"]["name"] == objects["Role"]["metadata"]["name"]
    allowed = {
        (group, resource, verb)
        for rule in objects["Role"]["rules"]
        for group, resource, verb in itertools.product(
            rule["apiGroups"], rule["resources"], rule["verbs"]
        )
    }
    needed = {("", "pods", "list"), ("", "services", "list"), ("batch", "jobs", "get")}
    assert needed <= allowed
    if "Job" in objects:  # a JobSet makes its own service
        service = objects["Service"]
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["selector"] == {"job-name": objects["Job"]["metadata"]["name"]}
        assert pod["subdomain"] == service["metadata"]["name"]


@pytest.mark.parametrize(("case", "shards", "at_once"), [
    ("gke-tpu-embed", 64, 16), ("kubernetes-embed", 100, 100),
])  # fmt: skip
def test_a_fleet_is_one_pod_a_share(case, shards, at_once, shown):
    objects = documents(shown(CASES[case]))
    assert set(objects) == {"Job"}
    job = objects["Job"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert (job["completions"], job["parallelism"]) == (shards, at_once)
    words = job["template"]["spec"]["containers"][0]["args"]
    assert words[0] == "embed"
    assert words[-2:] == ["--num-tasks", str(shards)]  # Kubernetes does not tell the number


@pytest.mark.parametrize("case", KUBERNETES)
def test_stop_deletes_every_kind_that_submit_creates(case, shown):
    kinds = shown(f"{case.rsplit('-', 1)[0]} stop vitl8").split()[2].split(",")
    for kind, one in documents(shown(CASES[case])).items():
        assert f"{kind.lower()}s" in kinds
        name = "screen" if "embed" in case else "vitl8"
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == name
