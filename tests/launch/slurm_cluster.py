"""A SLURM of one machine, for tests: run as sbatch, srun or scontrol, whichever its link is named.

sbatch runs the script until it no longer asks to be requeued; an array's tasks one after the other.
srun starts the processes as SLURM would, waits for them, and ends all when one fails
(--kill-on-bad-exit). Where the file that $SIGNAL_WHEN names holds $SIGNAL_AT, the processes of a
job's first start get SIGTERM, as before a time limit.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path


def sbatch() -> int:
    script = sys.stdin.read()
    options = dict(re.findall(r"#SBATCH --([a-z-]+)=?(\S*)", script))
    ends = []
    first, last = map(int, (options.get("array") or "0-0").split("%")[0].split("-"))
    for task in range(first, last + 1):
        environment = {**os.environ, "SLURM_NTASKS": options["ntasks-per-node"]}
        log = options["output"].replace("%a", str(task))
        if "array" in options:
            environment |= {
                "SLURM_ARRAY_TASK_ID": str(task),
                "SLURM_ARRAY_TASK_COUNT": str(last + 1),
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_MAX": str(last),
            }
        ends.append(_until_it_stays_out(script, log, environment))
    return max(ends)


def _until_it_stays_out(script: str, log: str, environment: dict[str, str]) -> int:
    queue = Path(os.environ["REQUEUED"])
    for restart in range(3):
        queue.unlink(missing_ok=True)
        environment["SLURM_RESTART_COUNT"] = str(restart)
        with open(log, "a") as out:
            done = subprocess.run(
                ["bash", "-c", script], env=environment, stdout=out, stderr=out, check=False
            )
        if not queue.exists():
            return done.returncode
    return 99


def srun() -> int:
    words = sys.argv[1:]
    while words[0].startswith("--"):
        del words[0]
    count = int(os.environ["SLURM_NTASKS"])
    step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}
    processes = [
        subprocess.Popen(
            words, env={**os.environ, **step, "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)}
        )
        for n in range(count)
    ]
    signalled = os.environ["SLURM_RESTART_COUNT"] != "0" or "SIGNAL_WHEN" not in os.environ
    while any(process.poll() is None for process in processes):
        time.sleep(0.02)
        if not signalled and _there(os.environ["SIGNAL_WHEN"], os.environ["SIGNAL_AT"]):
            signalled = True
            for process in processes:
                process.send_signal(signal.SIGTERM)
        if any(process.poll() for process in processes):
            for process in processes:
                process.terminate()
    return max(code if code >= 0 else 128 - code for code in (p.returncode for p in processes))


def _there(file: str, text: str) -> bool:
    return os.path.exists(file) and text in Path(file).read_text()


def scontrol() -> int:
    assert sys.argv[1:] == ["requeue", os.environ["SLURM_JOB_ID"]]
    Path(os.environ["REQUEUED"]).touch()
    return 0


if __name__ == "__main__":
    sys.exit({"sbatch": sbatch, "srun": srun, "scontrol": scontrol}[Path(sys.argv[0]).name]())
