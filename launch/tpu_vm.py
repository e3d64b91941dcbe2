"""TPU VMs of Google Cloud, created at once or through a queue of requests."""

import argparse
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from launch import commands
from launch.commands import Call, bash_list
from launch.runs import Run, check_shared
from launch.tpus import accelerator_type, tpu_slice
from mae_jax.errors import InputError

BODY = Path(__file__).parent / "tpu_vm.sh"
CONTAINER = "mae-jax"
STOP_MARK = "/run/mae-jax.stop"  # gone after a boot
SECONDS_BETWEEN_LOOKS = 60


@dataclass(frozen=True)
class TpuVM:
    """A slice of TPU VMs; `queued`: a request that waits until the slice is free."""

    queued: bool
    help: str
    example: str
    stopped_status: bool = True

    def place(self, parser: argparse.ArgumentParser) -> None:
        """Declares what says where: left out, gcloud's own configuration does."""
        parser.add_argument("--zone", default="", help="zone (that of gcloud's configuration)")
        parser.add_argument("--project", default="", help="project (likewise)")

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Declares what `submit` takes."""
        add = parser.add_argument
        add("--tpu", required=True, metavar="SLICE", help="such as v5e-256 or v5p-256, as for plan")
        add("--image", required=True, help="container image (launch/Dockerfile, DEVICE=tpu)")
        add("--nfs", action="append", default=[], metavar="SERVER:/EXPORT:/PATH",
            help="a file system to mount on every host and in the container")  # fmt: skip
        add("--spot", action="store_true", help="cheaper, and taken away when others pay more")
        add("--runtime", default="", metavar="VERSION", help="another VM image than the usual")
        add("--leave-running", action="store_true", help="keep the TPU when the run is finished")
        add("--gcloud", action="append", default=[], metavar="OPTION",
            help="any other option of gcloud's create, as --gcloud=--network=mine")  # fmt: skip
        if self.queued:
            add("--keep", action="store_true", help="stay, and ask again after each preemption")

    def submit(self, run: Run, args: argparse.Namespace) -> list[Call]:
        """The slice, whose hosts start the run whenever they boot."""
        if not run.training:
            raise InputError(
                "an embedding runs as a fleet of single hosts: take gke-tpu, gke-gpu, kubernetes "
                "or slurm."
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
                document=self.script(run, args),
            )
        ]

    def keep(self, run: Run, args: argparse.Namespace) -> None:
        """Submits, and again after each preemption, until the run is finished or stopped.

        Nothing is remembered here: ended and started again, it goes on. A finished run and `stop`
        both delete the request, which ends this.

        Raises:
          InputError: the request has failed.
        """
        submitted = False
        while True:
            state = self._look(args).output()
            if state == "" and submitted:
                print(f"{run.name} is finished or was stopped.", flush=True)
                return
            if state == "FAILED":
                raise InputError(f"the request {run.name} has failed: `status` says why.")
            if state == "SUSPENDED":
                print(f"{run.name} was preempted: asking again.", flush=True)
                self._delete(args).run()
            if state in ("", "SUSPENDED"):
                for call in self.submit(run, args):
                    call.run()
            submitted |= state is not None  # None: gcloud could not say; look again
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def show_keeping(self, run: Run, args: argparse.Namespace) -> None:
        """Prints what `keep` runs."""
        for call in self.submit(run, args):
            print(call)
        print(f"# Then every {SECONDS_BETWEEN_LOOKS} seconds, as long as the request is there:")
        print(self._look(args))
        print("# Where that says SUSPENDED, this and then the first call again:")
        print(self._delete(args))

    def status(self, args: argparse.Namespace) -> list[Call]:
        """State of the request and of the slice."""
        if not self.queued:
            return [self._gcloud(args, "describe", "--format=yaml(name,state,health)")]
        return [self._gcloud(args, "describe", "--format=yaml(name,state,tpu.nodeSpec[].nodeId)")]

    def logs(self, args: argparse.Namespace) -> list[Call]:
        """What one host's container prints."""
        follow = f"sudo docker logs --tail=100 --follow {CONTAINER}"
        return [self._ssh(args, str(args.process), follow)]

    def stop(self, args: argparse.Namespace) -> list[Call]:
        """SIGTERM to all hosts' containers, time to save, then the slice is given back."""
        end = f"sudo touch {STOP_MARK}; sudo docker stop -t 180 {CONTAINER}"
        save = self._ssh(args, "all", end, may_fail=True)
        return [save, self._delete(args)]

    def script(self, run: Run, args: argparse.Namespace) -> str:
        """What each host runs when it boots: what the body needs, the body."""
        paths = []
        for mount in args.nfs:
            server, _, rest = mount.partition(":")
            export, _, path = rest.partition(":")
            if not (server and export.startswith("/") and path.startswith("/")):
                raise InputError(f"--nfs {mount} is not of the form SERVER:/EXPORT:/PATH.")
            paths.append(path)
        check_shared(run, paths, "--nfs SERVER:/EXPORT:/PATH")
        delete = [] if args.leave_running else list(self._delete(args, zone=False).words)
        volumes = [f"--volume={path}:{path}" for path in paths]
        environment = [f"--env={name}={value}" for name, value in run.environment.items()]
        lines = [
            "#!/usr/bin/env bash",
            f"image={shlex.quote(args.image)}",
            bash_list("options", volumes + environment),
            bash_list("command", run.words),
            bash_list("mounts", args.nfs),
            bash_list("delete", delete),
            f"most_restarts={args.restarts}",
            f"stop_mark={STOP_MARK}",
            "",
            "",
        ]
        return "\n".join(lines) + BODY.read_text().split("\n", 2)[2]  # without its first two lines

    def _gcloud(self, args: argparse.Namespace, verb: str, *more: str, zone: bool = True,
                document: str | None = None) -> Call:  # fmt: skip
        noun = "queued-resources" if self.queued else "tpu-vm"
        name = "" if verb == "list" else args.name
        where = [f"--zone={args.zone}"] * bool(zone and args.zone)
        where += [f"--project={args.project}"] * bool(args.project)
        return commands.call(
            "gcloud", "compute", "tpus", noun, verb, name, *where, *more, document=document
        )

    def _look(self, args: argparse.Namespace) -> Call:
        named = f"--filter=name~/{args.name}$"
        return self._gcloud(args, "list", named, "--format=value(state.state)")

    def _delete(self, args: argparse.Namespace, *, zone: bool = True) -> Call:
        force = "--force" if self.queued else ""  # the request with its slice
        return self._gcloud(args, "delete", force, "--quiet", zone=zone)

    def _ssh(
        self, args: argparse.Namespace, worker: str, command: str, *, may_fail: bool = False
    ) -> Call:
        where = [f"--{name}={value}" for name in ("zone", "project")
                 if (value := getattr(args, name))]  # fmt: skip
        return commands.call("gcloud", "compute", "tpus", "tpu-vm", "ssh", args.name, *where,
                    f"--worker={worker}", f"--command={command}", may_fail=may_fail)  # fmt: skip


_EXAMPLE = (
    "  python -m launch {target} --zone us-east5-a --tpu v5p-256 \\\n"
    "      --image us-docker.pkg.dev/my-project/mae-jax/tpu --nfs 10.0.0.2:/share:/share \\\n"
    "      --runs /share/runs -- train --config configs/demo.py "
    "--config.data.index=/share/index.parquet"
)
TPU_VM = TpuVM(
    queued=False,
    help="a slice of Cloud TPU VMs, at once or not at all",
    example=_EXAMPLE.format(target="tpu-vm submit vitl8"),
)
TPU_QUEUE = TpuVM(
    queued=True,
    help="a slice of Cloud TPU VMs, as soon as a queued request is met",
    example=_EXAMPLE.format(target="tpu-queue submit vitl8 --spot --keep"),
)
