"""Starts an entry point of a model on one kind of device: what every launcher's script runs.

launcher.py MODEL ENTRY DEVICE [arguments...] [options of the entry point...]; see launch.sh.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from shutil import which

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.launching import Fault  # noqa: E402
from common.launching.plan import (  # noqa: E402
    ROOT,
    Plan,
    followed,
    make_plan,
    read_request,
    resumed,
)
from common.launching.rank_table import is_local  # noqa: E402

# Beside the models' entry points: what the scripts for LibriSpeech run, where they were typed.
_LIBRISPEECH = ("download_librispeech", "preprocess_librispeech")


def find_python(module: str = "mindspore") -> str:
    """PYTHON of the environment, else the clone's .venv, else a python3 that has what is needed."""
    if chosen := os.environ.get("PYTHON"):
        found = which(chosen)
        if found is None:
            raise Fault(f"PYTHON={chosen} is not a command")
        return os.path.abspath(found)
    own = ROOT / ".venv" / "bin" / "python"
    if os.access(own, os.X_OK):
        return str(own)
    test = f"import importlib.util as u; exit(not u.find_spec({module!r}))"
    found = which("python3")
    if found and subprocess.run([found, "-c", test], stderr=subprocess.DEVNULL).returncode == 0:
        return found
    raise Fault(
        f"no Python with {module}: there is no {ROOT}/.venv, and python3 lacks it; set up with: "
        f"bash {ROOT}/scripts/setup.sh"
    )


def python_to_show(module: str = "mindspore") -> str:
    """For DRY_RUN: the Python that would be taken, or that of a clone where setup.sh is still to
    come."""
    try:
        return find_python(module)
    except Fault:
        if os.environ.get("PYTHON"):
            raise
        return str(ROOT / ".venv" / "bin" / "python")


def main(arguments: list[str]) -> int:
    dry = os.environ.get("DRY_RUN", "0") not in ("", "0")
    if arguments[:1] == ["--which-python"]:  # for scripts that start one themselves
        print((python_to_show if dry else find_python)(*arguments[1:]))
        return 0
    if len(arguments) > 1 and arguments[1] in _LIBRISPEECH:
        command = [str(ROOT / "scripts" / "librispeech.py"), arguments[1].split("_")[0]]
        command = [python_to_show() if dry else find_python(), *command, *arguments[2:]]
        if dry:
            print(shlex.join(command))
            return 0
        os.execv(command[0], command)
    request = read_request(arguments, os.environ)
    if dry:
        print(make_plan(request, python_to_show()).dry_run())
        return 0
    python = find_python()
    plan = make_plan(request, python)
    if plan.meeting and not plan.node and not is_local(plan.meeting[0]):
        raise Fault(
            f"NODE_RANK=0 is where the ranks meet, at {plan.meeting[0]}, and no address of this "
            "host's is that: start containers with their hosts' network (docker run --network "
            "host), or from a table that has their own addresses"
        )
    if request.device == "GPU":
        from common.launching.gpu import check_gpu_libraries

        check_gpu_libraries()
    if request.script == "train":
        from common.launching.supervise import hold

        # Before the log is begun anew, and for as long as this runs, or what it becomes.
        os.set_inheritable(hold(plan), not request.watched)
    print(plan.title, flush=True)
    if request.background:
        output = detach(plan, request.script)
        if output is not None:
            return output
    if request.watched:
        from common.launching.supervise import run

        anew = followed(request, plan.folder)

        def again(resume: bool) -> Plan:
            return make_plan(resumed(request) if resume else anew(), python)

        return run(plan, request.patience, request.restarts, again)
    process = plan.processes[0]
    os.chdir(plan.folder)
    os.execve(process.command[0], process.command, process.settings())


def detach(plan: Plan, script: str) -> int | None:
    """Goes on in the background: the exit code for the process that the shell waits for, None for
    the one that does the work."""
    name = script if plan.start == "alone" else f"distribute_{script}"
    output = plan.logs / f"{name}.log"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except OSError as error:
        raise Fault(f"{output}: cannot be written ({error.strerror})") from None
    child = os.fork()
    if child:
        print(f"in the background: process {child} (end it with: kill {child}), output in {output}")
        return 0
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, source in ((0, nothing), (1, handle), (2, handle)):
        os.dup2(source, number)
    return None


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(fault.code)
