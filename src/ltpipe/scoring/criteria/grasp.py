"""Gradient signal preservation."""

from typing import TYPE_CHECKING

from ltpipe.scoring.criteria.gradient_norm import GradientNorm
from ltpipe.scoring.criterion import Criterion

if TYPE_CHECKING:
    import torch

    from ltpipe.scoring.subject import Change, Deliver, Subject

_STEP = 3e-5  # of the weights' norm: smaller loses digits of float32, larger sees more than the second order


class _Gradient(GradientNorm):
    """Σ g with its sign."""

    def result(self) -> "torch.Tensor":
        return self._sum


class Grasp(Criterion):
    """θ⊙Hg: half of what the gradient's norm ‖g‖² loses, to first order, when a weight goes.

    Wang et al. 2020 (2002.07376): the paper's S(−θ) with the sign turned, so that what is worth keeping has the larger
    score. Scores have a sign. g and H are those of the loss summed over all calibration tokens, with respect to the
    scored weights. The paper's code divides logits by a temperature of 200, which it does not derive; that is left out.

    Hg comes from a central difference of gradients at θ ± εg with ε‖g‖ = 0.00003 ‖θ‖: three walks over the
    model in place of a second derivative, which could not be streamed. On tiny models the error is 0.03 % of the norm.
    """

    signed = True
    precision = "float32"

    @classmethod
    def walk(cls, subject: "Subject") -> None:
        """One of the walks, at scored weights that are copied as if they were moved."""
        with subject.changed(lambda name, weight: weight.clone() if name in subject.names else weight):
            subject.gradients(_Gradient, lambda *_: None)

    @classmethod
    def score(cls, subject: "Subject", deliver: "Deliver") -> None:
        """Three backward walks; two gradients lie on disk meanwhile."""
        with subject.stored() as gradient, subject.stored() as ahead:
            subject.gradients(_Gradient, gradient.write)
            norms = [
                sum(float(tensor(name).double().square().sum()) for name in subject.names) ** 0.5
                for tensor in (subject.weight, gradient.read)
            ]
            step = _STEP * norms[0] / norms[1] if norms[1] else 0.0

            def moved(by: float) -> "Change":
                def change(name: str, weight: "torch.Tensor") -> "torch.Tensor":
                    if name not in subject.names:
                        return weight
                    return weight.add(gradient.read(name).to(weight.device), alpha=by)

                return change

            with subject.changed(moved(step)):
                subject.gradients(_Gradient, ahead.write)

            def finish(name: str, behind: "torch.Tensor") -> None:
                product = ahead.read(name).sub(behind).div_(2 * step) if step else behind.mul_(0)
                deliver(name, product.mul_(subject.weight(name)))

            with subject.changed(moved(-step)):
                subject.gradients(_Gradient, finish)


CRITERION = Grasp
