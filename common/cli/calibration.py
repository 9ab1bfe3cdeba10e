"""The command calibrate.py: make the confidences of words say how often they are right."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cli.options import (
    add_eval_config,
    add_model,
    command,
    load_acoustic_model,
    model_path,
    override,
)
from common.decoding.confidence import calibration_file, read_calibration
from common.model.recipe import Recipe
from common.utils.errors import UserError
from common.utils.files import check_writable, write_text
from common.utils.wording import counted

_FEW = 200  # words, below which a fit says little


def calibrate(recipe: Recipe, argv: Sequence[str]) -> None:
    """Run calibrate.py.

    Args:
        recipe: The model.
        argv: Its options.
    """
    parser = command(
        prog="calibrate.py",
        description="Fit the confidences of recognised words on a validation set, and write "
        "NAME.calibration.json beside NAME.ckpt or NAME.onnx, where transcribe.py finds it. "
        "Recordings are those of --set test_manifest=FILE, or of the validation set that the "
        "model names.",
    )
    add_model(parser, recipe)
    parser.add_argument(
        "--measure",
        action="store_true",
        help="write no calibration: measure the one that is there",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="where the calibration goes [beside the model]"
    )
    parser.add_argument("--plot", metavar="SVG", help="draw how reliable the confidences are")
    add_eval_config(parser)
    arguments = parser.parse_args(argv)
    config = recipe.eval_config()
    override(config, arguments, recipe)
    path = model_path(arguments, recipe)
    output = Path(arguments.output) if arguments.output else calibration_file(path)
    if arguments.measure and arguments.output:
        raise UserError("--measure and --output: give one of the two")
    for file in ([] if arguments.measure else [output]) + [arguments.plot or ""]:
        if file:
            check_writable(file)
    present = read_calibration(path)

    import logging

    from common.api.scoring import score_manifests, validation_config
    from common.evaluation.calibration import (
        calibration_error,
        cross_validated,
        fit,
        reliability,
        word_confidences,
    )
    from common.evaluation.pictures import reliability_diagram, standalone

    log = logging.getLogger("common.calibrate")
    log.addHandler(logging.StreamHandler(sys.stderr))
    model = load_acoustic_model(arguments, recipe, path)
    config = validation_config(model, path, config)
    config.report = ""
    scores = score_manifests(model, path, config, log, timed=True)
    raw, correct = word_confidences(scores.evaluation.utterances)
    if not len(raw):
        raise UserError(f"{path}: no word was recognised whose confidence could be fitted")
    before, after = reliability(raw, correct), []
    wrong = int((~correct).sum())
    print(f"{counted(len(raw), 'recognised word')}, {wrong} of them wrong")
    print(f"expected calibration error of the network: {_percent(calibration_error(before))}")
    if arguments.measure:
        if present is None:
            print(f"no calibration: there is no {calibration_file(path)}")
        else:
            after = reliability(present(raw), correct)
            print(f"calibrated: {_percent(calibration_error(after))}")
    else:
        if len(raw) < _FEW or not wrong:
            print(
                f"warning: {counted(len(raw), 'word')}, {wrong} of them wrong, tell little of "
                "confidences; give more recordings",
                file=sys.stderr,
            )
        after = reliability(cross_validated(raw, correct), correct)
        error = _percent(calibration_error(after))
        print(f"calibrated, each fifth of the words by a fit on the others: {error}")
        found = fit(raw, correct)
        write_text(output, json.dumps(found.to_json()) + "\n")
        print(f"{output}: scale {found.scale:.4f}, offset {found.offset:.4f}")
    if arguments.plot:
        title = f"Confidence of words: {path}"
        write_text(arguments.plot, standalone(reliability_diagram(before, after), title))
        print(arguments.plot)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
