"""Asking teachers without training: what several methods need at once, or nothing but the teachers themselves."""

from edgekd.core.contracts import Method, Needs


class Asking(Method):
    """No way to learn, only a question: the teachers' answers to these taps on all training images."""

    taps: tuple[str, ...] = ()
    by_teacher: tuple[tuple[str, ...], ...] = ()

    def needs(self) -> Needs:
        """Ask for the taps."""
        return Needs(teacher_taps=self.taps, taps_by_teacher=self.by_teacher)
