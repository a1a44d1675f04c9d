"""Which channels go together."""

from typing import ClassVar

from edgekd.core.errors import UsageError
from edgekd.core.search_contracts import Look, Scorer
from edgekd.searching.sight import taught
from edgekd.searching.similarity import channel_correlation


class ChannelCorrelation(Scorer):
    """Do the same channels go together in student and teacher? ICKD (2021); needs equal widths."""

    needs_teacher: ClassVar[bool] = True

    def value(self, look: Look) -> float:
        """Return the negated difference of the C x C correlations; raise `UsageError` for other widths."""
        student_BCHW, teacher_BCHW = look.student.map_BCHW, taught(look).map_BCHW
        if student_BCHW.shape[1] != teacher_BCHW.shape[1]:
            raise UsageError(
                f"channel_correlation: the student's map has {student_BCHW.shape[1]} channels, the teacher's"
                f" {teacher_BCHW.shape[1]}",
                mend="use the scorers affinity or relation_similarity, which do not mind the widths",
            )
        return -float(channel_correlation(student_BCHW, teacher_BCHW))
