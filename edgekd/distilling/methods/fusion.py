"""Students and the classifier of their joined maps. Axes: B batch, C channels, H height, W width, K classes, P students."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.contracts import Batch, FeatureSpec, Needs
from edgekd.core.errors import UsageError
from edgekd.distilling.cohort import names_in
from edgekd.distilling.losses import cross_entropy, kl
from edgekd.distilling.methods._logits import Temperature, Weight
from edgekd.distilling.methods._mutual import Answers, MutualCriterion, MutualMethod, Ramp, RampBatches, named


class Fusion(MutualMethod):
    """Students and the classifier of their joined feature maps teach one another (FFL, Kim et al. 2019).

    The fused classifier joins the students' maps by channel and applies a depthwise 3 x 3 and a 1 x 1 convolution, each with
    batch norm and ReLU, a mean over the map, and a linear layer; maps of another size are resized to the first student's
    (ours). The loss is the cross entropy of every student and of the fused classifier, plus `weight` times the ramp times
    T^2 (sum over students of KL(fused || student) + KL(mean of the students' logits || fused)). No target gets a gradient.
    The authors take two students and T 3; the others are the recipe's `peers:`. Their ramp is as in `one`. The fused
    classifier is left behind after training.
    """

    temperature: Temperature = 3.0
    weight: Weight = 1.0
    ramp_batches: RampBatches = 0

    def needs(self) -> Needs:
        """Ask for every student's logits and last map."""
        return self.asks("map", peers=1)

    def build(self, student: FeatureSpec, teachers: tuple[FeatureSpec, ...], classes: int) -> nn.Module:
        """Return the criterion with the fused classifier; raise `UsageError` without a peer or for a student without maps."""
        logits = self.check(student, teachers, classes)
        maps = names_in(student.shapes, "map")
        if len(logits) < 2:
            raise UsageError(f"method {self.ref().use}: there is nothing to fuse one student with", mend="add `peers:`")
        flat = [key for key in maps if len(student.shapes[key]) != 3]
        if flat:
            raise UsageError(f"method {self.ref().use}: {flat[0]!r} has shape {student.shapes[flat[0]]}, a map is needed")
        return _Fusion(self, logits, maps, width=sum(student.shapes[key][0] for key in maps), classes=classes)


class _Fusion(MutualCriterion):
    method: Fusion

    def __init__(self, method: Fusion, logits: tuple[str, ...], maps: tuple[str, ...], *, width: int, classes: int) -> None:
        super().__init__(method, logits)
        self.maps = maps
        self.fuse = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.classify = nn.Linear(width, classes)
        self.ramp = Ramp(method.ramp_batches)

    def among(self, students: Answers, batch: Batch) -> dict[str, Tensor]:
        method = self.method
        fused_BK = self.classify(self.fuse(joined_maps([students[key] for key in self.maps])).mean(dim=(2, 3)))
        mean_BK = torch.stack([students[key].float() for key in self.logits]).mean(dim=0)
        share = self.ramp() * method.weight
        found = {
            "ce of the fused": cross_entropy(fused_BK, batch, smoothing=method.label_smoothing),
            "fusion of the fused": share * kl(fused_BK, mean_BK, temperature=method.temperature),
        }
        for key in self.logits:
            found[named("fusion", key)] = share * kl(students[key], fused_BK, temperature=method.temperature)
        return found


def joined_maps(maps: list[Tensor]) -> Tensor:
    """Return maps B x C_i x H_i x W_i joined by channel, resized bilinearly to the first one's height and width."""
    size = maps[0].shape[-2:]
    same = [m if m.shape[-2:] == size else functional.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]
    return torch.cat(same, dim=1)
