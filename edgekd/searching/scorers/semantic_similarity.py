"""What the classes look for."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from edgekd.core.errors import UsageError
from edgekd.core.search_contracts import Look, Scorer
from edgekd.searching.sight import taught
from edgekd.searching.similarity import activation_maps, grad_cam, semantic


class SemanticSimilarity(Scorer):
    """Do the classes of student and teacher look for the same? DisWOT's -M_s.

    `form: gradient` compares the gradients of the heads' weights, as the authors' README does; it needs equal widths.
    `form: grad_cam` correlates the class activation maps on a common grid; the widths may differ.
    """

    needs_teacher: ClassVar[bool] = True
    form: Literal["gradient", "grad_cam"] = "gradient"
    grid: Annotated[int, Field(ge=2, le=32)] = 7

    def value(self, look: Look) -> float:
        """Return -M_s; raise `UsageError` where the widths must be equal and are not."""
        student, teacher = look.student, taught(look)
        if self.form == "grad_cam":
            cams = (activation_maps(sight.map_BCHW, sight.weights_KC, grid=self.grid) for sight in (student, teacher))
            return -float(grad_cam(*cams))
        if student.gradient_KD.shape != teacher.gradient_KD.shape:
            raise UsageError(
                f"semantic_similarity: the student's head takes {student.vector_BD.shape[1]} numbers and the teacher's"
                f" {teacher.vector_BD.shape[1]}; class gradients are compared one by one",
                mend="use `form: grad_cam`, or the scorer class_similarity: neither minds the widths",
            )
        return -float(semantic(student.gradient_KD, teacher.gradient_KD))
