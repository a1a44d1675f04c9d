"""The records that the rooms hand to one another: facts on disk, frozen, each with its own schema number.

Every record says who made it (`made_by`) and from which records (`from_`, name -> digest), so that a verdict can be walked
back to the pixels. Units are in the names; shares are fractions in [0, 1].
"""

from edgekd.core.records.artifacts import Artifact, Candidate, Flip, Parity, ParityDecision, Quantisation, TensorSpec
from edgekd.core.records.candidates import (
    BlockLatency,
    Candidates,
    LatencyEstimate,
    LatencyMeasured,
    LatencyModel,
    LatencyTable,
    RankAgreement,
    Score,
    ScoredStudent,
    Term,
)
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
from edgekd.core.records.measurements import DeviceFacts, LatencySummary, Measurement, WorkerSamples
from edgekd.core.records.record import Fact, FileRef, MadeBy, Record, canonical_json, digest_of
from edgekd.core.records.reports import Comparison, CurvePoint, Finding, Interval, Outcome, Report, Verdict

__all__ = [
    "IMPORTED",
    "Accuracy",
    "Artifact",
    "BlockLatency",
    "Candidate",
    "Candidates",
    "Checkpoint",
    "Comparison",
    "CurvePoint",
    "DataFacts",
    "DeviceFacts",
    "Fact",
    "FileRef",
    "Finding",
    "Flip",
    "InputContract",
    "Interval",
    "LatencyEstimate",
    "LatencyMeasured",
    "LatencyModel",
    "LatencySummary",
    "LatencyTable",
    "MadeBy",
    "Measurement",
    "Outcome",
    "Parity",
    "ParityDecision",
    "Picture",
    "Quantisation",
    "Quarantined",
    "RankAgreement",
    "Record",
    "Report",
    "Representation",
    "Score",
    "ScoredStudent",
    "StartFacts",
    "TeacherFacts",
    "TensorSpec",
    "Term",
    "TrainingFacts",
    "Verdict",
    "WorkerSamples",
    "canonical_json",
    "digest_of",
    "licences_of_weights",
]
