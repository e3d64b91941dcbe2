"""TPU VMs of Google Cloud, created directly or through a queued resource."""

import argparse
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mae_jax.errors import InputError

from .commands import Command, bash_array, command
from .runs import Run, check_shared
from .tpus import accelerator_type, tpu_slice

BODY = Path(__file__).parent / "tpu_vm.sh"
CONTAINER = "mae-jax"
STOP_FILE = "/run/mae-jax.stop"  # gone after a boot
POLL_SECONDS = 60


@dataclass(frozen=True)
class TpuVM:
    """A slice of TPU VMs.

    Attributes:
      queued: as a queued resource, which waits until the slice is free.
    """

    queued: bool
    help: str
    example: str
    uses_preempted_exit_code: bool = True

    def add_location_args(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options that name zone and project; gcloud's configuration is the default."""
        parser.add_argument("--zone", default="", help="zone (gcloud's)")
        parser.add_argument("--project", default="", help="project (gcloud's)")

    def add_submit_args(self, parser: argparse.ArgumentParser) -> None:
        """Adds the options of `submit`."""
        add = parser.add_argument
        add(
            "--tpu",
            required=True,
            metavar="SLICE",
            help="such as v5e-256 or v5p-256, as for mae-jax plan",
        )
        add("--image", required=True, help="container image (launch/Dockerfile, DEVICE=tpu)")
        add("--nfs", action="append", default=[], metavar="SERVER:/EXPORT:/PATH",
            help="a file system to mount on every host and in the container")  # fmt: skip
        add("--spot", action="store_true", help="spot capacity: cheaper, may be preempted")
        add(
            "--runtime",
            default="",
            metavar="VERSION",
            help="VM image (the usual one of the TPU generation)",
        )
        add("--leave-running", action="store_true", help="keep the TPU after the end of the run")
        add("--gcloud", action="append", default=[], metavar="OPTION",
            help="other option of gcloud's create, such as --gcloud=--network=mine")  # fmt: skip
        if self.queued:
            add("--watch", action="store_true", help="stay, and resubmit after each preemption")

    def submit(self, run: Run, args: argparse.Namespace) -> list[Command]:
        """Creates the slice, whose hosts start the run whenever they boot."""
        if not run.is_training:
            raise InputError(
                "embed runs as tasks on single hosts; launch it on gke-tpu, gke-gpu, kubernetes or "
                "slurm."
            )
        accelerator = accelerator_type(args.tpu)
        _, tpu = tpu_slice(args.tpu)
        version = "--runtime-version" if self.queued else "--version"
        return [
            self._gcloud(
                args,
                "create",
                f"--node-id={run.name}" if self.queued else "",
                f"--accelerator-type={accelerator}",
                f"{version}={args.runtime or tpu.runtime}",
                "--spot" if args.spot else "",
                *args.gcloud,
                "--metadata-from-file=startup-script=/dev/stdin",
                stdin=self.script(run, args),
            )
        ]

    def watch(self, run: Run, args: argparse.Namespace) -> None:
        """Submits the run, and again after each preemption, until it is finished or stopped.

        Keeps no state: it can be ended and started again. A finished run and `stop` both delete the
        queued resource, which ends this.

        Raises:
          InputError: the queued resource has failed.
        """
        submitted = False
        while True:
            state = self._read_state(args).output()
            if state == "" and submitted:
                print(f"{run.name} is finished or was stopped.", flush=True)
                return
            if state == "FAILED":
                raise InputError(
                    f"the queued resource {run.name} has failed; `status` shows the reason."
                )
            if state == "SUSPENDED":
                print(f"{run.name} was preempted; submitting again.", flush=True)
                self._delete(args).run()
            if state in ("", "SUSPENDED"):
                for create in self.submit(run, args):
                    create.run()
            submitted |= state is not None  # None: gcloud failed; poll again
            time.sleep(POLL_SECONDS)

    def describe_watch(self, args: argparse.Namespace) -> str:
        """The further commands of `watch`, for --dry-run."""
        return "\n".join([
            f"# Then every {POLL_SECONDS} seconds, as long as the queued resource exists:",
            str(self._read_state(args)),
            "# If that prints SUSPENDED, this and then the first command again:",
            str(self._delete(args)),
        ])  # fmt: skip

    def status(self, args: argparse.Namespace) -> list[Command]:
        """Shows the state of the queued resource and of the slice."""
        if not self.queued:
            return [self._gcloud(args, "describe", "--format=yaml(name,state,health)")]
        return [self._gcloud(args, "describe", "--format=yaml(name,state,tpu.nodeSpec[].nodeId)")]

    def logs(self, args: argparse.Namespace) -> list[Command]:
        """Follows the output of the container on host `--process`."""
        follow = f"sudo docker logs --tail=100 --follow {CONTAINER}"
        return [self._ssh(args, str(args.process), follow)]

    def stop(self, args: argparse.Namespace) -> list[Command]:
        """Sends SIGTERM to all containers, waits for them to save, then deletes the slice."""
        command_line = f"sudo touch {STOP_FILE}; sudo docker stop -t 180 {CONTAINER}"
        save = self._ssh(args, "all", command_line, may_fail=True)
        return [save, self._delete(args)]

    def script(self, run: Run, args: argparse.Namespace) -> str:
        """The startup script of each host."""
        delete = [] if args.leave_running else list(self._delete(args, zone=False).argv)
        return startup_script(run, args, run.argv, delete, "attributes/agent-worker-number")

    def _gcloud(self, args: argparse.Namespace, verb: str, *more: str, zone: bool = True,
                stdin: str | None = None) -> Command:  # fmt: skip
        noun = "queued-resources" if self.queued else "tpu-vm"
        name = "" if verb == "list" else args.name
        location = [f"--zone={args.zone}"] * bool(zone and args.zone)
        location += [f"--project={args.project}"] * bool(args.project)
        return command("gcloud", "compute", "tpus", noun, verb, name, *location, *more, stdin=stdin)

    def _read_state(self, args: argparse.Namespace) -> Command:
        selection = f"--filter=name~/{args.name}$"
        return self._gcloud(args, "list", selection, "--format=value(state.state)")

    def _delete(self, args: argparse.Namespace, *, zone: bool = True) -> Command:
        force = "--force" if self.queued else ""  # the request with its slice
        return self._gcloud(args, "delete", force, "--quiet", zone=zone)

    def _ssh(
        self, args: argparse.Namespace, worker: str, remote: str, *, may_fail: bool = False
    ) -> Command:
        location = [f"--{name}={value}" for name in ("zone", "project")
                 if (value := getattr(args, name))]  # fmt: skip
        return command("gcloud", "compute", "tpus", "tpu-vm", "ssh", args.name, *location,
                    f"--worker={worker}", f"--command={remote}", may_fail=may_fail)  # fmt: skip


def startup_script(
    run: Run,
    args: argparse.Namespace,
    words: Sequence[str],
    delete: Sequence[str],
    worker: str,
) -> str:
    """The startup script of a host: the variables of the body, and the body (tpu_vm.sh).

    Args:
      run: the run.
      args: the options of `submit`.
      words: the command of mae-jax.
      delete: the command that deletes the machines at the end; empty to keep them.
      worker: the metadata attribute with the host's number; "" for a single host.

    Raises:
      InputError: `--nfs` has another form, or --runs lies on no shared file system.
    """
    paths = []
    for mount in args.nfs:
        server, _, rest = mount.partition(":")
        export, _, path = rest.partition(":")
        if not (server and export.startswith("/") and path.startswith("/")):
            raise InputError(f"--nfs {mount} is not of the form SERVER:/EXPORT:/PATH.")
        paths.append(path)
    check_shared(run, paths, "--nfs SERVER:/EXPORT:/PATH")
    volumes = [f"--volume={path}:{path}" for path in paths]
    environment = [f"--env={name}={value}" for name, value in run.environment.items()]
    lines = [
        "#!/usr/bin/env bash",
        f"image={shlex.quote(args.image)}",
        bash_array("options", volumes + environment),
        bash_array("command", words),
        bash_array("mounts", args.nfs),
        bash_array("delete", delete),
        f"max_restarts={args.max_restarts}",
        f"stop_file={STOP_FILE}",
        f"worker={worker}",
        "",
        "",
    ]
    return "\n".join(lines) + BODY.read_text().split("\n", 2)[2]  # without its first two lines


_EXAMPLE = (
    "  mae-jax launch {target} --zone us-east5-a --tpu v5p-256 \\\n"
    "      --image us-docker.pkg.dev/my-project/mae-jax/tpu --nfs 10.0.0.2:/share:/share \\\n"
    "      --runs /share/runs -- train --config configs/demo.py "
    "--config.data.index=/share/index.parquet"
)
TPU_VM = TpuVM(
    queued=False,
    help="a slice of Cloud TPU VMs, created directly (legacy: tpu-instance or gke-tpu instead)",
    example=_EXAMPLE.format(target="tpu-vm submit vitl8"),
)
TPU_QUEUED_RESOURCE = TpuVM(
    queued=True,
    help="a slice of Cloud TPU VMs, created when capacity is free (legacy: gke-tpu instead)",
    example=_EXAMPLE.format(target="tpu-queued-resource submit vitl8 --spot --watch"),
)
