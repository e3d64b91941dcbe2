"""Kubernetes: a training as a JobSet or a Job, an embedding as an Indexed Job."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from launch.commands import Call, call
from launch.runs import STOPPED, WRONG_INPUT, Run, check_shared, count
from launch.tpus import tpu_slice
from mae_jax.errors import InputError

TEMPLATES = Path(__file__).parent / "templates"
DAYS_KEPT = 7  # of a finished job, so that its end can be read


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
    stopped_status: bool = True

    def place(self, parser: argparse.ArgumentParser) -> None:
        """Declares what says where: left out, kubectl's own configuration does."""
        parser.add_argument("--namespace", default="", help="namespace (kubectl's)")
        parser.add_argument("--context", default="", help="kubectl's name of the cluster (its own)")

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Declares what `submit` takes."""
        add = parser.add_argument
        add("--image", required=True, help="container image (launch/Dockerfile)")
        if self.tpus:
            add("--tpu", required=True, metavar="SLICE",
                help="such as v5e-256 or v5p-256, as for plan")  # fmt: skip
            add("--slices", type=count, default=1, help="slices of a training (1)")
        else:
            add("--nodes", type=count, default=1, help="nodes of a training, a pod each (1)")
            add("--gpus", type=count, required=True, help="GPUs a node, or a share of an embedding")
        add("--spot", action="store_true", help="on GKE's spot nodes")
        add("--cpus", default="", metavar="N", help="processors a pod asks for")
        add("--memory", default="", metavar="SIZE", help="memory a pod asks for, such as 400Gi")
        add("--volume", action="append", default=[], metavar="CLAIM:/PATH",
            help="a PersistentVolumeClaim to mount")  # fmt: skip
        add("--node", action="append", default=[], metavar="LABEL=VALUE", help="run on such nodes "
            "only, as --node cloud.google.com/gke-accelerator=nvidia-h100-80gb")  # fmt: skip

    def submit(self, run: Run, args: argparse.Namespace) -> list[Call]:
        """Creates the job; the cluster refuses a name that stands."""
        return [self._kubectl(args, "create", "--filename=-", document=self.manifest(run, args))]

    def status(self, args: argparse.Namespace) -> list[Call]:
        """The job and its pods."""
        kinds = "jobsets,jobs,pods" if self.jobset else "jobs,pods"
        return [self._kubectl(args, "get", kinds, f"--selector={_label(args.name)}",
                              "--output=wide")]  # fmt: skip

    def logs(self, args: argparse.Namespace) -> list[Call]:
        """What one process prints: the pod of that index."""
        index = f"batch.kubernetes.io/job-completion-index={args.process}"
        return [self._kubectl(args, "logs", f"--selector={_label(args.name)},{index}",
                              "--tail=100", "--prefix", "--follow")]  # fmt: skip

    def stop(self, args: argparse.Namespace) -> list[Call]:
        """Deletes all that `submit` created; the pods get SIGTERM and time to save."""
        kinds = "jobs,services,serviceaccounts,roles,rolebindings"
        kinds = f"jobsets,{kinds}" if self.jobset else kinds
        return [self._kubectl(args, "delete", kinds, f"--selector={_label(args.name)}")]

    def manifest(self, run: Run, args: argparse.Namespace) -> str:
        """The YAML of all that is created."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        kind = "fleet" if not run.training else "jobset" if self.jobset else "job"
        values = {
            "run": run,
            "restarts": args.restarts,
            "wrong_input": WRONG_INPUT,
            "stopped": STOPPED,
            "seconds_kept": DAYS_KEPT * 24 * 3600,
            "at_once": args.at_once or run.shards,
            "tpus": self.tpus,
            # jax.distributed asks the cluster who takes part; GKE tells TPU pods by itself.
            "discovers": run.training and not self.tpus,
            **self._pod(run, args),
        }
        values["labels"] = environment.get_template("labels.yaml").render(values)
        values["pod"] = environment.get_template("pod.yaml").render(values)
        return environment.get_template(f"{kind}.yaml").render(values)

    def _pod(self, run: Run, args: argparse.Namespace) -> dict[str, Any]:
        """What the pods need, and how many there are."""
        nodes = dict(_halves(pair, "=", f"--node {pair}") for pair in args.node)
        if args.spot:
            nodes["cloud.google.com/gke-spot"] = "true"
        if self.tpus:
            slice_, tpu = tpu_slice(args.tpu)
            if slice_.hosts > 1 and not run.training:
                raise InputError(
                    f"{args.tpu} has {slice_.hosts} hosts; each share of an embedding runs on one: "
                    "take a smaller slice."
                )
            nodes["cloud.google.com/gke-tpu-accelerator"] = tpu.gke_label
            nodes["cloud.google.com/gke-tpu-topology"] = slice_.topology
            device = {"google.com/tpu": slice_.chips_per_host}
            replicas, pods = args.slices, slice_.hosts
        else:
            device = {"nvidia.com/gpu": args.gpus}
            replicas, pods = 1, args.nodes
        requests = {"cpu": args.cpus, "memory": args.memory}
        volumes = [_halves(text, ":", f"--volume {text}") for text in args.volume]
        check_shared(run, [path for _, path in volumes], "--volume CLAIM:/PATH")
        return {
            "image": args.image,
            "nodes": nodes,
            "device": device,
            "requests": {name: size for name, size in requests.items() if size},
            "volumes": volumes,
            "replicas": replicas,
            "pods": pods,
        }

    def _kubectl(self, args: argparse.Namespace, verb: str, *more: str,
                 document: str | None = None) -> Call:  # fmt: skip
        where = [f"--{name}={value}" for name in ("context", "namespace")
                 if (value := getattr(args, name))]  # fmt: skip
        return call("kubectl", verb, *more, *where, document=document)


def _label(name: str) -> str:
    return f"app.kubernetes.io/instance={name}"


def _halves(text: str, between: str, option: str) -> tuple[str, str]:
    left, found, right = text.partition(between)
    if not (left and found and right):
        raise InputError(f"{option}: there must be a '{between}' between two parts.")
    return left, right


_TRAIN = (
    "      --image us-docker.pkg.dev/my-project/mae-jax/{image} --volume share:/share "
    "--runs /share/runs \\\n"
    "      -- train --config configs/demo.py --config.data.index=/share/index.parquet"
)
GKE_TPU = Kubernetes(
    tpus=True,
    jobset=True,
    help="TPU slices of Google Kubernetes Engine with JobSet's controller",
    example="  python -m launch gke-tpu submit vitl8 --tpu v5e-256 \\\n"
    + _TRAIN.format(image="tpu"),
)
GKE_GPU = Kubernetes(
    tpus=False,
    jobset=True,
    help="GPU nodes of Kubernetes with JobSet's controller",
    example="  python -m launch gke-gpu submit vitl8 --nodes 4 --gpus 8 "
    "--node cloud.google.com/gke-accelerator=nvidia-h100-80gb \\\n" + _TRAIN.format(image="cuda12"),
)
KUBERNETES = Kubernetes(
    tpus=False,
    jobset=False,
    help="GPU nodes of any Kubernetes",
    example="  python -m launch kubernetes submit vitl8 --nodes 4 --gpus 8 \\\n"
    + _TRAIN.format(image="cuda12"),
)
