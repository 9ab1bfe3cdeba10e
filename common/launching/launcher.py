"""Starts an entry point of a model on one kind of device; all launcher scripts run this.

launcher.py MODEL ENTRY DEVICE [arguments...] [options of the entry point...]; see launch.sh.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from shutil import which

from common.launching import LaunchError
from common.launching.plan import (
    ROOT,
    Plan,
    followed,
    make_plan,
    read_request,
    resumed,
)
from common.launching.rank_table import is_local
from common.utils.files import absolute_path
from common.utils.streams import append_always, is_piped_to, is_same_file

# The entries of the scripts for LibriSpeech; they run where they were typed.
_LIBRISPEECH = ("download_librispeech", "preprocess_librispeech")


def find_python(module: str = "mindspore") -> str:
    """Choose the interpreter: PYTHON of the environment, the clone's .venv, or python3.

    Args:
        module: A package that python3 must have.

    Returns:
        Its path.

    Raises:
        LaunchError: There is none.
    """
    if chosen := os.environ.get("PYTHON"):
        command = which(chosen)
        if command is None:
            raise LaunchError(f"PYTHON={chosen} is not a command")
        return str(absolute_path(command))
    own = ROOT / ".venv" / "bin" / "python"
    if os.access(own, os.X_OK):
        return str(own)
    test = f"import importlib.util as u; exit(not u.find_spec({module!r}))"
    command = which("python3")
    if command and subprocess.run([command, "-c", test], stderr=subprocess.DEVNULL).returncode == 0:
        return command
    raise LaunchError(
        f"no Python with {module}: there is no {ROOT}/.venv, and python3 lacks it; set up with: "
        f"bash {ROOT}/scripts/setup.sh"
    )


def python_to_show(module: str = "mindspore") -> str:
    """Choose the interpreter to print for DRY_RUN.

    Args:
        module: A package that python3 must have.

    Returns:
        The path of `find_python`, or the one that setup.sh would create.

    Raises:
        LaunchError: PYTHON of the environment is not a command.
    """
    try:
        return find_python(module)
    except LaunchError:
        if os.environ.get("PYTHON"):
            raise
        return str(ROOT / ".venv" / "bin" / "python")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the launcher.

    Args:
        arguments: The command line; None: that of the process.

    Returns:
        The exit code.
    """
    try:
        return _launch(sys.argv[1:] if arguments is None else list(arguments))
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code


def _launch(arguments: list[str]) -> int:
    dry = os.environ.get("DRY_RUN", "0") not in ("", "0")
    if arguments[:1] == ["--which-python"]:  # for scripts that start Python themselves
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
        raise LaunchError(
            f"the host of NODE_RANK=0 must have the address {plan.meeting[0]}, where the ranks "
            "meet, and this host has no such address: start containers with their hosts' network "
            "(docker run --network host), or from a table that has their own addresses"
        )
    if request.device != "CPU":
        from common.launching import preflight

        preflight.check(request.device, preflight.Host(python), plan.cards)
    if request.script == "train":
        from common.launching.supervise import hold

        # Before the log is overwritten, and while this process, or what it becomes by exec, runs.
        os.set_inheritable(hold(plan), not request.watched)
    for stream in (sys.stdout, sys.stderr):
        if plan.entry_log and is_same_file(stream, plan.entry_log):  # as in `... > train.log`
            append_always(stream)
    if plan.start != "alone" and plan.entry_log and is_piped_to(sys.stdout, plan.entry_log):
        raise LaunchError(
            f"{plan.entry_log}: the output of this command is piped there, and rank 0 writes this "
            "log itself: choose another file"
        )
    print(plan.title, flush=True)
    if request.background:
        code = detach(plan, request.script)
        if code is not None:
            return code
    if request.watched:
        from common.launching.supervise import run

        from_start = followed(request, plan.folder)

        def replan(resume: bool) -> Plan:
            return make_plan(resumed(request) if resume else from_start(), python)

        return run(plan, request.patience, request.restarts, replan)
    process = plan.processes[0]
    os.chdir(plan.folder)
    os.execve(process.command[0], process.command, process.settings())


def detach(plan: Plan, script: str) -> int | None:
    """Continue in the background, with the output in a file.

    Args:
        plan: The job.
        script: Its entry point, for the name of the file.

    Returns:
        The exit code in the process that the shell waits for, None in the one that goes on.

    Raises:
        LaunchError: The file cannot be written.
    """
    name = script if plan.start == "alone" else f"distribute_{script}"
    output = plan.logs / f"{name}.log"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except OSError as error:
        raise LaunchError(f"{output}: cannot be written ({error.strerror})") from None
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
    sys.exit(main())
