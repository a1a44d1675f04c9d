"""How often the gate is right and wrong, by simulation, beside the published design.

    python benchmarks/gate_operating_characteristics.py --out gate_operating_characteristics_<machine>_<date>.json

Latency: 100,000 jobs a row of 40 pairs each, log-ratios N(ln(1 + effect), sqrt(2) sd), contaminated ones with 10 % of the
rounds shifted by +-Exp(10 %); without the refusal of noisy machines, as published, and with it. Accuracy: 40,000 multinomial
draws a row. Several latency budgets: 20,000 gates of 20 budgets each on unchanged code. No data, no machine: numbers only.
"""

import argparse
import json
import math
import platform
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.core import sequential, stats
from edgekd.core.host import made_by
from edgekd.core.sequential import decide_many

JOBS, DRAWS, GATES, BUDGETS = 100_000, 40_000, 20_000, 20
SEED = 20_261_122
# (process sd, contaminated) -> unchanged: fail, pass, mean pairs; 5 % slower: fail, pass; 10 % slower: fail
PUBLISHED = {
    (0.01, False): (0.0000, 1.000, 7.0, 1.000, 0.0001, 1.0),
    (0.02, False): (0.0010, 0.999, 7.5, 0.991, 0.009, 1.0),
    (0.03, False): (0.0045, 0.996, 10.0, 0.977, 0.023, 1.0),
    (0.05, False): (0.0099, 0.974, 19.3, 0.923, 0.035, 1.0),
    (0.02, True): (0.0004, 0.995, 10.5, 0.975, 0.009, 1.0),
    (0.03, True): (0.0040, 0.985, 13.5, 0.952, 0.021, 1.0),
}
NAMES = ("unchanged_fail", "unchanged_pass", "unchanged_mean_pairs", "slower_5_fail", "slower_5_pass", "slower_10_fail")
# (images, discordance) -> P(pass | nothing lost), P(pass | exactly half a point lost)
PUBLISHED_ACCURACY = {(12_700, 0.02): (0.950, 0.011), (25_300, 0.04): (0.949, 0.010)}


def log_ratios(draw: np.random.Generator, *, effect: float, sd: float, contaminated: bool, jobs: int = JOBS) -> Any:
    """Return jobs x 40 simulated log-ratios."""
    shape = (jobs, sequential.LOOKS[-1])
    found = draw.normal(math.log1p(effect), math.sqrt(2) * sd, shape)
    if contaminated:
        found += (draw.random(shape) < 0.1) * draw.choice([-1, 1], shape) * draw.exponential(0.1, shape)
    return found


def latency(*, refusing: bool) -> list[dict[str, Any]]:
    """Return a row for each noise: simulated, and published where nothing is refused."""
    rows = []
    limit = sequential.MAX_PAIR_SD if refusing else math.inf
    for (sd, contaminated), published in PUBLISHED.items():
        draw, said = np.random.default_rng([SEED, round(1e4 * sd), contaminated]), []
        for effect in (0.0, 0.05, 0.10):
            outcome, pairs = decide_many(log_ratios(draw, effect=effect, sd=sd, contaminated=contaminated), max_pair_sd=limit)
            said.append((float((outcome == 1).mean()), float((outcome == 2).mean()), float(pairs.mean())))
        found = (*said[0], *said[1][:2], said[2][0])
        row: dict[str, Any] = {
            "process_sd": sd,
            "contaminated": contaminated,
            "simulated": dict(zip(NAMES, found, strict=True)),
        }
        if not refusing:
            row["published"] = dict(zip(NAMES, published, strict=True))
            rates = [abs(a - b) for i, (a, b) in enumerate(zip(found, published, strict=True)) if i != 2]
            row["largest_difference_points"] = 100 * max(rates)
        rows.append(row)
    return rows


def accuracy() -> list[dict[str, Any]]:
    """Return how often paired non-inferiority by half a point passes, with nothing lost and with half a point lost."""
    draw, rows = np.random.default_rng(SEED), []
    for (images, psi), published in PUBLISHED_ACCURACY.items():
        found = []
        for loss in (0.0, 0.005):
            cells = draw.multinomial(images, [(psi - loss) / 2, (psi + loss) / 2, 1 - psi], DRAWS)[:, :2]
            kinds, counts = np.unique(cells, axis=0, return_counts=True)
            lows = np.array([stats.paired_bounds(int(won), int(lost), images, alpha=0.01)[0] for won, lost in kinds])
            found.append(float(counts[lows >= -0.005].sum()) / DRAWS)
        rows.append(
            {"images": images, "discordance": psi, "pass_nothing_lost": found[0], "pass_half_a_point_lost": found[1]}
            | {"published": {"pass_nothing_lost": published[0], "pass_half_a_point_lost": published[1]}}
            | {"images_needed": stats.images_for_margin(0.005, psi)}
        )
    return rows


def several_budgets() -> list[dict[str, Any]]:
    """Return how often unchanged code fails any of twenty latency budgets, each alone and held together by Holm."""
    rows = []
    for sd in (0.02, 0.03, 0.05):
        draw = np.random.default_rng([SEED, 7, round(1e4 * sd)])
        alone = together = 0
        for _ in range(GATES // 500):
            ratios = log_ratios(draw, effect=0.0, sd=sd, contaminated=False, jobs=500 * BUDGETS)
            outcome, _pairs = decide_many(ratios)
            suspects = np.unique(np.nonzero(outcome == 1)[0] // BUDGETS)
            alone += len(suspects)
            for gate in suspects:  # only a gate with a fail at the full error can have one at a part of it
                rows_of = ratios[gate * BUDGETS : (gate + 1) * BUDGETS].tolist()
                p = [sequential.decide(row).p_fail for row in rows_of]
                together += any(stats.holm(p, alpha=sequential.ALPHA))
        rows.append({"process_sd": sd, "budgets": BUDGETS, "fails_uncorrected": alone / GATES, "fails_holm": together / GATES})
    return rows


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    out: Path = parser.parse_args().out
    made = made_by(["python", "benchmarks/gate_operating_characteristics.py"])
    table = {
        "made_by": {"version": made.version, "git": made.git, "at": made.at, "machine": platform.machine(), "seed": SEED},
        "latency_as_published": latency(refusing=False),
        "latency_refusing_noise": latency(refusing=True),
        "accuracy_half_a_point": accuracy(),
        "several_latency_budgets": several_budgets(),
    }
    out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
