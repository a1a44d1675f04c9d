"""How much power the machine may draw."""

from typing import ClassVar, Literal

from edgekd.core.evidence import Evidence
from edgekd.core.records import Finding, LatencySummary
from edgekd.judging import units
from edgekd.judging.budgets._subjects import OfMeasurements, Said, not_executed


class EnergyLimit(OfMeasurements):
    """While it was measured the machine drew at most `max` (15W), by each of its sensors.

    The mean over the whole session, with everything that ran in it: sensors see the machine, not the model, so that there is no
    figure for one query. One figure a session has no known error; it is compared as it was read.
    """

    metrics: ClassVar[tuple[str, ...]] = ("energy.watts",)
    metric: Literal["energy.watts"] = "energy.watts"
    max: units.PowerText

    def check(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Return one finding per artifact and device."""
        report = evidence.report
        said = Said(budget="mean power", limit=float(units.watts(self.max)), unit="W")
        artifacts = self.artifacts(report)
        if not artifacts:
            return (said.unknown(self.subject(), self.none_matching(report)),)
        found: list[Finding] = []
        for artifact in artifacts:
            unmeasured = f"{artifact.name} was not measured; run edgekd bench."
            because = not_executed(artifact) if artifact.not_executed else unmeasured
            measured = [self._of(one, said, evidence) for one in self.measured(report, artifact)]
            found += measured or [said.unknown(artifact.name, because, needs="a measurement: edgekd bench RUN")]
        return tuple(found)

    def _of(self, summary: LatencySummary, said: Said, evidence: Evidence) -> Finding:
        subject = f"{summary.artifact}@{summary.device.name}"
        rule = evidence.rule(summary.device.name)
        broken = rule.broken_by(summary) if rule is not None else ""
        if broken:
            return said.unknown(subject, f"The device is not the one that the budgets file describes: its {broken}.")
        if summary.kind == "estimate" or not summary.trusted:
            return said.unknown(subject, "The measurement is an estimate or cannot be trusted.", needs="edgekd bench RUN")
        if not summary.energy:
            needs = "a machine with RAPL, INA or NVML"
            return said.unknown(subject, "No sensor of power was read on this machine.", needs=needs)
        worst = max(summary.energy, key=lambda one: one.watts)
        because = (
            f"The machine drew {worst.watts:.2f} W by its sensor {worst.sensor}, the mean of {worst.seconds:.0f} s with "
            f"all that ran in them; at most {self.max} is allowed."
        )
        return said.found(subject, worst.watts, "pass" if worst.watts <= said.limit else "fail", because)
