"""Which dimension of a weight is that of its inputs, found on the live model."""

import torch
from torch import nn

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.pruning.layout import Layout


def check_orientation(model: nn.Module, manifest: Manifest) -> None:
    """The inputs of a layer do not depend on the loss: only the outputs' side of its gradient does.

    For one token the gradient of y = W x is the product of a gradient of y and x. So the gradients of two losses, put
    together with their inputs along the same dimension, have no higher rank than either; put together the other way
    round they have up to twice that.
    """
    layout, names = Layout.of(manifest), Selection().names(manifest)
    parameters = dict(model.named_parameters())
    with torch.enable_grad():
        logits = model(input_ids=torch.tensor([[5]]), use_cache=False).logits[0, -1].float()
        losses = [logits @ torch.randn(len(logits)) for _ in range(2)]
        first, second = (
            torch.autograd.grad(loss, [parameters[name] for name in names], retain_graph=True, allow_unused=True)
            for loss in losses
        )
    told = 0
    for name, *gradients in zip(names, first, second, strict=True):
        if any(gradient is None for gradient in gradients):
            continue  # of an expert that is not routed to, or of a choice that has no gradient
        shape = tuple(gradients[0].shape)
        one, two = (torch.from_numpy(layout.matrices(name, shape, each.numpy()).copy()) for each in gradients)
        both = (torch.cat([one, two], axis) for axis in (1, 2))
        same_inputs, same_outputs = (torch.linalg.matrix_rank(each, rtol=1e-4) for each in both)
        assert bool((same_inputs <= same_outputs).all()), name
        told += bool((same_inputs < same_outputs).any())
    assert told > len(names) / 4
