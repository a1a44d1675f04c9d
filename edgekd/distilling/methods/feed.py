"""Features of several teachers, each through a small network of its own. Axes: B batch, X all of an image's features."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from edgekd.core.contracts import FeatureSpec
from edgekd.core.errors import UsageError
from edgekd.distilling.losses import feed
from edgekd.distilling.methods._features import FeatureMethod, Match


class Feed(FeatureMethod):
    """Unit-length features of each teacher through a transformer of its own, absolute error (FEED, 2019).

    Park & Kwak, the parallel version; the sequential one is a chain of runs, each with `start: {checkpoint: ...}` of the one
    before. The transformer is not linear and is left behind after training: of maps (`student_tap: map` against
    `teacher_tap: grid_<n>`, to whose grid the student's map is averaged) two 3 x 3 convolutions, of vectors two layers (ours).
    The loss is a sum over an image's features and grows with their number; `scale: mean` divides by it. The authors'
    coefficient is not known to us.
    """

    scale: Literal["sum", "mean"] = "sum"

    def check_shape(self, spec: FeatureSpec, tap: str) -> None:
        """Take vectors and maps."""
        if len(spec.shapes[tap]) not in (1, 3):
            raise UsageError(
                f"method feed: the tap {tap!r} of {spec.name} has shape {spec.shapes[tap]}, neither vector nor map"
            )

    def match(self, student: FeatureSpec, teacher: FeatureSpec, tap: str) -> Match:
        """Return the match with its transformer; raise `UsageError` if a map is to meet a vector."""
        shape_s, shape_t = student.shapes[self.student_tap], teacher.shapes[tap]
        if len(shape_s) != len(shape_t):
            raise UsageError(
                f"method feed: the student's {self.student_tap} has shape {shape_s} and {teacher.name}'s {tap} {shape_t}",
                mend="match vectors (`student_tap: pooled`, `teacher_tap: pooled`)"
                " or maps (`student_tap: map`, `teacher_tap: grid_7`)",
            )
        return _Transformed(shape_s, shape_t, divided=self.scale == "mean")


class _Transformed(Match):
    term = "feed"

    def __init__(self, shape_s: tuple[int, ...], shape_t: tuple[int, ...], *, divided: bool) -> None:
        super().__init__()
        self.divided = divided
        self.grid = (shape_t[1], shape_t[2]) if len(shape_t) == 3 else None
        width_s, width_t = shape_s[0], shape_t[0]
        if self.grid:
            first, last = nn.Conv2d(width_s, width_t, 3, padding=1), nn.Conv2d(width_t, width_t, 3, padding=1)
            self.transformer = nn.Sequential(first, nn.ReLU(), last)
        else:
            self.transformer = nn.Sequential(nn.Linear(width_s, width_t), nn.ReLU(), nn.Linear(width_t, width_t))

    def forward(self, student_BX: Tensor, teacher_BX: Tensor) -> Tensor:
        if self.grid:
            student_BX = functional.adaptive_avg_pool2d(student_BX, self.grid)
        loss = feed(self.transformer(student_BX), teacher_BX)
        return loss / teacher_BX[0].numel() if self.divided else loss
