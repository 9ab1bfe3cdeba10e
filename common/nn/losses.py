"""Training losses and objectives."""

from __future__ import annotations

from common.utils.backend import ms, nn, ops


class CTCLoss(nn.Cell):
    """Connectionist temporal classification (Graves et al. 2006), one loss an utterance.

    Utterances whose labels do not fit their frames must not get here: the operator stops the
    process (see `common.text.tokenizer.ctc_frames_needed`). Rows of no frames, which must have no
    labels, are given one frame and one label: the operator reads past the end of an empty row on
    CPUs, and CANN's documentation of CTCLossV2 promises nothing for rows without labels.

    Args:
        blank: Index of the blank label.
    """

    def __init__(self, blank: int):
        super().__init__()
        self.blank, self.label = blank, 0 if blank else 1  # any label but the blank

    def construct(self, log_probs, lengths, targets, target_lengths):
        """Compute the losses.

        Args:
            log_probs: (T, B, C) log-probabilities of the labels.
            lengths: (B,) frames of each utterance.
            targets: (B, L) labels.
            target_lengths: (B,) number of labels of each utterance.

        Returns:
            (B,) negative log-likelihoods in nats; of rows of no frames, a meaningless number.
        """
        empty = (lengths < 1).astype(targets.dtype)
        column = empty.reshape((-1, 1))
        losses, _ = ops.ctc_loss(
            log_probs.astype(ms.float32),
            targets * (1 - column) + self.label * column,
            ops.maximum(lengths, 1),
            ops.maximum(target_lengths, empty.astype(target_lengths.dtype)),
            blank=self.blank,
            reduction="none",
            zero_infinity=True,
        )
        return losses


class CTCObjective(nn.Cell):
    """A CTC network and its loss: what a train step differentiates.

    features (B, F, T), lengths (B,), targets (B, L), target_lengths (B,) -> losses (B,) in nats.

    Args:
        network: features, lengths -> log-probabilities (T', B, C), lengths (B,).
        loss: Such as `CTCLoss`.
    """

    def __init__(self, network: nn.Cell, loss: nn.Cell):
        super().__init__(auto_prefix=False)  # the network keeps its parameter names
        self.network, self.loss = network, loss

    def construct(self, features, lengths, targets, target_lengths):
        """Compute the losses of a batch."""
        log_probs, lengths = self.network(features, lengths)
        return self.loss(log_probs, lengths, targets, target_lengths)
