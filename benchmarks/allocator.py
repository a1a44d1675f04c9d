"""What keeping freed memory is worth: training images/s with and without, in turn, each in a fresh process.

    python benchmarks/allocator.py [--rounds 3] [--seconds 10]

The result is written beside this file; ratios within one run are what counts.
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from edgekd.core.host import device_facts, made_by

CASES = (("mobilenetv2_100", 224, 32), ("mobilenetv3_small_100", 96, 32), ("mobilenetv4_conv_small", 128, 64))
WORKER = """
import sys, time
import edgekd, timm, torch
from edgekd.distilling.allocator import keep_freed_memory

name, size, batch, seconds, keep = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5] == "1"
assert keep_freed_memory() if keep else True
model = timm.create_model(name, num_classes=10).to(memory_format=torch.channels_last).train()
optimiser = torch.optim.AdamW(model.parameters())
image = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
label = torch.randint(0, 10, (batch,))
def step():
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(model(image), label).backward()
    optimiser.step()
for _ in range(3):
    step()
start, seen = time.perf_counter(), 0
while time.perf_counter() - start < seconds:
    step()
    seen += batch
print(seen / (time.perf_counter() - start))
"""


def rate(case: tuple[str, int, int], seconds: float, *, keep: bool) -> float:
    arguments = [*map(str, case), str(seconds), str(int(keep))]
    done = subprocess.run([sys.executable, "-c", WORKER, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    rows = []
    for case in CASES:
        pairs = [
            (rate(case, options.seconds, keep=False), rate(case, options.seconds, keep=True)) for _ in range(options.rounds)
        ]
        ratios = [kept / plain for plain, kept in pairs]
        row = {
            "model": case[0],
            "size_px": case[1],
            "batch": case[2],
            "plain_images_per_s": statistics.median(plain for plain, _ in pairs),
            "kept_images_per_s": statistics.median(kept for _, kept in pairs),
            "ratio_median": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
        rows.append(row)
        print(*(f"{value:.2f}" if isinstance(value, float) else value for value in row.values()), sep="\t", flush=True)
    facts = device_facts()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    result = {"what": "allocator", "date": date, "commit": made_by(None).git, "cpu": facts.cpu, "rows": rows}
    out = Path(__file__).with_name(f"allocator_{platform.machine()}-{facts.usable_cores}core_{date}.json")
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
