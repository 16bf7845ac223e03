"""Diagonal Fisher information as it is often computed: from gradients of batches, not of single sequences."""

from ltpipe.scoring.criteria.fisher import Fisher


class FisherBatch(Fisher):
    """Mean over batches of four sequences of (Σ g)².

    Gradients of opposite sign cancel inside a batch, so this is not the Fisher information: its expectation is four
    times that of `fisher` plus twelve times the squared mean gradient. It takes a quarter of the backward passes. The
    last batch may be smaller.
    """

    batch = 4


CRITERION = FisherBatch
