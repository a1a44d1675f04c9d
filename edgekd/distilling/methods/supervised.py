"""Learning from labels alone."""

from collections.abc import Mapping

from torch import Tensor, nn

from edgekd.core.contracts import Batch, FeatureSpec, Losses, Method, Needs
from edgekd.distilling.losses import cross_entropy


class Supervised(Method):
    """Cross entropy on the labelled images, no teacher: the baseline that every report shows."""

    label_smoothing: float = 0.0

    def needs(self) -> Needs:
        """Ask for labels and the student's logits."""
        return Needs(student_taps=("logits",), labels=True, teachers=False, only_labelled_images=True)

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion; it has no weights of its own."""
        return _Criterion(self)


class _Criterion(nn.Module):
    def __init__(self, method: Supervised) -> None:
        super().__init__()
        self.smoothing = method.label_smoothing

    def forward(self, student: Mapping[str, Tensor], teachers: tuple[Mapping[str, Tensor], ...], batch: Batch) -> Losses:
        loss = cross_entropy(student["logits"], batch, smoothing=self.smoothing)
        return Losses(total=loss, parts={"ce": loss.detach()})
