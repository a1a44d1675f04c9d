"""An artifact to time, and a backend that misbehaves on demand inside a real worker process."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.benching.subjects import environment
from edgekd.core import parts
from edgekd.core.parts import PartRef
from edgekd.core.records import Accuracy, Artifact, FileRef, InputContract, MadeBy, Parity, TensorSpec

CONTENT = b"a model"
# What a third party would install: a module and an entry point. Worker processes find it through PYTHONPATH.
LAB = '''
"""A backend for tests that does what it is told."""
import ctypes, os, resource, signal, subprocess, sys, time
from typing import Literal
import numpy as np
from edgekd.core.contracts import Backend
from edgekd.core.errors import IntegrityError

class Session:
    executed_on, executed_precision, runtime = "CPU", "fp32", "lab 1.0"
    def __init__(self, lab): self.lab = lab
    def run(self, image_BCHW):
        if self.lab.does == "chatter":
            print("python chatter")
            os.write(1, b"descriptor chatter\\n")
            ctypes.CDLL(None).puts(b"C chatter")
        return np.zeros((len(image_BCHW) + (self.lab.does == "extra_rows"), 3), np.float32)
    def __enter__(self): return self
    def __exit__(self, *trace): return None

class Lab(Backend):
    """Misbehaves."""
    does: str = "nothing"
    def open(self, folder, files, *, threads):
        session = Session(self)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if self.does == "segfault": os.kill(os.getpid(), signal.SIGSEGV)
        if self.does == "out_of_memory": os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "odd_signal": os.kill(os.getpid(), signal.SIGRTMIN + 1)
        if self.does == "raise": raise RuntimeError("kernel \\x1b[31mpanic")
        if self.does == "quit": os._exit(0)
        if self.does == "refuse": raise IntegrityError("weights are not those", mend="download again")
        if self.does in ("hang", "hang_with_child"):
            pids = [os.getpid()]
            if self.does == "hang_with_child":
                pids.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
            (folder / "pids.tmp").write_text(" ".join(map(str, pids)))
            (folder / "pids.tmp").rename(folder / "pids")
            time.sleep(600)
        if self.does == "environment":
            names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ORT_INTRA_OP_NUM_THREADS",
                     "ORT_INTER_OP_NUM_THREADS", "HF_HUB_OFFLINE")
            session.runtime = " ".join(os.environ.get(name, "-") for name in names) + f" asked {threads}"
            session.executed_on = " ".join(sorted({"torch", "onnxruntime", "openvino", "timm"} & set(sys.modules))) or "none"
        return session
'''


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes find the backend `lab`."""
    site = tmp_path / "site"
    info = site / "edgekd_lab-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "edgekd_lab.py").write_text(LAB)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edgekd-lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgekd.backends]\nlab = edgekd_lab:Lab\n")
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *([known] if known else [])]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of an artifact, with its model file."""
    path = tmp_path / "lab-fp32"
    path.mkdir()
    (path / "model.bin").write_bytes(CONTENT)
    return path


@pytest.fixture
def make_artifact(folder: Path) -> Callable[..., Artifact]:
    """Return a function that makes the record of the artifact in `folder`."""

    def make(*, does: str = "nothing", batch: int | str = "batch") -> Artifact:
        reference = FileRef(path="model.bin", size_bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
        return Artifact(
            made_by=MadeBy(version="0"),
            backend=PartRef(use="lab", options={"precision": "fp32", "does": does}),
            precision="fp32",
            executed_precision="fp32",
            executed_on="CPU",
            runtime="lab 1.0",
            files=(reference,),
            size_bytes=len(CONTENT),
            inputs=(TensorSpec(name="image", shape=(batch, 3, 16, 16), dtype="float32"),),
            outputs=(TensorSpec(name="logits", shape=(batch, 3), dtype="float32"),),
            opset=None,
            classes=("a", "b", "c"),
            input=InputContract(
                size_px=(16, 16), resize_px=16, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
            ),
            parity=Parity(
                images=1,
                max_abs=0.0,
                mean_abs=0.0,
                logit_cosine_mean=1.0,
                logit_cosine_min=1.0,
                top1_agreements=1,
                flips=(),
            ),
            accuracy=Accuracy(images=1, top1_correct=1, top5_correct=None, predictions=reference),
        )

    return make


@pytest.fixture
def images_npy(tmp_path: Path) -> Path:
    """Return 32 images of noise."""
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).random((32, 3, 16, 16), dtype=np.float32))
    return path


@pytest.fixture
def make_plan(folder: Path, images_npy: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that makes a short worker's plan for the backend `lab`."""

    def make(does: str = "nothing", **changes: Any) -> dict[str, Any]:
        return {
            "protocol": "1",
            "whose": "lab in lab-fp32",
            "folder": str(folder),
            "runner": None,
            "part": {"use": "lab", "options": {"precision": "fp32", "does": does}},
            "files": ["model.bin"],
            "options": {},
            "threads": 1,
            "environment": environment(1),
            "inputs": str(images_npy),
            "batch": 1,
            "mode": "single",
            "period_ns": None,
            "warmup": 2,
            "iterations": 40,
            "record": None,
            "whole": None,
        } | changes

    return make


@pytest.fixture
def lab_here(lab: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process find the backend `lab` too."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    parts.forget()
    yield
    parts.forget()
    sys.modules.pop("edgekd_lab", None)
