"""How much work a measurement is: `quick` for a look, `gate` for a decision, `publish` for a figure that others rely on."""

from dataclasses import dataclass

LOOKS = (7, 12, 20, 40)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How long to calibrate, to warm up and to count, after how many rounds to look, and when to stop at the latest.

    A worker counts at least `min_iterations` queries and `min_s` seconds, and `whole` queries from photograph to classes.
    `sustained_s` is how long a last worker runs without a pause, after `cool_s` of rest.
    """

    name: str
    calibrate_s: float
    calibrate_cap_s: float
    least_warmup_s: float
    min_iterations: int
    min_s: float
    whole: int
    looks: tuple[int, ...]
    cap_s: float
    reference: bool
    sustained_s: float = 0.0
    cool_s: float = 0.0


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="quick",
            calibrate_s=1.5,
            calibrate_cap_s=1.5,
            least_warmup_s=0.5,
            min_iterations=50,
            min_s=1.0,
            whole=32,
            looks=(5,),
            cap_s=60.0,
            reference=False,
        ),
        Profile(
            name="gate",
            calibrate_s=30.0,
            calibrate_cap_s=300.0,
            least_warmup_s=3.0,
            min_iterations=200,
            min_s=3.0,
            whole=64,
            looks=LOOKS,
            cap_s=1800.0,
            reference=True,
        ),
        Profile(
            name="publish",
            calibrate_s=30.0,
            calibrate_cap_s=300.0,
            least_warmup_s=3.0,
            min_iterations=200,
            min_s=3.0,
            whole=64,
            looks=LOOKS[2:],
            cap_s=7200.0,
            reference=True,
            sustained_s=600.0,
            cool_s=60.0,
        ),
    )
}
"""Protocol 1. A worker of `gate` takes about nine seconds at 20 ms a query: seven rounds of three arms are three minutes."""

HALF_WIDTHS = {50.0: 0.01, 90.0: 0.025, 99.0: 0.05}
"""How narrow the 95 % interval over workers must be, relative to the value, before a measurement without comparison stops."""
