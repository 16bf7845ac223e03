"""Importance-weighted: the density of a tensor is proportional to its mean score, capped at 1.

So the number of weights kept is proportional to the sum of the scores.
"""

from ltpipe.pruning.allocation import Allocation, by_shares, score_sums

ALLOCATION = Allocation(lambda request: by_shares(request.sizes, score_sums(request.keys), request.prune))
