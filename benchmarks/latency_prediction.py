"""How far is a latency that was predicted from blocks from the one that is measured? On networks that the fit never saw.

    python benchmarks/latency_prediction.py [--backends onnxruntime openvino] [--size 224] [--fit 24] [--held-out 30]
    python benchmarks/latency_prediction.py --tiny      a few blocks of small networks, to see that it works

Every block of a MobileNet-class space is timed alone, once, as `edgekd search` does it; so many whole networks correct their
sum, and so many others are predicted and then measured. Needs an idle machine; what was timed before is used only where it was
kept (`--timings FOLDER`). `--skip 30` holds out the networks after the first 30 that it would have taken.
"""

import argparse
import tempfile
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
from _ranking import print_table
from _stopwatch import machine, write_result

from edgekd.block_timing import Stopwatch
from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.contracts import Backend, Device
from edgekd.core.search_contracts import Space
from edgekd.searching.latency_table import Table

CLASSES = 100
TINY = {
    "widths": (0.5,),
    "activations": ("relu",),
    "kernels": (3,),
    "expansions": (1, 2, 3),
    "depths": (1, 2),
    "squeezed": (False,),
}
REAL = {"widths": (0.5, 0.75, 1.0), "activations": ("hard_swish",), "kernels": (3, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--fit", type=int, default=24)
    parser.add_argument("--held-out", type=int, default=30)
    parser.add_argument("--skip", type=int, default=0, help="networks between those of the fit and those held out")
    parser.add_argument("--timings", type=Path, help="folder that keeps what was timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    told = machine()
    own: dict[str, Any] = {"sizes": (32 if options.tiny else options.size,), **(TINY if options.tiny else REAL)}
    space = cast(Space, parts.load("space", "mobile")(**own))
    results = [predicted(backend, space, options) for backend in options.backends]
    print_table([{key: value for key, value in row.items() if key != "networks"} for row in results])
    print(f"wrote {write_result('latency_prediction', {'machine': told, 'results': results}, options.out)}")


def local() -> Device:
    """Return this machine."""
    return cast(Device, parts.load("device", "local")())


def predicted(name: str, space: Space, options: argparse.Namespace) -> dict[str, Any]:
    """Return the errors of one runtime, network by network."""
    console = Console()
    with nullcontext(options.timings / name) if options.timings else tempfile.TemporaryDirectory() as kept:
        backend = cast(Backend, parts.load("backend", name)())
        stopwatch = Stopwatch(backend, local(), threads=options.threads, iterations=options.iterations)
        table = Table(space, CLASSES, stopwatch, Path(kept))
        with table.ready():
            blocks = table.measure_blocks(console)
            networks = table.measure_networks(options.fit + options.skip + options.held_out, console)
        fitted, held_out = list(networks)[: options.fit], list(networks)[options.fit + options.skip :]
        correction = table.correction({genome: networks[genome] for genome in fitted})
        rows = []
        for genome in held_out:
            estimate, measured_ms = correction.predict(table.parts_ms(genome)), table.paced_ms(networks[genome])
            error = estimate.value_ms / measured_ms - 1
            rows.append({"genome": genome, "predicted_ms": estimate.value_ms, "p50_ms": measured_ms, "error": error})
        plain = [abs(sum(table.parts_ms(one["genome"])) / one["p50_ms"] - 1) for one in rows]
    errors = [abs(row["error"]) for row in rows]
    return {
        "runtime": stopwatch.runtime,
        "blocks": len(blocks),
        "networks in the fit": len(fitted),
        "networks held out": len(rows),
        "median error": f"{median(errors):.1%}",
        "95th percentile": f"{float(np.percentile(errors, 95)):.1%}",
        "median error of the plain sum": f"{median(plain):.1%}",
        "of the left out of the fit, median": f"{correction.median_error:.1%}",
        "networks": rows,
    }


if __name__ == "__main__":
    main()
