"""Which kernels MindSpore's Ascend plugin chooses for our graphs, on a machine without a card.

    python benchmarks/dry_run.py                 all presets of both models, a line for each graph
    python benchmarks/dry_run.py --preset an4 --model deepspeech2

With MS_SIMULATION_LEVEL=1 (MindSpore's dry run) the plugin compiles a graph as far as kernel
selection. It needs CANN's libraries. Where CANN is installed (ASCEND_HOME_PATH) those are used;
elsewhere stand-ins are made of what the plugin wants to be linked with, which needs a C compiler:
functions that do nothing and return 0. So this shows types, shapes and the choice of a kernel, and
neither values nor speed, nor whether a release of CANN has that kernel.

The last line is a control: `ops.LSTM` is an operator of CPU and GPU, and must be reported.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("deepspeech2", "jasper")
# What CANN has in lib64, and the plugin is linked with (readelf -d), or loads by name.
LIBRARIES = (
    "libascendcl.so libge_runner.so libgraph.so libmsprofiler.so libhccl.so libruntime.so "
    "libplatform.so libc_sec.so libnnopbase.so libascend_hal.so libopapi.so"
).split()
PLUGIN = (
    "plugin/libmindspore_ascend.so.2",
    "plugin/libmindspore_ops_ascend.so",
    "plugin/ascend/libmindspore_ascend_res_manager.so",
    "plugin/ascend/libhccl_plugin.so",
    "plugin/ascend/libd_collective.so",
    "libmindspore_ge_backend.so",
)
ASCEND_KINDS = ("aclnn", "aclop", "internal", "atb", "hccl")
# As MindSpore's log sums up the choice for each part of a graph.
KINDS = {"OPAPI_KERNEL": "aclnn", "ACL_KERNEL": "aclop", "HOST_KERNEL": "host"}
FRAMES = 200
# What functions called Instance return: an object that begins with an empty std::map, into which
# the plugin writes while it is loaded (GNU's layout: comparison, colour, parent, left, right).
REGISTRY = """
static long registry[8192];
__attribute__((constructor)) static void empty(void) {
  registry[3] = registry[4] = (long)&registry[1];
}
"""


# ---- stand-ins


def wanted_symbols(folder: Path) -> list[str]:
    """Return the names that the plugin needs and no library of the wheel has.

    Args:
        folder: mindspore/lib.
    """

    def names(option: str, files: Iterable[Path]) -> set[str]:
        done = subprocess.run(
            ["nm", "-D", option, *map(str, files)], capture_output=True, text=True, check=False
        )
        return {
            line.split()[-1] for line in done.stdout.splitlines() if line.split()[-2:-1] and line
        }

    plugin = [folder / name for name in PLUGIN]
    plugin += sorted((folder / "plugin/ascend").rglob("*.so*"))
    needed = names("--undefined-only", plugin)
    there = names("--defined-only", sorted(folder.rglob("*.so*")))
    system = [ctypes.CDLL(name) for name in (None, "libstdc++.so.6", "libgomp.so.1", "libm.so.6")]
    others = "Py", "_Py", "__", "_ITM", "_Unwind", "_ZTH", "_Jv"
    return sorted(
        name
        for name in needed - there
        if "@" not in name
        and not name.startswith(others)
        and not any(hasattr(library, name) for library in system)
    )


def loaded_names(folder: Path) -> list[str]:
    """Return the functions of CANN that the plugin looks up by name while it runs.

    Args:
        folder: mindspore/lib.
    """
    found: set[str] = set()
    pattern = re.compile(rb"(?<![A-Za-z0-9_])((?:acl|Hccl|aclnn)[A-Za-z0-9]{4,60})\0")
    for name in PLUGIN:
        found |= {word.decode() for word in pattern.findall((folder / name).read_bytes())}
    operators = {name for name in found if name.startswith("aclnn")}
    return sorted(found | {f"{name}GetWorkspaceSize" for name in operators})


def make_stand_ins(home: Path) -> None:
    """Write stand-ins for CANN's libraries, under a folder laid out like its own.

    Args:
        home: The folder, as ASCEND_HOME_PATH.
    """
    package = find_spec("mindspore")
    assert package is not None and package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0], "lib")
    symbols = sorted({*wanted_symbols(folder), *loaded_names(folder)})
    lib64 = home / "lib64"
    lib64.mkdir(parents=True)
    lines = [REGISTRY]
    for number, name in enumerate(symbols):
        if name.startswith(("_ZTI", "_ZTV", "_ZTS")):  # data: what a class is
            lines.append(f'char data_{number}[512] __asm__("{name}");')
        else:
            lines.append(f'long function_{number}(void) __asm__("{name}");')
            value = "(long)registry" if name.endswith("8InstanceEv") else "0"
            lines.append(f"long function_{number}(void) {{ return {value}; }}")
    source = home / "stand_in.c"
    source.write_text("\n".join(lines) + "\n")
    compiler = os.environ.get("CC", "cc")
    first = lib64 / LIBRARIES[0]
    for name in LIBRARIES:
        what = ["-o", lib64 / name, f"-Wl,-soname,{name}", "-shared", "-fPIC", "-w"]
        what += [source] if name == LIBRARIES[0] else ["-Wl,--no-as-needed", first]
        subprocess.run([compiler, *what], check=True)
    (home / "compiler").mkdir()
    (home / "compiler/version.info").write_text("Version=8.5.0\n")
    (home / "opp").mkdir()


def environment_for(home: Path) -> dict[str, str]:
    """Return the variables that set_env.sh would set, and those of the dry run."""
    libraries = f"{home}/lib64:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    return {
        **os.environ,
        "ASCEND_HOME_PATH": str(home),
        "ASCEND_OPP_PATH": f"{home}/opp",
        "LD_LIBRARY_PATH": libraries,
        "MS_SIMULATION_LEVEL": "1",
        "GLOG_v": "1",  # the choice of kernels is information
        "RANK_SIZE": "1",
    }


# ---- the child: one graph, which ends where operators of the old kind are built


def compile_graph(graph: str, model: str, preset: str) -> None:
    """Compile a graph for Ascend, with static shapes: 2 utterances of 200 frames, 10 labels."""
    sys.path.insert(0, str(ROOT))
    import numpy as np

    from common import config as configs
    from common.model.speech_model import SpeechModel
    from common.training.optimizers import Gradients
    from common.utils import runtime
    from common.utils.backend import Tensor, nn, ops

    device = runtime.set_device("Ascend")
    if graph == "control":  # an operator of CPU and GPU

        class Control(nn.Cell):
            def __init__(self):
                super().__init__()
                self.lstm = ops.LSTM(8, 8, 1, True, False, 0.0)

            def construct(self, x, state, weights):
                return ops.relu(self.lstm(x, state, state, weights)[0])

        state = Tensor(np.zeros((1, 2, 8), np.float32))
        weights = Tensor(np.zeros((2 * 4 * 8 * 8 + 4 * 8, 1, 1), np.float32))
        Control()(state, state, weights).asnumpy()
        return
    recipe = import_module(f"{model}.src.recipe").RECIPE
    config = recipe.train_config()
    configs.override_from_yaml(config, recipe.preset(preset))
    speech_model = SpeechModel.create(recipe, config, recipe.load_tokenizer(config), device)
    features = Tensor(np.zeros((2, speech_model.featurizer.dimension, FRAMES), np.float32))
    lengths = Tensor(np.full(2, FRAMES, np.int32))
    if graph == "evaluation":
        speech_model.network.set_train(False)
        speech_model.network(features, lengths)[0].asnumpy()
        return
    gradients = Gradients(
        speech_model.objective(), list(speech_model.network.trainable_params())
    ).set_train()
    targets = Tensor(np.ones((2, 10), np.int32)), Tensor(np.full(2, 10, np.int32))
    gradients(features, lengths, *targets, Tensor(np.ones(2, np.float32)))[0].asnumpy()


# ---- the parent: a line a graph


def count(graph: str, model: str, preset: str, home: Path) -> dict[str, Any]:
    """Compile a graph in a process of its own, and count what MindSpore's log says of it.

    Args:
        graph: "training", "evaluation" or "control".
        model: Name of the model's folder.
        preset: Name of the preset.
        home: CANN's folder.

    Returns:
        Numbers of operators by the kind of kernel, and the names of those that fall to the host.
    """
    command = [sys.executable, __file__, "--child", graph, "--model", model, "--preset", preset]
    environment = environment_for(home)
    kinds: dict[str, int] = {}
    host: list[str] = []
    last, names = "", [""]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if match := re.search(r"Number of ((?:\w+_KERNEL,? ?)+)", line):
                names = match[1].split(", ")
            elif match := re.search(r"PrintOpSelectedNum\] ([\d ]+)$", line):
                for name, number in zip(names, map(int, match[1].split()), strict=False):
                    kinds[name] = kinds.get(name, 0) + number
            elif match := re.search(r"\] (\w+) select (\w+) kernel", line):
                if match[2] not in ASCEND_KINDS:
                    host.append(match[1])
            elif match := re.search(r"Can't find OpAdapter for (\w+)", line):
                host.append(match[1])
            elif not line.startswith("["):
                last = line.strip() or last
    kinds = {KINDS.get(name, name): number for name, number in kinds.items() if number}
    return {"kinds": kinds, "host": sorted(set(host)), "last": last}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--preset")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        compile_graph(arguments.child, arguments.model, arguments.preset)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(os.environ.get("ASCEND_HOME_PATH") or Path(folder, "ascend-toolkit", "latest"))
        if not home.is_dir():
            if not shutil.which(os.environ.get("CC", "cc")) or not shutil.which("nm"):
                print("no CANN, and no C compiler and nm to make stand-ins: nothing can be tried")
                return 1
            make_stand_ins(home)
            print("with stand-ins for CANN's libraries: no kernel runs\n")
        print("| graph | kernels | on the host |\n| --- | --- | --- |", flush=True)
        graphs = [
            (graph, model, preset)
            for model in ([arguments.model] if arguments.model else MODELS)
            for preset in ([arguments.preset] if arguments.preset else presets(model))
            for graph in ("training", "evaluation")
        ]
        bad = False
        for graph, model, preset in [*graphs, ("control", MODELS[0], "")]:
            found = count(graph, model, preset, home)
            kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found["kinds"].items()))
            what = f"{model} {preset}, {graph}" if graph != "control" else "control: ops.LSTM"
            kinds = kinds or f"none: {found['last']}"
            print(f"| {what} | {kinds} | {', '.join(found['host']) or '0'} |", flush=True)
            bad = bad or not found["kinds"] or bool(found["host"]) == (graph != "control")
    return int(bad)


def presets(model: str) -> list[str]:
    """List the presets that ship with a model."""
    return sorted(path.stem for path in (ROOT / model / "presets").glob("*.yaml"))


if __name__ == "__main__":
    sys.exit(main())
