"""Kubernetes: a training as a JobSet or a Job, an embedding as an Indexed Job."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import jinja2

from mae_jax.errors import FINAL, PREEMPTED, InputError

from .commands import Command, command
from .runs import Run, check_shared, positive_int
from .tpus import tpu_slice

TEMPLATES = Path(__file__).parent / "templates"
DAYS_KEPT = 7  # of a finished job, so that its end can be read
USER = 10001  # of launch/Dockerfile
# Per chip, where --cpus and --memory are left out: limits no pod of a training should reach, and
# requests that every node with such a chip can meet.
CPU_LIMIT, CPU_REQUEST = 16, 2
MEMORY_LIMIT_GIB, MEMORY_REQUEST_GIB = 128, 8
SHARED_MEMORY_GIB = 16


@dataclass(frozen=True)
class Kubernetes:
    """Pods of a cluster.

    Attributes:
      tpus: on GKE's TPU slices; otherwise on GPUs.
      jobset: trainings as a JobSet, whose controller the cluster must have; otherwise as a Job.
    """

    tpus: bool
    jobset: bool
    help: str
    example: str
    uses_preempted_exit_code: bool = True

    def add_location_args(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options that name the cluster; kubectl's configuration is the default."""
        parser.add_argument("--namespace", default="", help="namespace (kubectl's)")
        parser.add_argument("--context", default="", help="context of the cluster (kubectl's)")

    def add_submit_args(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options of `submit`."""
        add = parser.add_argument
        add("--image", required=True, help="container image (launch/Dockerfile)")
        if self.tpus:
            add("--tpu", required=True, metavar="SLICE",
                help="such as v5e-256 or v5p-256, as for mae-jax plan")  # fmt: skip
            add("--slices", type=positive_int, default=1, help="slices of a training (1)")
            add("--privileged", action="store_true",
                help="privileged pods, as GKE before 1.28 needs for TPUs")  # fmt: skip
        else:
            add(
                "--nodes",
                type=positive_int,
                default=1,
                help="nodes of a training, a pod each (1)",
            )
            add("--gpus", type=positive_int, required=True,
                help="GPUs per node of a training, or per task of an embedding")  # fmt: skip
        add("--spot", action="store_true", help="on GKE's spot nodes")
        add("--flex-start", action="store_true",
            help="on GKE's flex-start nodes, which are created for up to seven days")  # fmt: skip
        add("--queue", default="", metavar="QUEUE", help="Kueue's LocalQueue, which starts the job "
            "when its quota has room")  # fmt: skip
        add("--priority-class", default="", metavar="NAME", help="Kueue's WorkloadPriorityClass")
        add("--cpus", default="", metavar="N", help="CPUs per pod, requested and limited (request "
            f"{CPU_REQUEST}, limit {CPU_LIMIT} per chip)")  # fmt: skip
        add("--memory", default="", metavar="SIZE", help="memory per pod, requested and limited, "
            f"such as 400Gi (request {MEMORY_REQUEST_GIB}Gi, limit {MEMORY_LIMIT_GIB}Gi per "
            "chip)")  # fmt: skip
        add("--shm", default="", metavar="SIZE",
            help=f"size limit of /dev/shm ({SHARED_MEMORY_GIB}Gi per chip)")  # fmt: skip
        add(
            "--user",
            type=_user,
            default=None,
            metavar="UID[:GID]",
            help="user of the processes "
            + ("(0: TPU devices belong to root)" if self.tpus else f"({USER}, the image's)"),
        )
        add("--env-from-secret", action="append", default=[], metavar="SECRET", help="a Secret "
            "whose keys become environment variables: credentials, API keys")  # fmt: skip
        add("--volume", action="append", default=[], metavar="CLAIM:/PATH",
            help="a PersistentVolumeClaim to mount")  # fmt: skip
        add("--node", action="append", default=[], metavar="LABEL=VALUE", help="node selector, "
            "such as --node cloud.google.com/gke-accelerator=nvidia-h100-80gb")  # fmt: skip

    def submit(self, run: Run, args: argparse.Namespace) -> list[Command]:
        """Creates the job; the cluster refuses a name that exists."""
        manifest = self.manifest(run, args)
        return [self._kubectl(args, "create", "--filename=-", stdin=manifest)]

    def status(self, args: argparse.Namespace) -> list[Command]:
        """Shows the job and its pods."""
        resources = "jobsets,jobs,pods" if self.jobset else "jobs,pods"
        selector = f"--selector={_label(args.name)}"
        return [self._kubectl(args, "get", resources, selector, "--output=wide")]

    def logs(self, args: argparse.Namespace) -> list[Command]:
        """Follows the output of the pod with index `--process`."""
        index = f"batch.kubernetes.io/job-completion-index={args.process}"
        return [self._kubectl(args, "logs", f"--selector={_label(args.name)},{index}",
                              "--tail=100", "--prefix", "--follow")]  # fmt: skip

    def stop(self, args: argparse.Namespace) -> list[Command]:
        """Deletes all that `submit` created; the pods get SIGTERM and time to save."""
        resources = "jobs,services,serviceaccounts,roles,rolebindings"
        resources = f"jobsets,{resources}" if self.jobset else resources
        return [self._kubectl(args, "delete", resources, f"--selector={_label(args.name)}")]

    def manifest(self, run: Run, args: argparse.Namespace) -> str:
        """The YAML of all objects that `submit` creates."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        template = "tasks" if not run.is_training else "jobset" if self.jobset else "job"
        values = {
            "run": run,
            "max_restarts": args.max_restarts,
            "final": list(FINAL),
            "preempted": PREEMPTED,
            "seconds_kept": DAYS_KEPT * 24 * 3600,
            "max_parallel": args.max_parallel or run.num_tasks,
            "tpus": self.tpus,
            # jax.distributed reads its peers from the cluster; GKE tells TPU pods itself.
            "discovers": run.is_training and not self.tpus,
            **self._pod(run, args),
        }
        values["labels"] = environment.get_template("labels.yaml").render(values)
        values["pod"] = environment.get_template("pod.yaml").render(values)
        return environment.get_template(f"{template}.yaml").render(values)

    def _pod(self, run: Run, args: argparse.Namespace) -> dict[str, object]:
        """Values of the pod template, and the number of pods."""
        nodes = dict(_split(pair, "=", f"--node {pair}") for pair in args.node)
        if args.spot and args.flex_start:
            raise InputError("--spot and --flex-start are two kinds of nodes; give one.")
        if args.spot:
            nodes["cloud.google.com/gke-spot"] = "true"
        if args.flex_start:
            nodes["cloud.google.com/gke-flex-start"] = "true"
        if args.priority_class and not args.queue:
            raise InputError("--priority-class is Kueue's; give its --queue too.")
        if self.tpus:
            slice_, tpu = tpu_slice(args.tpu)
            if slice_.hosts > 1 and not run.is_training:
                raise InputError(
                    f"{args.tpu} has {slice_.hosts} hosts, and each task of an embedding runs on "
                    "one; take a smaller slice."
                )
            nodes["cloud.google.com/gke-tpu-accelerator"] = tpu.gke_label
            nodes["cloud.google.com/gke-tpu-topology"] = slice_.topology
            device, chips = "google.com/tpu", slice_.chips_per_host
            replicas, pods = args.slices, slice_.hosts
        else:
            device, chips = "nvidia.com/gpu", args.gpus
            replicas, pods = 1, args.nodes
        volumes = [_split(text, ":", f"--volume {text}") for text in args.volume]
        check_shared(run, [path for _, path in volumes], "--volume CLAIM:/PATH")
        for secret in args.env_from_secret:
            if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", secret):
                raise InputError(f"--env-from-secret {secret} is no name of a Secret.")
        uid, gid = args.user or ((0, 0) if self.tpus else (USER, USER))
        return {
            "image": args.image,
            "nodes": nodes,
            "device": device,
            "chips": chips,
            "requests": {
                "cpu": args.cpus or str(CPU_REQUEST * chips),
                "memory": args.memory or f"{MEMORY_REQUEST_GIB * chips}Gi",
            },
            "limits": {
                "cpu": args.cpus or str(CPU_LIMIT * chips),
                "memory": args.memory or f"{MEMORY_LIMIT_GIB * chips}Gi",
            },
            "shared_memory": args.shm or f"{SHARED_MEMORY_GIB * chips}Gi",
            "uid": uid,
            "gid": gid,
            "privileged": self.tpus and args.privileged,
            "secrets": args.env_from_secret,
            "queue": args.queue,
            "priority_class": args.priority_class,
            "volumes": volumes,
            "replicas": replicas,
            "pods": pods,
        }

    def _kubectl(self, args: argparse.Namespace, verb: str, *more: str,
                 stdin: str | None = None) -> Command:  # fmt: skip
        location = [f"--{name}={value}" for name in ("context", "namespace")
                    if (value := getattr(args, name))]  # fmt: skip
        return command("kubectl", verb, *more, *location, stdin=stdin)


def _label(name: str) -> str:
    return f"app.kubernetes.io/instance={name}"


def _split(text: str, separator: str, option: str) -> tuple[str, str]:
    left, _, right = text.partition(separator)
    if not left or not right:
        raise InputError(f"{option}: '{separator}' must separate two values.")
    return left, right


def _user(text: str) -> tuple[int, int]:
    uid, _, gid = text.partition(":")
    if not (uid.isdigit() and (gid or uid).isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form UID or UID:GID")
    return int(uid), int(gid or uid)


_TRAIN = (
    "      --image us-docker.pkg.dev/my-project/mae-jax/{image} --volume share:/share "
    "--runs /share/runs \\\n"
    "      -- train --config configs/demo.py --config.data.index=/share/index.parquet"
)
GKE_TPU = Kubernetes(
    tpus=True,
    jobset=True,
    help="TPU slices of Google Kubernetes Engine with JobSet's controller",
    example="  mae-jax launch gke-tpu submit vitl8 --tpu v5e-256 \\\n" + _TRAIN.format(image="tpu"),
)
GKE_GPU = Kubernetes(
    tpus=False,
    jobset=True,
    help="GPU nodes of Kubernetes with JobSet's controller",
    example="  mae-jax launch gke-gpu submit vitl8 --nodes 4 --gpus 8 "
    "--node cloud.google.com/gke-accelerator=nvidia-h100-80gb \\\n" + _TRAIN.format(image="cuda12"),
)
KUBERNETES = Kubernetes(
    tpus=False,
    jobset=False,
    help="GPU nodes of any Kubernetes",
    example="  mae-jax launch kubernetes submit vitl8 --nodes 4 --gpus 8 \\\n"
    + _TRAIN.format(image="cuda12"),
)
