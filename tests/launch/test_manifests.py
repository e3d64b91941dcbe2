"""Kubernetes manifests, against the published schemas and the needs of a run."""

import itertools
from typing import Any

import kubernetes_validate
import pytest
import yaml

from launch.__main__ import main
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
def test_objects_are_as_kubernetes_publishes_them(case, dry_run):
    objects = documents(dry_run(CASES[case]))
    jobset = objects.pop("JobSet", None)
    if jobset:
        assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
        assert set(jobset["spec"]) - {"suspend"} == JOBSET
        assert set(jobset["spec"]["failurePolicy"]) == {"maxRestarts", "rules"}
        (replicated,) = jobset["spec"]["replicatedJobs"]
        assert set(replicated) == {"name", "replicas", "template"}
        objects["Job"] = {"apiVersion": "batch/v1", "kind": "Job",
                          "metadata": {"name": "x"}, **replicated["template"]}  # fmt: skip
    assert "Job" in objects
    for one in objects.values():  # strict: a misspelt field is an error
        kubernetes_validate.validate(one, "1.31", strict=True)


@pytest.mark.parametrize("case", KUBERNETES)
def test_pods_can_save_and_share_memory(case, dry_run):
    job = job_of(documents(dry_run(CASES[case])))
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert pod["restartPolicy"] == "Never"  # the policies below need it
    (shared,) = [v["emptyDir"] for v in pod["volumes"] if v["name"] == "shared-memory"]
    assert shared["medium"] == "Memory"
    assert shared["sizeLimit"].endswith("Gi")
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert "command" not in container  # the image's entry point, tini, stays


@pytest.mark.parametrize("case", KUBERNETES)
def test_pods_have_no_privileges_and_bounded_resources(case, dry_run):
    pod = job_of(documents(dry_run(CASES[case])))["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert "privileged" not in container["securityContext"]
    if case.startswith("gke-tpu"):  # the devices belong to root
        assert pod["securityContext"]["runAsUser"] == 0
    else:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] > 0
    requests, limits = (container["resources"][name] for name in ("requests", "limits"))
    assert set(requests) == {"cpu", "memory"} < set(limits)
    # Only pods of trainings on GPUs list their peers in the cluster's API.
    assert ("serviceAccountName" in pod) == ("gpu-train" in case or case == "kubernetes-train")
    assert ("serviceAccountName" in pod) != (pod.get("automountServiceAccountToken") is False)


def test_given_resources_are_requests_and_limits(dry_run):
    pod = job_of(documents(dry_run(CASES["gke-gpu-train"])))["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    assert resources["requests"] == {"cpu": "100", "memory": "800Gi"}
    assert resources["limits"] == {"cpu": "100", "memory": "800Gi", "nvidia.com/gpu": 8}


def test_secrets_are_given_by_reference(dry_run):
    pod = job_of(documents(dry_run(CASES["kubernetes-embed"])))["template"]["spec"]
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]


def test_a_user_and_privileges_can_be_chosen(dry_run):
    pod = job_of(documents(dry_run(
        CASES["gke-tpu-train"].replace(" -- ", " --privileged --user 1000:2000 -- ")
    )))["template"]["spec"]  # fmt: skip
    assert pod["containers"][0]["securityContext"] == {"privileged": True}
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (
        1000,
        2000,
    )


@pytest.mark.parametrize("name", ["on", "null", "y", "true"])
def test_names_that_yaml_reads_as_other_types_stay_strings(name, dry_run):
    line = CASES["kubernetes-train"].replace("submit vitl8", f"submit {name}")
    line = line.replace(" -- ", f" --env {name.upper()}=1 -- ")
    objects = documents(dry_run(line))
    assert objects["Job"]["metadata"]["name"] == name
    (container,) = objects["Job"]["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": name.upper(), "value": "1"}]


def test_labels_and_values_of_node_selectors_are_quoted(dry_run, capsys):
    line = CASES["kubernetes-train"].replace(" -- ", " --node LABEL -- ")
    label = "a.b/c: d\n  x"
    before, dashes, command = line.partition(" -- ")
    argv = [label + "=v: w" if word == "LABEL" else word for word in before.split()]
    assert main([*argv, "--dry-run", *dashes.split(), *command.split()]) == 0
    pod = job_of(documents(capsys.readouterr().out))["template"]["spec"]
    assert pod["nodeSelector"] == {label: "v: w"}


@pytest.mark.parametrize("case", KUBERNETES)
def test_wrong_input_ends_the_run_and_nothing_else_does(case, dry_run):
    objects = documents(dry_run(CASES[case]))
    job = job_of(objects)
    ends, *ignored = job["podFailurePolicy"]["rules"]
    assert ends["action"] == "FailJob"
    assert ends["onExitCodes"] == {"containerName": "mae-jax", "operator": "In", "values": [2, 130]}
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


def test_a_tpu_slice_has_its_hosts_chips_and_labels(dry_run):
    objects = documents(dry_run(CASES["gke-tpu-train"]))
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
    assert pod["containers"][0]["resources"]["limits"]["google.com/tpu"] == 4
    assert "serviceAccountName" not in pod  # GKE itself tells the pods of a slice
    assert pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize("case", ["gke-gpu-train", "kubernetes-train"])
def test_gpu_pods_may_ask_who_takes_part_and_find_each_other(case, dry_run):
    """What `jax.distributed` needs: to list pods and services, to read its job, and a name."""
    objects = documents(dry_run(CASES[case]))
    job = job_of(objects)
    pod = job["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 8
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


@pytest.mark.parametrize(("case", "num_tasks", "max_parallel"), [
    ("gke-tpu-embed", 64, 16), ("kubernetes-embed", 100, 100),
])  # fmt: skip
def test_an_embedding_is_one_pod_per_task(case, num_tasks, max_parallel, dry_run):
    objects = documents(dry_run(CASES[case]))
    assert set(objects) == {"Job"}
    job = objects["Job"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert (job["completions"], job["parallelism"]) == (num_tasks, max_parallel)
    words = job["template"]["spec"]["containers"][0]["args"]
    assert words[0] == "embed"
    assert words[-2:] == ["--num-tasks", str(num_tasks)]  # Kubernetes exports the index alone


@pytest.mark.parametrize("case", KUBERNETES)
def test_stop_deletes_every_kind_that_submit_creates(case, dry_run):
    kinds = dry_run(f"{CASES[case].split()[0]} stop vitl8").split()[2].split(",")
    for kind, one in documents(dry_run(CASES[case])).items():
        assert f"{kind.lower()}s" in kinds
        name = "screen" if "embed" in case else "vitl8"
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == name


@pytest.mark.parametrize("case", KUBERNETES)
def test_jobs_of_a_queue_wait_for_kueue(case, dry_run):
    objects = documents(dry_run(CASES[case]))
    job = objects.get("JobSet") or objects["Job"]
    queued = "--queue" in CASES[case]
    assert ("kueue.x-k8s.io/queue-name" in job["metadata"]["labels"]) == queued
    assert job["spec"].get("suspend", False) == queued
    for kind, other in objects.items():
        if kind != job["kind"]:
            assert "kueue.x-k8s.io/queue-name" not in other["metadata"]["labels"]


def test_flex_start_nodes_are_selected(dry_run):
    job = job_of(documents(dry_run(CASES["gke-tpu-flex-start-train"])))
    nodes = job["template"]["spec"]["nodeSelector"]
    assert nodes["cloud.google.com/gke-flex-start"] == "true"
    assert "cloud.google.com/gke-spot" not in nodes
