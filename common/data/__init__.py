"""Data: from manifests over MindRecord files to batches.

An utterance passes through four classes:

    manifest.Utterance      a recording (its path) and its transcript, as a manifest lists them
    dataset.Example         its arrays: labels, and features or encoded audio
    loader.Batch            several examples, padded to one size
    scoring.Prediction      what network and decoder made of it (in `common.evaluation`)

Beside them stand descriptions without arrays: `dataset.Entry`, what planning needs to know of an
utterance; `selection.Candidate`, an entry with what was measured to decide whether it is trained
on, and `selection.LeftOut`, a reason why it is not; `batch_sampler.PlannedBatch`, the utterances of
a batch before they are read.
"""
