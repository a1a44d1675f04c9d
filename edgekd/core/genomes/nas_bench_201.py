"""Cells of NAS-Bench-201 (Dong & Yang 2020), in the benchmark's own spelling."""

from dataclasses import dataclass
from typing import Self

from edgekd.core.errors import UsageError
from edgekd.core.parts import nearest

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (to, from), in the order of the spelling


@dataclass(frozen=True)
class NasBench201Genome:
    """`|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|`: the operation on each of the six edges of a cell of four nodes."""

    operations: tuple[str, str, str, str, str, str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a cell; raise `UsageError` that names the edge which is wrong."""
        nodes = [node.removeprefix("|").removesuffix("|").split("|") for node in text.split("+")]
        if [len(node) for node in nodes] != [1, 2, 3]:
            raise UsageError(
                f"genome {text!r}: is not a cell of NAS-Bench-201",
                mend="write |op~0|+|op~0|op~1|+|op~0|op~1|op~2|",
            )
        operations = []
        for (to, origin), word in zip(EDGES, (word for node in nodes for word in node), strict=True):
            operation, tilde, number = word.partition("~")
            if operation not in OPERATIONS or not tilde or number != str(origin):
                raise UsageError(
                    f"genome {text!r}: {word!r} is no operation from node {origin} to node {to}."
                    f"{nearest(operation, OPERATIONS)} Known: {', '.join(OPERATIONS)}",
                    mend=f"write OPERATION~{origin}",
                )
            operations.append(operation)
        genome = cls((operations[0], operations[1], operations[2], operations[3], operations[4], operations[5]))
        if str(genome) != text:
            raise UsageError(f"genome {text!r}: is spelled {genome}")
        return genome

    def __str__(self) -> str:
        words = [f"{operation}~{origin}" for operation, (_, origin) in zip(self.operations, EDGES, strict=True)]
        return "+".join(f"|{'|'.join(node)}|" for node in (words[:1], words[1:3], words[3:]))
