"""Scoring a network on manifests: what eval.py and `evaluate` of a model's package do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.config import EvalConfig
from common.data.manifest import Utterance, listed, read_data, without_copies
from common.decoding.confidence import read_calibration
from common.utils.errors import UserError
from common.utils.packages import MissingPackageError

if TYPE_CHECKING:
    from common.evaluation.scoring import Evaluation, Prediction, ScoredUtterance
    from common.model.acoustic_model import AcousticModel

_UTTERANCES_AT_ONCE = 64  # of `saved_log_probs`


@dataclass(frozen=True)
class Scores:
    """What `score_manifests` found.

    Attributes:
        evaluation: Error rates of the corpus, and every utterance that was scored.
        unreadable: Messages about recordings that could not be read, in the order of the manifests;
            the error rates are those of the others.
        recordings: How many there were in all.
        report: The HTML page; None where none was asked for, or it could not be written.
        report_error: Why it could not be written.
    """

    evaluation: Evaluation
    unreadable: list[str]
    recordings: int
    report: Path | None = None
    report_error: UserError | MissingPackageError | None = None


def manifests_to_score(
    checkpoint: str, data: Any, stored: Any, what: str = "test set"
) -> tuple[list[str], str]:
    """Choose the manifests to score: those of eval_config, or else the checkpoint's.

    Args:
        checkpoint: The path, for messages.
        data: DataConfig of eval_config.
        stored: DataConfig of the checkpoint, with the manifests to fall back on as test_manifest.
        what: What those are, for messages.

    Returns:
        The manifests, and their Data_dir.

    Raises:
        UserError: There are none, or one is missing.
    """
    if data.test_manifest:
        return data.test_manifest, data.Data_dir
    if not stored.test_manifest:
        raise UserError(f"{checkpoint} names no {what}: give --set test_manifest=FILE")
    for manifest in stored.test_manifest:
        if not Path(manifest).is_file():
            raise UserError(
                f"{checkpoint} names {manifest} as its {what}, which is not in {Path.cwd()}: "
                "make it with scripts/manifest.py, or give --set test_manifest=FILE"
            )
    return stored.test_manifest, data.Data_dir or stored.Data_dir


def score_manifests(
    model: AcousticModel,
    checkpoint: str,
    config: EvalConfig,
    log: logging.Logger,
    on_scored: Callable[[ScoredUtterance], None] | None = None,
    timed: bool = False,
) -> Scores:
    """Recognise and score the utterances of manifests, each recording decoded once.

    Args:
        model: The network.
        checkpoint: What it is called in messages and in the report.
        config: Which manifests, how to decode, what to write.
        log: Receives figures, and a line for each recording that cannot be read.
        on_scored: Called with each utterance as it is scored.
        timed: Give recognised words their times and confidences, as for a report.

    Returns:
        Error rates, and what could not be read or written.

    Raises:
        MissingPackageError: The report needs a package that is not installed.
        UserError: There is no test set, or none of its recordings can be read.
    """
    from common.data.dataset import ManifestDataset, ReadFailure
    from common.decoding.decoders import describe
    from common.evaluation.evaluate import evaluate
    from common.evaluation.html_report import check_packages, write_report
    from common.memory import forecast_forward

    if config.report:
        check_packages(model.featurizer, config.report_utterances)
    decoder = model.decoder(config.LMConfig)
    data, trained = config.DataConfig, model.config.DataConfig
    manifests, data_dir = manifests_to_score(checkpoint, data, trained)
    test_set = listed(manifests)
    log.info("%s on %s, test set %s", checkpoint, model.runs_on, test_set)
    utterances = read_data(trained, model.tokenizer, manifests, data_dir, log.warning)
    utterances = without_copies(utterances, test_set, log.info)
    dataset = ManifestDataset(
        utterances,
        model.featurizer,
        model.tokenizer,
        labelled=False,
        log=log.info,
        skip_unreadable=True,
        check_length=forecast_forward(model).check,
        workers=data.workers,
    )
    # By position in the manifests, the order in which they are reported.
    unreadable = {failure.index: failure.message for failure in dataset.unreadable}

    def add_unreadable(failure: ReadFailure) -> None:
        unreadable[dataset.positions[failure.index]] = failure.message

    try:
        evaluation = evaluate(
            model,
            decoder,
            dataset,
            data.batch_size,
            data.workers,
            on_scored=on_scored,
            save_output=config.save_output,
            on_unreadable=add_unreadable,
            timed=timed or bool(config.report),
        )
    finally:
        for position in sorted(unreadable):
            log.error(unreadable[position])
    for line in decoder.warnings():
        log.warning(line)
    readable = [
        index for index, position in enumerate(dataset.positions) if position not in unreadable
    ]
    if not readable:
        raise UserError(f"{test_set}: not one of its recordings can be read")
    scored = dataset if len(readable) == len(dataset) else dataset.subset(readable)
    references = (utterances[dataset.positions[index]].text for index in readable)
    if unknown := model.tokenizer.unknown_in(references):
        counts = ", ".join(f"{c!r} in {count}" for c, count in unknown.most_common(20))
        log.warning("references hold characters without a label, which are errors: %s", counts)
    log.info("utterances: %d, %.2f hours", len(scored), scored.durations.sum() / 3600)
    report: Path | None = None
    report_error: UserError | MissingPackageError | None = None
    if config.report:
        facts = {
            "Checkpoint": checkpoint,
            "Test set": test_set,
            "Not read": f"{len(unreadable)} of {len(utterances)} recordings" if unreadable else "",
            "Decoder": describe(config.LMConfig),
            "Device": model.runs_on,
        }
        name, features = model.recipe.name, model.featurizer
        try:
            write_report(
                config.report,
                name,
                facts,
                evaluation,
                scored,
                features,
                config.report_utterances,
                speakers_of([utterances[dataset.positions[index]] for index in readable]),
                read_calibration(checkpoint),
            )
            report = Path(config.report)
            log.info("report: %s", config.report)
        except (UserError, MissingPackageError) as error:  # costs the page, not the figures
            report_error = error
    messages = [unreadable[position] for position in sorted(unreadable)]
    return Scores(evaluation, messages, len(utterances), report, report_error)


def speakers_of(utterances: Sequence[Utterance]) -> list[str]:
    """Tell who speaks in each utterance: as the manifest says, or else by the recording's folder.

    Args:
        utterances: Of a test set.

    Returns:
        A name for each; empty where all are the same.
    """
    names = [utterance.speaker or utterance.audio.parent.name for utterance in utterances]
    return names if len(set(names)) > 1 else []


def validation_config(model: AcousticModel, checkpoint: str, config: EvalConfig) -> EvalConfig:
    """Choose the validation set where no other set is named.

    Args:
        model: The network.
        checkpoint: What it is called in messages.
        config: Which manifests; not changed.

    Returns:
        A configuration that names manifests.

    Raises:
        UserError: There is no validation set.
    """
    data, trained = config.DataConfig, model.config.DataConfig
    validation = replace(trained, test_manifest=trained.val_manifest)  # never on the test set
    manifests, data_dir = manifests_to_score(checkpoint, data, validation, "validation set")
    return replace(config, DataConfig=replace(data, test_manifest=manifests, Data_dir=data_dir))


def saved_log_probs(
    model: AcousticModel,
    checkpoint: str,
    config: EvalConfig,
    max_hours: float,
    note: Callable[[str], None],
) -> tuple[list[np.ndarray], list[str], float]:
    """Run a network over the utterances of manifests, for decoders to be tried on its output.

    Args:
        model: The network.
        checkpoint: What it is called in messages.
        config: Which manifests.
        max_hours: At most so many hours of speech, drawn at random with a fixed seed; 0: all.
        note: Receives a line for each recording that cannot be read, and other lines for people.

    Returns:
        The log-probabilities (T', C) of each utterance, its normalised reference, and the seconds
        of speech in all.

    Raises:
        UserError: There is no test set, none of its recordings can be read, or the network gives
            no log-probabilities of frames.
    """
    from common.data.dataset import ReadFailure
    from common.evaluation.evaluate import recognise_recordings

    trained = model.config.DataConfig
    data = validation_config(model, checkpoint, config).DataConfig
    manifests, data_dir = data.test_manifest, data.Data_dir
    note(f"utterances of {listed(manifests)}")
    utterances = read_data(trained, model.tokenizer, manifests, data_dir, note)
    utterances = without_copies(utterances, listed(manifests), note)
    order = np.random.default_rng(0).permutation(len(utterances))
    kept: list[np.ndarray] = []
    references: list[str] = []
    seconds = 0.0
    for start in range(0, len(order), _UTTERANCES_AT_ONCE):
        chosen = [utterances[index] for index in order[start : start + _UTTERANCES_AT_ONCE]]
        found = recognise_recordings(
            model, model.decoder(None), chosen, _kept, data.batch_size, data.workers, "recognising"
        )
        for utterance, result in zip(chosen, found):
            if isinstance(result, ReadFailure):
                note(result.message)
                continue
            if max_hours and seconds >= 3600 * max_hours:
                break
            kept.append(result[0])
            references.append(model.tokenizer.normalise(utterance.text))
            seconds += result[1]
        if max_hours and seconds >= 3600 * max_hours:
            break
    if not kept:
        raise UserError(f"{listed(manifests)}: not one of its recordings can be read")
    return kept, references, seconds


def _kept(prediction: Prediction) -> tuple[np.ndarray, float]:
    if prediction.log_probs is None:
        raise UserError("this model is no CTC network: there is no beam search to tune")
    return np.array(prediction.log_probs), prediction.duration
