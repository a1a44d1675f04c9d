"""Which classes are pulled the same way."""

from typing import ClassVar

from edgekd.core.search_contracts import Look, Scorer
from edgekd.searching.sight import taught
from edgekd.searching.similarity import class_relation


class ClassSimilarity(Scorer):
    """Are the same classes pulled alike in student and teacher? DisWOT's M_s for any widths.

    Compared are the K x K inner products of the class gradients. The teacher's are those of a linear probe on its features, or
    of its own head where that is about the images' classes.
    """

    needs_teacher: ClassVar[bool] = True

    def value(self, look: Look) -> float:
        """Return the negated difference."""
        return -float(class_relation(look.student.gradient_KD, taught(look).gradient_KD))
