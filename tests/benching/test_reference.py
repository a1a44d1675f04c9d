"""The pinned reference model is the same bytes everywhere, and a model that runs."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from edgekd.benching import reference
from edgekd.core import parts
from edgekd.core.contracts import Backend
from edgekd.core.errors import IntegrityError


def test_it_is_the_pinned_bytes() -> None:
    """Two sessions a year apart ran the same model."""
    assert hashlib.sha256(reference.reference_model()).hexdigest() == reference.SHA256


def test_other_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that writes it otherwise is told, and not taken for the reference."""
    monkeypatch.setattr(reference, "SHA256", "0" * 64)
    reference.reference_model.cache_clear()
    with pytest.raises(IntegrityError, match="not as the pinned 000000000000"):
        reference.reference_model()
    reference.reference_model.cache_clear()


@pytest.mark.parametrize("name", reference.BACKENDS)
def test_every_runtime_that_is_said_to_take_it_takes_it(name: str, tmp_path: Path) -> None:
    """It answers photographs with finite logits that differ, and passes the inspection that every file passes."""
    (tmp_path / reference.FILE).write_bytes(reference.reference_model())
    backend = parts.load("backend", name)()
    assert isinstance(backend, Backend)
    assert backend.runner_file() is not None
    backend.inspect(tmp_path, [reference.FILE])
    image_BCHW = np.random.default_rng(0).random((2, 3, 224, 224), dtype=np.float32)
    with backend.open(tmp_path, [reference.FILE], threads=1) as session:
        logits_BK = session.run(image_BCHW)
    assert logits_BK.shape == (2, 100)
    assert np.isfinite(logits_BK).all()
    assert not np.allclose(logits_BK[0], logits_BK[1])
    assert 0.01 < np.abs(logits_BK).mean() < 100
