"""The files of launch/: shell that shellcheck accepts, YAML that a JobSet may hold, images whose
files are there. Those for SLURM and one machine really run in test_many_processes.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from onediff_jax.parallel.cluster import find_cluster

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCHEMA = json.loads((ROOT / "tests" / "jobset.schema.json").read_text())
JOBSETS = ("gke_tpu.yaml", "gke_gpu.yaml")
GCLOUD = """#!/usr/bin/env bash
# A TPU that is given twice: the first is taken away while the run is on, in the second it ends.
echo "$*" >> "$LOG"
case "$*" in
    *describe*) cat "$STATE" 2> /dev/null ;;
    *"queued-resources create"*) echo ACTIVE > "$STATE" ;;
    *"queued-resources delete"*) rm "$STATE" ;;
    *onediff_jax.main\\ --exit*)
        if [[ -e $STATE.second ]]; then exit 0; fi
        touch "$STATE.second"
        echo SUSPENDED > "$STATE"
        exit 255
        ;;
esac
"""


def scripts() -> list[Path]:
    found = [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")]
    assert len(found) >= 3
    return found


def test_shellcheck():
    beside = Path(sys.executable).parent / "shellcheck"
    command = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert command, "shellcheck is in requirements-dev.txt"
    done = subprocess.run([command, *scripts()], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_scripts_say_how_they_are_used():
    for script in scripts():
        lines = script.read_text().splitlines()
        assert lines[0] == "#!/usr/bin/env bash" and f"launch/{script.name}" in "".join(lines[:10])
        assert script.suffix == ".sbatch" or os.access(script, os.X_OK), script


@pytest.mark.parametrize("name", JOBSETS)
def test_jobsets(name):
    jobset = yaml.safe_load((LAUNCH / name).read_text())
    jsonschema.validate(jobset, SCHEMA)
    (job,) = jobset["spec"]["replicatedJobs"]
    pods = job["template"]["spec"]
    assert pods["parallelism"] == pods["completions"]
    (container,) = pods["template"]["spec"]["containers"]
    assert "--exit_when_stopped=75" in container["args"]
    (rule,) = pods["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": "train", "operator": "In", "values": [1, 2]}


def test_the_schema_refuses_what_is_not_there():
    jobset = yaml.safe_load((LAUNCH / "gke_gpu.yaml").read_text())
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["backofLimit"] = 1
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        jsonschema.validate(jobset, SCHEMA)


def test_pods_of_gpu_hosts_find_each_other():
    """What the YAML sets is what the start-up reads, and names the first pod."""
    jobset = yaml.safe_load((LAUNCH / "gke_gpu.yaml").read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    env = {entry["name"]: entry.get("value", "1") for entry in container["env"]}
    found = find_cluster(env)
    name = jobset["metadata"]["name"]
    assert found.coordinator.split(":")[0] == f"{name}-{job['name']}-0-0.{name}"
    assert found.processes == job["template"]["spec"]["completions"]
    port = int(found.coordinator.split(":")[1])
    assert {"containerPort": port} in container["ports"]


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_images(platform):
    file = LAUNCH / "docker" / f"{platform}.Dockerfile"
    text = file.read_text()
    assert f"docker build -f launch/docker/{file.name} -t onediff:{platform} ." in text
    for source in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists()
    last = text.splitlines()[-1]
    assert last == 'ENTRYPOINT ["python", "-m", "onediff_jax.main"]'


def test_tpu_slices_that_are_taken_away(tmp_path):
    """Asked for again, and the same command is started; arguments arrive as they were."""
    (tmp_path / "gcloud").write_text(GCLOUD)
    (tmp_path / "gcloud").chmod(0o755)
    (tmp_path / "git").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "git").chmod(0o755)
    env = {"TPU": "mine", "ZONE": "z", "TYPE": "v5litepod-8", "LOG": str(tmp_path / "log")}
    env |= {"STATE": str(tmp_path / "state"), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    arguments = ["--config=c.py", "--workdir=gs://b/run", "--config.data.aspects=('1:1',)"]
    done = subprocess.run([LAUNCH / "tpu_vm.sh", *arguments], env=os.environ | env, timeout=60)
    assert done.returncode == 0
    calls = (tmp_path / "log").read_text().splitlines()
    started = [call for call in calls if "onediff_jax.main --exit" in call]
    assert len(started) == 2 and len([c for c in calls if "resources create" in c]) == 2
    assert "--worker=all" in started[0] and "'1:1'" in started[0].replace("\\", "")
