"""Seconds of speech that the converter and the loader make in a second, on one core each.

    python benchmarks/data.py MANIFEST [--model jasper] [--set KEY=VALUE ...]

The converter: a manifest's recordings to MindRecord files, of samples and of features. The
loader: batches of those in the plan of an epoch, as recorded, and from samples with another speed
for each and masks too. One worker, one thread of numpy's, on one core, and nothing else beside.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SPEEDS = {"speed_volume_perturb": True, "spec_augment": True, "from_epoch": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="deepspeech2", help="the name of its folder")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    for name in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    from common import config as configs
    from common.audio.augmentation import Augmentation
    from common.data.batch_sampler import plan_epoch
    from common.data.loader import batches
    from common.data.mindrecord import open_dataset
    from common.data.splits import convert_split
    from common.model.recipe import labels_file
    from common.text.tokenizer import CharacterTokenizer

    recipe = importlib.import_module(f"{arguments.model}.src.recipe").RECIPE
    config = recipe.train_config()
    configs.override_from_options(config, arguments.set)
    data = config.DataConfig
    data.train_manifest, data.workers, data.shards = [str(arguments.manifest.resolve())], 1, 1
    tokenizer = CharacterTokenizer.from_file(labels_file(recipe, config))
    featurizer = recipe.build_featurizer(data)
    print(f"{arguments.model}, {arguments.manifest}; seconds of speech a second, one core")
    with tempfile.TemporaryDirectory() as folder:
        for store in ("audio", "features"):
            data.store = store
            data.mindrecord_format = f"{folder}/{store}_{{split}}/part{{}}.md"
            started = time.perf_counter()
            convert_split(recipe, config, "train", log=lambda line: None)
            spent = time.perf_counter() - started
            source = open_dataset(Path(folder, f"{store}_train"), None, featurizer, tokenizer)
            seconds = float(source.durations.sum())
            size = sum(path.stat().st_size for path in Path(folder, f"{store}_train").iterdir())
            kept = f"{size / seconds / 1000:.0f} kB a second of speech"
            print(f"converter, {store:8}          {seconds / spent:7.0f}   ({kept})", flush=True)
            plan = plan_epoch(source.frames, source.label_counts, batch_size=data.batch_size)
            loads = {"as recorded": None}
            if store == "audio":
                loads["speeds, masks"] = Augmentation(
                    copy.deepcopy(data.AugmentationConfig), **SPEEDS
                )
            for name, augmentation in loads.items():
                started = time.perf_counter()
                for _ in batches(source, plan, featurizer, augmentation, workers=1):
                    pass
                spent = time.perf_counter() - started
                print(f"loader, {store:8} {name:13}{seconds / spent:7.0f}", flush=True)


if __name__ == "__main__":
    main()
