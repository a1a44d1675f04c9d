"""The records that the rooms hand to one another: facts on disk, frozen, each with its own schema number.

Every record says who made it (`made_by`) and from which records (`from_`, name -> digest), so that a verdict can be walked
back to the pixels. Units are in the names; shares are fractions in [0, 1].
"""

from edgekd.core.records.artifacts import Artifact, Candidate, Flip, HeadFacts, Parity, ParityDecision, Quantisation, TensorSpec
from edgekd.core.records.checkpoints import (
    IMPORTED,
    Accuracy,
    Checkpoint,
    DataFacts,
    InputContract,
    Picture,
    Quarantined,
    Representation,
    StartFacts,
    TeacherFacts,
    TrainingFacts,
    licences_of_weights,
)
from edgekd.core.records.circumstances import Condition, Energy, Fingerprint, TelemetryLog, TelemetryRow
from edgekd.core.records.measurements import DeviceFacts, LatencySummary, Measurement, WholeWay, WorkerSamples
from edgekd.core.records.record import Fact, FileRef, MadeBy, Record, canonical_json, digest_of
from edgekd.core.records.reports import (
    Answers,
    Calibration,
    Comparison,
    CurvePoint,
    Finding,
    Interval,
    Outcome,
    Report,
    Verdict,
    Waiver,
)

__all__ = [
    "IMPORTED",
    "Accuracy",
    "Answers",
    "Artifact",
    "Calibration",
    "Candidate",
    "Checkpoint",
    "Comparison",
    "Condition",
    "CurvePoint",
    "DataFacts",
    "DeviceFacts",
    "Energy",
    "Fact",
    "FileRef",
    "Finding",
    "Fingerprint",
    "Flip",
    "HeadFacts",
    "InputContract",
    "Interval",
    "LatencySummary",
    "MadeBy",
    "Measurement",
    "Outcome",
    "Parity",
    "ParityDecision",
    "Picture",
    "Quantisation",
    "Quarantined",
    "Record",
    "Report",
    "Representation",
    "StartFacts",
    "TeacherFacts",
    "TelemetryLog",
    "TelemetryRow",
    "TensorSpec",
    "TrainingFacts",
    "Verdict",
    "Waiver",
    "WholeWay",
    "WorkerSamples",
    "canonical_json",
    "digest_of",
    "licences_of_weights",
]
