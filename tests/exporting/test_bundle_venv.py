"""The Python program of a bundle in an environment of its own, installed by its requirements.txt. `make bundle` runs this."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd import pipeline
from edgekd.core import parts
from edgekd.core.console import Console
from edgekd.core.images import decode, prepare
from edgekd.core.records import Artifact
from edgekd.core.store import read_record

ROOT = Path(__file__).parents[2]
NAME = "onnxruntime-fp32"


@pytest.mark.registry
def test_a_device_answers_what_edgekd_answers(tiny_run: Path, tmp_path: Path) -> None:
    """A fresh virtual environment with the bundle's requirements, as a device would have it: the same top 5."""
    artifact = tiny_run / "artifacts" / NAME
    pipeline.bundle(artifact, out=tmp_path, console=Console(quiet=True))
    bundle, venv = tmp_path / NAME, tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    install = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-c"]
    subprocess.run([*install, ROOT / "constraints.txt", "-r", bundle / "python" / "requirements.txt"], check=True)
    photo = tmp_path / "photo.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((120, 90)).save(photo)

    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    alone = subprocess.run(
        [venv / "bin" / "python", "-c", "import torch, edgekd"], env=clean, cwd=tmp_path, capture_output=True, check=False
    )
    assert b"ModuleNotFoundError" in alone.stderr
    command = [venv / "bin" / "python", bundle / "python" / "classify.py", "--json", "--threads", "1", photo]
    done = subprocess.run(command, env=clean, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = read_record(Artifact, artifact / "artifact.json")
    backend = parts.load("backend", "onnxruntime")(**record.backend.options)
    with backend.open(artifact, [ref.path for ref in record.files], threads=1) as session:
        logits_K = session.run(prepare(decode(photo), record.input)[None])[0].astype(np.float64)
    share_K = np.exp(logits_K - logits_K.max()) / np.exp(logits_K - logits_K.max()).sum()
    order_K = np.argsort(-share_K, kind="stable")[:5]
    found = json.loads(done.stdout)["top"]
    assert [name for name, _ in found] == [record.classes[index] for index in order_K]
    np.testing.assert_allclose([share for _, share in found], share_K[order_K], atol=1e-6)
