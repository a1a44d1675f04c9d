"""Zero-shot heads: by numpy, from a file, through a random text tower, in a teacher and in a student that is exported."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from edgekd.core.contracts import FeatureSpec
from edgekd.core.errors import IntegrityError, MachineError, UsageError
from edgekd.distilling import zero_shot
from edgekd.distilling.cache import key_facts
from edgekd.distilling.class_sets import check_same, named_classes
from edgekd.distilling.students.timm import Timm as Student
from edgekd.distilling.teachers.timm import Timm as Teacher

CLASSES = ("cat", "dog", "newt")
WIDTH = 6


def texts_file(folder: Path, *, classes: tuple[str, ...] = CLASSES, width: int = WIDTH, **metadata: str) -> Path:
    path = folder / f"texts-{'-'.join(classes)}.safetensors"
    text_KD = torch.randn(len(classes), width, generator=torch.Generator().manual_seed(0)) * 3
    save_file({"text_KD": text_KD}, path, {"classes": json.dumps(classes), **metadata})
    return path


# -------------------------------------------------------------------------------------------------------------------- logits
def test_logits_are_the_scale_times_the_cosines() -> None:
    """float64 numpy, for embeddings and texts of any length."""
    rng = np.random.default_rng(0)
    image_BD, text_KD = rng.normal(size=(4, WIDTH)) * 5, rng.normal(size=(3, WIDTH))
    cosine_BK = image_BD @ text_KD.T / np.linalg.norm(image_BD, axis=1)[:, None] / np.linalg.norm(text_KD, axis=1)
    head = zero_shot.ZeroShotHead(torch.tensor(text_KD), 50.0)
    found = head(torch.tensor(image_BD, dtype=torch.float32))
    np.testing.assert_allclose(found.numpy(), 50 * cosine_BK, rtol=1e-4, atol=1e-4)
    assert list(head.parameters()) == []


# --------------------------------------------------------------------------------------------------------------------- files
def test_a_file_of_texts_gives_unit_rows_with_names_and_scale(tmp_path: Path) -> None:
    """Rows are normalised; without a word the scale is that of a trained CLIP."""
    texts = zero_shot.read_texts(texts_file(tmp_path))
    assert texts.classes == CLASSES
    assert texts.logit_scale == 100.0
    torch.testing.assert_close(texts.text_KD.norm(dim=1), torch.ones(3))
    assert zero_shot.read_texts(texts_file(tmp_path, logit_scale="37.5")).logit_scale == 37.5


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    """Names, scale and numbers, and what was said about them stands in the file."""
    texts = zero_shot.read_texts(texts_file(tmp_path, logit_scale="12.5"))
    zero_shot.write_texts(tmp_path / "again.safetensors", texts, about={"text_model": "x"})
    again = zero_shot.read_texts(tmp_path / "again.safetensors")
    assert (again.classes, again.logit_scale) == (texts.classes, texts.logit_scale)
    torch.testing.assert_close(again.text_KD, texts.text_KD)


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "says"),
    [
        ({"text": torch.ones(3, 4)}, {"classes": '["a","b","c"]'}, UsageError, "expected a matrix `text_KD`"),
        ({"text_KD": torch.ones(3, 4)}, {}, UsageError, "the names of its rows"),
        ({"text_KD": torch.ones(3, 4)}, {"classes": "[1, 2, 3]"}, UsageError, "the names of its rows"),
        ({"text_KD": torch.ones(3, 4)}, {"classes": "[unclosed"}, UsageError, "not a readable file"),
        ({"text_KD": torch.ones(3, 4)}, {"classes": '["a","b","b"]'}, UsageError, "3 texts and 2 names"),
        ({"text_KD": torch.ones(3, 4)}, {"classes": '["a","b"]'}, UsageError, "3 texts and 2 names"),
        ({"text_KD": torch.full((2, 4), math.nan)}, {"classes": '["a","b"]'}, IntegrityError, "zero or not finite"),
        ({"text_KD": torch.zeros(2, 4)}, {"classes": '["a","b"]'}, IntegrityError, "zero or not finite"),
        ({"text_KD": torch.ones(2, 4)}, {"classes": '["a","b"]', "logit_scale": "-1"}, IntegrityError, "a logit scale of -1"),
    ],
)
def test_another_file_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], error: type[Exception], says: str
) -> None:
    """What is no file of texts says why."""
    save_file(tensors, tmp_path / "t.safetensors", metadata)
    with pytest.raises(error, match=says):
        zero_shot.read_texts(tmp_path / "t.safetensors")


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    """The command stands in the answer."""
    with pytest.raises(UsageError, match="edgekd embed-classes"):
        zero_shot.read_texts(tmp_path / "none.safetensors")


# ---------------------------------------------------------------------------------------------------------------- text tower
class Tower:
    """Stands for open_clip's model: a prompt's embedding is made of its characters."""

    logit_scale = torch.tensor(math.log(20.0))

    def eval(self) -> "Tower":
        return self

    def encode_text(self, tokens_PL: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.bincount(row, minlength=128).float()[97:123] + 0.1 for row in tokens_PL])


def tokenise(prompts: list[str]) -> torch.Tensor:
    return torch.tensor([list(prompt.encode().ljust(60)) for prompt in prompts])


def test_templates_are_averaged_at_unit_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images' name is the first of a line, the last one goes into every template; their mean has length 1 again."""
    monkeypatch.setattr(zero_shot, "_text_tower", lambda *_, **__: (Tower(), tokenise))
    (tmp_path / "classes.txt").write_text("n01\ttench\nn02\tspaniel\n")
    texts = zero_shot.embed_classes(tmp_path / "classes.txt", model="m", pretrained="p", templates=("a {}.", "many {}s"))
    assert texts.classes == ("n01", "n02")
    assert texts.logit_scale == pytest.approx(20.0)
    for row, name in zip(texts.text_KD.double().numpy(), ("tench", "spaniel"), strict=True):
        prompts = [np.array([f.count(chr(c)) + 0.1 for c in range(97, 123)]) for f in (f"a {name}.", f"many {name}s")]
        mean = sum(p / np.linalg.norm(p) for p in prompts)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-5)


def test_a_random_open_clip_tower_embeds_classes(tmp_path: Path) -> None:
    """The real library, a tiny model of its own kind with random weights from a .safetensors file; twice the same."""
    open_clip = pytest.importorskip("open_clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "edgekd-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "edgekd-tiny.json")
    torch.manual_seed(0)
    weights = tmp_path / "tower.safetensors"
    save_file(open_clip.create_model("edgekd-tiny").state_dict(), weights)
    (tmp_path / "classes.txt").write_text("cat\ndog\nnewt\n")
    one, two = (
        zero_shot.embed_classes(tmp_path / "classes.txt", model="edgekd-tiny", pretrained=str(weights)) for _ in range(2)
    )
    assert one.text_KD.shape == (3, 16)
    assert torch.equal(one.text_KD, two.text_KD)
    assert one.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)
    with pytest.raises(UsageError, match="has no model 'ViT-Z'"):
        zero_shot.embed_classes(tmp_path / "classes.txt", model="ViT-Z", pretrained="openai")
    with pytest.raises(UsageError, match="only \\.safetensors"):
        zero_shot.embed_classes(tmp_path / "classes.txt", model="edgekd-tiny", pretrained="weights.pt")
    with pytest.raises(MachineError, match="cannot be had"):
        zero_shot.embed_classes(tmp_path / "classes.txt", model="edgekd-tiny", pretrained=str(tmp_path / "no.safetensors"))


def test_the_command_writes_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked stands in it; a file that is there already is not written over without a word."""
    from edgekd import students

    monkeypatch.setattr(zero_shot, "_text_tower", lambda *_, **__: (Tower(), tokenise))
    (tmp_path / "classes.txt").write_text("tench\nspaniel\n")
    target = tmp_path / "texts.safetensors"
    (said,) = students.embed_classes(tmp_path / "classes.txt", target, model="m", pretrained="p")
    assert said == f"wrote {target}: 2 classes, 26 wide, logit scale 20"
    with safe_open(target, framework="pt") as file:
        assert json.loads(file.metadata()["templates"]) == ["a photo of a {}."]
    with pytest.raises(UsageError, match="is there already"):
        students.embed_classes(tmp_path / "classes.txt", target, model="m", pretrained="p")
    students.embed_classes(tmp_path / "classes.txt", target, model="m", pretrained="p", templates=("{}",), overwrite=True)
    assert zero_shot.read_texts(target).classes == ("tench", "spaniel")


def test_a_template_without_a_place_is_refused(tmp_path: Path) -> None:
    """Else every class would be the same text."""
    with pytest.raises(UsageError, match="exactly one place"):
        zero_shot.embed_classes(tmp_path / "c.txt", model="m", pretrained="p", templates=("a photo",))


# ------------------------------------------------------------------------------------------------------------------- teacher
CLIP = {"model": "vit_base_patch32_clip_224.openai", "weights": "random", "size": 32}
SMALL = {"model": "vit_tiny_patch16_224", "weights": "random", "size": 32, "precision": "fp32"}


def test_a_teacher_with_texts_answers_with_zero_shot_logits(tmp_path: Path) -> None:
    """`embedding` is what the image tower ends in, `logits` are the scaled cosines, and the spec names the classes."""
    torch.manual_seed(0)
    path = texts_file(tmp_path, width=1000)
    frozen = Teacher(**SMALL, zero_shot=path).load()
    found = frozen.features(torch.rand(2, 3, 32, 32), ("embedding", "logits", "pooled"))
    texts = zero_shot.read_texts(path)
    cosine_BK = torch.nn.functional.cosine_similarity(found["embedding"][:, None], texts.text_KD[None], dim=2)
    torch.testing.assert_close(found["logits"], 100 * cosine_BK, rtol=1e-4, atol=1e-3)
    assert frozen.spec(("logits",)) == FeatureSpec(name=SMALL["model"], shapes={"logits": (3,)}, classes=CLASSES)


def test_half_precision_leaves_the_cosines_in_float32(tmp_path: Path) -> None:
    """The image tower computes in bf16, the head that multiplies by 100 does not."""
    frozen: Any = Teacher(**{**SMALL, "precision": "bf16"}, zero_shot=texts_file(tmp_path, width=1000)).load()
    found = frozen.features(torch.rand(2, 3, 32, 32), ("embedding", "logits"))
    expected = 100 * torch.nn.functional.cosine_similarity(
        found["embedding"][:, None], frozen._tapped.zero_shot.text_KD[None], dim=2
    )
    torch.testing.assert_close(found["logits"], expected, rtol=1e-4, atol=1e-3)


def test_texts_of_another_width_are_refused(tmp_path: Path) -> None:
    """A text tower that does not belong to the image tower is found before training."""
    with pytest.raises(UsageError, match="ends in 1000 outputs, and the texts of `zero_shot` are 6 wide"):
        Teacher(**SMALL, zero_shot=texts_file(tmp_path)).load()


def test_the_classes_and_their_order_are_in_the_caches_key(tmp_path: Path) -> None:
    """The same texts in another order are other answers; a teacher that names no classes keeps its old key."""
    from edgekd.distilling.cache import Cut, Inventory

    def facts(**more: Any) -> dict[str, Any]:
        torch.manual_seed(0)
        inventory = Inventory(ids=("a",), order_N=(0,), sha256="0" * 64)
        cut = Cut(facts={}, views=1, batch=lambda indices, view: torch.zeros(1))
        return key_facts(Teacher(**SMALL, **more).load(), inventory, cut, dtype="fp16", precision="fp32")["teacher"]

    one = facts(zero_shot=texts_file(tmp_path, width=1000))
    other = facts(zero_shot=texts_file(tmp_path, classes=("dog", "cat", "newt"), width=1000))
    assert (one["classes"], other["classes"]) == (["cat", "dog", "newt"], ["dog", "cat", "newt"])
    assert one["zero_shot_sha256"] != other["zero_shot_sha256"]
    assert set(facts()) == {"name", "weights_sha256", "size_px", "precision"}


def test_identity_follows_the_texts_and_is_what_it_was_without(tmp_path: Path) -> None:
    """A run without the new options is not done again; other texts are another teacher and another student."""
    for part in (Teacher, Student):
        plain = part(model="m", weights="random")
        assert "zero_shot" not in plain.identity()["options"]
        with_texts = [part(model="m", weights="random", zero_shot=texts_file(tmp_path, width=w)).identity() for w in (4, 5)]
        assert len({json.dumps(one) for one in (*with_texts, plain.identity())}) == 3


# ------------------------------------------------------------------------------------------------------------------- classes
@pytest.mark.parametrize(
    ("own", "says"),
    [
        (("dog", "cat", "newt"), "in another order: its output 0 is 'dog', the images' class is 'cat'"),
        (("cat", "dog", "eft"), r"knows 3 classes, 1 of them not the images' 3 \(eft\)"),
        (("cat", "dog"), "knows 2 classes, 0 of them not"),
    ],
)
def test_logits_over_other_classes_are_refused(own: tuple[str, ...], says: str) -> None:
    """Names and order, not the number alone; features and probes of the same teacher are no matter."""
    teacher = FeatureSpec(name="vit", shapes={"logits": (len(own),)}, classes=own)
    with pytest.raises(UsageError, match=f"vit.*{says}"):
        check_same((teacher,), CLASSES)
    check_same((FeatureSpec(name="vit", shapes={"pooled": (4,)}, classes=own),), CLASSES)
    check_same((FeatureSpec(name="vit", shapes={"logits": (7,)}),), CLASSES)


def test_classes_come_from_a_list_a_file_or_nowhere(tmp_path: Path) -> None:
    """As a recipe gives them."""
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert named_classes(("a", "b")) == ("a", "b")
    assert named_classes(tmp_path / "names.txt") == ("cat", "dog")
    assert named_classes(None) == ()
    with pytest.raises(UsageError, match="twice"):
        named_classes(("a", "a"))
    with pytest.raises(UsageError, match="has 1000 outputs, and `classes` names 2"):
        Teacher(**SMALL, classes=("a", "b")).load()


# ------------------------------------------------------------------------------------------------------------------- student
def test_a_student_keeps_its_zero_shot_head_through_disk_and_deployment(tmp_path: Path) -> None:
    """Restored from its weights alone (the texts are in them) and folded for export, it gives its own zero-shot logits."""
    torch.manual_seed(0)
    path = texts_file(tmp_path, logit_scale="12.5")
    part = Student(model="test_efficientnet", weights="random", size=32, zero_shot=path)
    student = part.build(3).eval()
    assert student.class_names == CLASSES
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = student.features(image, ("embedding", "logits"))
    assert found["embedding"].shape == (2, WIDTH)
    assert float(found["logits"].abs().max()) <= 12.5
    save_file(student.model.state_dict(), tmp_path / "w.safetensors")
    path.unlink()
    restored = part.restore(3, tmp_path / "w.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(restored.features(image, ("logits",))["logits"], found["logits"])
        torch.testing.assert_close(part.exportable(restored)(image), found["logits"], rtol=1e-3, atol=1e-3)
    bare, call = part.without_head(restored)
    assert bare(image).shape == (2, student.head.in_features)
    assert "num_classes=0" in call


def test_texts_of_another_number_of_classes_are_refused(tmp_path: Path) -> None:
    """Before anything is built."""
    with pytest.raises(UsageError, match="texts of 3 classes, and the images have 5"):
        Student(model="test_efficientnet", weights="random", zero_shot=texts_file(tmp_path)).build(5)
