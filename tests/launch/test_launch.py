"""The commands that a launch runs, and the errors of wrong command lines."""

import subprocess

import pytest

from launch import tpu_vm
from launch.__main__ import main
from launch.tpus import accelerator_type
from tests.launch.test_dry_run import CASES
from tests.launch.test_manifests import documents

TRAIN = "-- train --config configs/demo.py"
SLURM = "slurm submit vitl8 --gpus 8 --time 1:00:00"
TPU = "submit vitl8 --tpu v5e-16 --image lab/mae --nfs s:/vol:/share --runs /share/runs"
GKE = "gke-tpu submit vitl8 --tpu v5e-16 --image lab/mae --runs /share/runs"


def launch(line: str) -> int:
    return main(line.split())


@pytest.mark.parametrize(("case", "program"), [
    ("tpu-vm-train", "gcloud"), ("gke-tpu-train", "kubectl"), ("kubernetes-embed", "kubectl"),
])  # fmt: skip
def test_submit_runs_the_printed_commands(case, program, programs, dry_run, monkeypatch):
    with monkeypatch.context() as patch:  # `dry_run` hides the programs
        patch.setenv("PATH", str(programs.folder))
        assert launch(CASES[case]) == 0
    ((argv, document),) = programs.noted()
    assert argv[0] == program
    printed = dry_run(CASES[case])
    assert f"<<'END_OF_DOCUMENT'\n{document.rstrip()}\nEND_OF_DOCUMENT" in printed
    for word in argv:
        assert word in printed


def test_slurm_gets_its_script_and_its_folders(programs, tmp_path):
    line = f"{SLURM} --venv /opt/venv --runs {tmp_path}/runs {TRAIN}"
    assert launch(line) == 0
    ((argv, document),) = programs.noted()
    assert argv == ["sbatch"]
    assert document.startswith("#!/usr/bin/env bash\n#SBATCH --job-name=vitl8\n")
    assert f"#SBATCH --output={tmp_path}/mae-jax-logs/vitl8-0.log\n" in document
    assert (tmp_path / "mae-jax-logs").is_dir()
    assert (tmp_path / "runs" / "vitl8").is_dir()


def test_a_slurm_job_is_requeued_and_signalled(dry_run):
    for case in ("slurm-train", "slurm-pyxis-train", "slurm-apptainer-train", "slurm-embed"):
        script = dry_run(CASES[case])
        for option in ("--requeue", "--signal=TERM@180", "--open-mode=append"):
            assert f"#SBATCH {option}\n" in script
        assert "--kill-on-bad-exit=1" in script
    assert "#SBATCH --array=0-63%16\n" in dry_run(CASES["slurm-embed"])


def test_stop_deletes_a_tpu_even_where_no_host_can_save(programs):
    programs.answer("gcloud", "1 no such node", "0 deleted")
    assert launch("tpu-queued-resource stop vitl8 --zone z") == 0
    verbs = [words[3:5] for words, _ in programs.noted()]
    assert verbs == [["tpu-vm", "ssh"], ["queued-resources", "delete"]]


class TestWatch:
    """`tpu-queued-resource submit --watch` against a queue with these states, one per poll."""

    @pytest.fixture
    def watch(self, programs, monkeypatch):
        monkeypatch.setattr(tpu_vm, "POLL_SECONDS", 0)

        def watch(*answers: str) -> tuple[int, list[str]]:
            programs.answer("gcloud", *answers)
            status = launch(f"tpu-queued-resource {TPU} --spot --watch {TRAIN}")
            return status, [words[4] for words, _ in programs.noted()]

        return watch

    def test_it_submits_and_ends_with_the_queued_resource(self, watch):
        called = ["list", "create", "list", "list"]
        assert watch("0 ", "0 ", "0 ACTIVE", "0 ") == (0, called)

    def test_a_preempted_slice_is_submitted_again(self, watch):
        called = ["list", "create", "list", "delete", "create", "list", "list"]
        answers = ("0 ", "0 ", "0 SUSPENDED", "0 ", "0 ", "0 WAITING_FOR_RESOURCES", "0 ")
        assert watch(*answers) == (0, called)

    def test_restarted_it_watches_the_existing_resource(self, watch):
        assert watch("0 PROVISIONING", "0 ACTIVE", "0 ") == (0, ["list"] * 3)

    def test_a_failed_poll_is_repeated(self, watch):
        assert watch("0 ACTIVE", "1 no network", "0 ACTIVE", "0 ") == (0, ["list"] * 4)

    def test_a_failed_resource_ends_it(self, watch, capsys):
        assert watch("0 FAILED")[0] == 2
        assert "the queued resource vitl8 has failed" in capsys.readouterr().err


@pytest.mark.parametrize(("line", "message"), [
    ("slurm", "the following arguments are required: VERB"),
    ("slurm submit vitl8", "required: --runs, --gpus, --time"),
    ("slurm status", "required: NAME"),
    ("slurm submit vitl8 --gpus 0", "argument --gpus: '0' is not an integer of at least 1"),
    ("slurm status vitl8 --partition gpu", "unrecognized arguments: --partition gpu"),
    ("slurm status VitL8", "'VitL8' cannot name a run"),
    ("gke-tpu stop " + "x" * 41, "at most 40"),
    (f"slurm stop vitl8 {TRAIN}", "stop takes no command after --"),
    (f"{SLURM} --runs /r", "no command; write `train"),
    (f"{SLURM} --runs /r -- demo --out x", "no command; write `train"),
    (f"{SLURM} --runs /r {TRAIN}", "mae-jax has no source; give --venv"),
    (f"{SLURM} --runs /r --image x.sif {TRAIN}", "--image and --container"),
    (f"{SLURM} --runs runs --venv v {TRAIN}", "--runs runs is relative"),
    (f"{SLURM} --runs gs://r --venv v {TRAIN}", "is a URL"),
    (f"{SLURM} --runs /r --venv v {TRAIN} --workdir /else", "--workdir is set by the launcher"),
    (f"{SLURM} --runs /r --venv v --num-tasks 3 {TRAIN}", "--num-tasks is for embed"),
    (f"{SLURM} --runs /r --venv v -- embed --encoder e", "--num-tasks is missing"),
    (f"{SLURM} --runs /r --venv v --num-tasks 3 -- embed --task 0/3", "--task is set by"),
    (f"{SLURM} --runs /r --venv v --env A {TRAIN}", "--env A is not of the form NAME=VALUE"),
    (f"{GKE} --tpu v5e-9 {TRAIN}", "v5e-9 has 9 chips; give a power of two"),
    (f"{GKE} --tpu h100-8 {TRAIN}", "h100-8 is no TPU slice"),
    (f"{GKE} --num-tasks 2 -- embed --index i", "has 4 hosts"),
    (f"{GKE} --volume share {TRAIN}", "--volume share: ':' must separate two values"),
    (f"{GKE} {TRAIN}", "lost with its container; give --volume CLAIM:/PATH"),
    (f"{GKE} --volume a:/sha {TRAIN}", "lost with its container"),
    (f"tpu-vm {TPU} --nfs nowhere {TRAIN}", "--nfs nowhere is not of the form"),
    (f"tpu-vm {TPU} --runs /elsewhere {TRAIN}", "--runs must lie on a file system"),
    (f"tpu-vm {TPU} --tpu v7-8 {TRAIN}", "'v7' is no accelerator"),
    (f"tpu-vm {TPU} --tpu tpu7x-16 {TRAIN}", "has no tpu7x; launch on gke-tpu"),
    (f"{GKE} --user root {TRAIN}", "'root' is not of the form UID"),
    (f"{GKE} --volume v:/share --env-from-secret A_B {TRAIN}", "no name of a Secret"),
    (f"{SLURM} --runs /r --venv v --shards 3 -- embed", "--shards is now --num-tasks"),
    (f"{SLURM} --runs /r --venv v --at-once=3 {TRAIN}", "--at-once is now --max-parallel"),
    (f"{SLURM} --runs /r --venv v --restarts 3 {TRAIN}", "--restarts is now --max-restarts"),
    ("tpu-queue status vitl8", "tpu-queue is now tpu-queued-resource"),
    (f"tpu-queued-resource {TPU} --keep {TRAIN}", "--keep is now --watch"),
    (f"tpu-vm {TPU} --num-tasks 4 -- embed --index i", "embed runs as tasks on single hosts"),
])  # fmt: skip
def test_errors_are_one_sentence(line, message, programs, capsys):
    assert launch(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("launch: ")
    assert message in error
    assert error.count("\n") == 1
    assert programs.noted() == []


def test_a_program_that_is_missing_is_named(dry_run, capsys):
    assert launch("kubernetes status vitl8") == 2  # `dry_run` leaves nothing on PATH
    assert capsys.readouterr().err == "launch: kubectl is not installed here, or not on PATH.\n"


def test_a_failing_program_is_an_error(programs, capsys):
    programs.answer("kubectl", "1 AlreadyExists")
    assert launch(CASES["kubernetes-train"]) == 2
    assert "kubectl ended with status 1" in capsys.readouterr().err


def test_a_value_does_not_end_the_here_document(capsys):
    """Run by bash, the printed script gives a fake sbatch exactly what a launch would."""
    value = "a\nEND_OF_DOCUMENT\ntouch /tmp/never"
    argv = ["slurm", "submit", "vitl8", "--gpus", "1", "--time", "1:00:00", "--venv", "/v",
            "--runs", "/r", "--env", f"A={value}", "--dry-run", *TRAIN.split()]  # fmt: skip
    assert main(argv) == 0
    _, sbatch = capsys.readouterr().out.split("sbatch", 1)
    script = f"sbatch() {{ cat; }}\nsbatch{sbatch}"
    ran = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True,
                         env={"PATH": "/usr/bin:/bin"}, check=True)  # fmt: skip
    assert f"export A='{value}'" in ran.stdout
    assert "launch: finished" in ran.stdout  # up to the end of the body
    assert ran.stderr == ""


@pytest.mark.parametrize("url", [
    "https://ada:secret@host/x", "https://secret@host/x", "s3://b/x?X-Amz-Signature=secret&a=b",
])  # fmt: skip
def test_credentials_in_urls_are_not_printed(url, dry_run, capsys):
    line = f"slurm submit vitl8 --gpus 1 --time 1:00:00 --venv /v --runs /r {TRAIN}"
    printed = dry_run(f"{line} --config.data.index={url}")
    assert "secret" not in printed
    assert "***" in printed
    assert main([*line.split(" -- ")[0].split(), "--runs", f"{url}", "--", "train"]) == 2
    assert "secret" not in capsys.readouterr().err


def test_an_sbatch_option_of_two_lines_is_refused(capsys):
    argv = [*SLURM.split(), "--venv", "/v", "--runs", "/r", "--account", "a\nrm -rf /"]
    assert main([*argv, *TRAIN.split()]) == 2
    assert "one line" in capsys.readouterr().err


def test_words_with_spaces_and_quotes_arrive_whole(capsys):
    words = ["gke-gpu", "submit", "vitl8", "--gpus", "1", "--image", "lab/mae", "--runs", "/r/x",
             "--volume", "claim:/r",
             "--env", "A=it's: {a}", "--dry-run", "--",
             "train", "--config", "my config.py", "--config.note=\"x\" $HOME #1"]  # fmt: skip
    assert main(words) == 0
    pod = documents(capsys.readouterr().out)["JobSet"]["spec"]["replicatedJobs"][0]["template"][
        "spec"
    ]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["args"][1:4] == ["--config", "my config.py", '--config.note="x" $HOME #1']
    assert container["env"] == [{"name": "A", "value": "it's: {a}"}]


@pytest.mark.parametrize(("name", "accelerator"), [
    ("v4-8", "v4-8"),
    ("v5e-4", "v5litepod-4"),
    ("v5litepod-16", "v5litepod-16"),
    ("v5p-256", "v5p-256"),
    ("v6e-256", "v6e-256"),
])  # fmt: skip
def test_slices_as_gcloud_names_them(name, accelerator):
    assert accelerator_type(name) == accelerator
