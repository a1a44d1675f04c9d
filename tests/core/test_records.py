"""Records: JSON round trip, schema numbers, digests, and what is refused on the way in."""

import hashlib
import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import hypothesis
import pytest
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from edgekd.core import records, side_records, store
from edgekd.core.errors import IntegrityError
from edgekd.core.parts import PartRef
from edgekd.core.records import Accuracy, Artifact, FileRef, Finding, Fingerprint, MadeBy, Parity, Record, Verdict
from edgekd.core.side_records import RECORDS

TEXT = st.text(max_size=8)
WHOLE = st.integers(-(2**53), 2**53)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | WHOLE | FLOAT | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=3,
)
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: WHOLE,
    float: FLOAT,
    bool: st.booleans(),
    Any: JSON,
    types.NoneType: st.none(),
}


def anything(annotation: Any) -> st.SearchStrategy[Any]:
    """Return the values that a record's field of this type can have."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([anything(argument) for argument in arguments])
    if origin is tuple and arguments[-1] is ...:
        return st.lists(anything(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(anything, arguments))
    if origin is dict:
        return st.dictionaries(anything(arguments[0]), anything(arguments[1]), max_size=2)
    assert issubclass(annotation, BaseModel), annotation
    return of_kind(annotation)


def of_kind(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    fields = {name: anything(field.annotation) for name, field in model.model_fields.items()}
    if model is Fingerprint:
        return st.builds(Fingerprint.of, fields["fields"])
    if model is not Artifact:
        return st.builds(model, **fields)
    ran = {"parity": of_kind(Parity), "accuracy": of_kind(Accuracy), "not_executed": st.just("")}
    did_not = {"parity": st.none(), "accuracy": st.none(), "not_executed": SIMPLE[str].filter(bool)}
    return st.one_of(st.builds(model, **fields | ran), st.builds(model, **fields | did_not))


SMALL = Verdict(
    made_by=MadeBy(version="1"),
    outcome="fail",
    exit_code=1,
    findings=(
        Finding(
            budget="size",
            subject="a",
            value=2.5,
            limit=2.0,
            bound="at most",
            unit="MB",
            outcome="fail",
            because="2.5 > 2",
        ),
    ),
)


@pytest.mark.parametrize("kind", sorted(RECORDS))
def test_a_record_comes_back_from_json_as_it_was(kind: str) -> None:
    """Every kind, any values: the record, its digest and its text are the same after the way over the disk."""

    @hypothesis.settings(max_examples=15, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(of_kind(RECORDS[kind]))
    def check(record: Record) -> None:
        text = record.to_json()
        again = RECORDS[kind].from_json(text.encode("utf-8"))
        assert again == record
        assert again.to_json() == text
        assert again.digest() == record.digest() == json.loads(text)["digest"]

    check()


@pytest.mark.parametrize("kind", sorted(RECORDS))
def test_the_digest_is_of_the_facts_and_not_of_who_made_them(kind: str) -> None:
    """Another `made_by` changes nothing; another value of any field does."""
    fields = sorted(set(RECORDS[kind].model_fields) - {"made_by"})

    @hypothesis.settings(max_examples=10, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(st.data())
    def check(data: st.DataObject) -> None:
        record = data.draw(of_kind(RECORDS[kind]))
        assert record.model_copy(update={"made_by": MadeBy(version="x", at="y")}).digest() == record.digest()
        field = data.draw(st.sampled_from(fields))
        other = record.model_copy(update={field: getattr(data.draw(of_kind(RECORDS[kind])), field)})
        same = other.model_dump_json(exclude={"made_by"}) == record.model_dump_json(exclude={"made_by"})
        assert (other.digest() == record.digest()) == same

    check()


def test_the_digest_is_the_sha256_of_the_canonical_json() -> None:
    """A known text, so that a digest written today is understood by a later version."""
    text = (
        '{"budgets_file":"","exit_code":1,"findings":[{"against":"","alpha":null,"arithmetic":[],"because":"2.5 > 2",'
        '"bound":"at most","budget":"size","high":null,"id":"","images":null,"level":"error","limit":2.0,"line":null,'
        '"low":null,"metric":"","needs":"","outcome":"fail","p_value":null,"pairs":null,"subject":"a","tolerated":false,'
        '"unit":"MB","value":2.5,"waived":null}],"from":{},"outcome":"fail","record":"verdict"}'
    )
    assert SMALL.digest() == hashlib.sha256(text.encode()).hexdigest()


def test_canonical_json_does_not_depend_on_order_or_spacing() -> None:
    """Keys are sorted at every level, and everything is ASCII."""
    assert records.canonical_json({"b": [1.0, None], "a": {"d": "é", "c": True}}) == (
        b'{"a":{"c":true,"d":"\\u00e9"},"b":[1.0,null]}'
    )
    assert records.digest_of({"a": 1, "b": 2}) == records.digest_of({"b": 2, "a": 1})


def leaves(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, inner in pairs for leaf in leaves(inner, (*at, key))]
    return [at]


def changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else "pass"


@pytest.mark.parametrize("at", leaves(json.loads(SMALL.to_json())), ids=str)
def test_a_value_changed_by_hand_is_noticed(at: tuple[Any, ...]) -> None:
    """Every single value of the file; only `made_by`, which is no fact, may be edited."""
    data = json.loads(SMALL.to_json())
    holder = data
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = changed(holder[at[-1]])
    if at[0] == "made_by":
        assert Verdict.from_json(json.dumps(data)).digest() == SMALL.digest()
    else:
        with pytest.raises(IntegrityError):
            Verdict.from_json(json.dumps(data))


def edited(**changes: Any) -> str:
    return json.dumps({**json.loads(SMALL.to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "F: not JSON: "),
        ("{", "F: not JSON: "),
        (b"\xff\xfe\xfa", "F: not JSON: "),
        ("[" * 100_000, "F: not JSON: "),
        ("[]", "F: not a verdict record"),
        ("{}", "F: not a verdict record"),
        (edited(record="report"), "F: not a verdict record"),
        (edited(schema=1), "F: verdict schema 1, this edgekd reads 2"),
        (edited(schema=None), "F: verdict schema None, this edgekd reads 2"),
        (edited(digest=None), "F: the digest inside does not match its content"),
        (edited(digest="0" * 64), "F: the digest inside does not match its content"),
        (edited(extra=1), "F: not a valid verdict record: extra: Extra inputs are not permitted"),
        (edited(findings=[{}]), "F: not a valid verdict record: findings.0.budget: Field required"),
        (edited(outcome="ok"), "F: not a valid verdict record: outcome: Input should be 'pass', "),
        (edited(made_by={}), "F: not a valid verdict record: made_by.version: Field required"),
    ],
)
def test_what_is_no_sound_record_is_refused(text: str | bytes, message: str) -> None:
    """One line that names the file and what is wrong, and the exit code of an integrity refusal."""
    with pytest.raises(IntegrityError) as caught:
        Verdict.from_json(text, where="F")
    assert caught.value.message.startswith(message)
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 5


def test_many_mistakes_are_cut_short() -> None:
    """Three are enough to see what happened."""
    with pytest.raises(IntegrityError, match=r"findings\.0\.unit|and 5 more$"):
        Verdict.from_json(edited(findings=[{}]))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("place", ['"value": 2.5', '"limit": 2.0'])
def test_numbers_that_are_not_finite_are_refused(number: str, place: str) -> None:
    """JSON has no such numbers, and no budget can be judged with them."""
    text = SMALL.to_json()
    assert place in text
    with pytest.raises(IntegrityError):
        Verdict.from_json(text.replace(place, f"{place.partition(':')[0]}: {number}"))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused_inside_a_parts_options(number: str) -> None:
    """Options are free-form, so the digest is where they are found out."""

    class Sample(Record):
        kind = "sample"
        part: PartRef

    sound = Sample(made_by=MadeBy(version="1"), part=PartRef(use="x", options={"size": 1}))
    with pytest.raises(IntegrityError, match="the digest inside does not match"):
        Sample.from_json(sound.to_json().replace('"size": 1', f'"size": {number}'))


def test_a_record_that_is_not_finite_cannot_be_made() -> None:
    """The mistake is found where it is made, not by the next reader."""
    with pytest.raises(ValidationError, match="finite"):
        Finding(budget="b", subject="s", value=float("nan"), limit=0, bound="at most", unit="", outcome="error", because="")


def test_a_file_name_that_is_not_utf8_survives(tmp_path: Path) -> None:
    """Linux allows any bytes in a name; Python shows them as lone surrogates, which UTF-8 cannot hold."""
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    finding = SMALL.findings[0].model_copy(update={"subject": name})
    record = SMALL.model_copy(update={"findings": (finding,)})
    store.write_record(tmp_path / "verdict.json", record)
    assert store.read_record(Verdict, tmp_path / "verdict.json") == record
    record.to_json().encode("utf-8")


def test_text_beyond_ascii_stays_readable_on_disk() -> None:
    """A person opening the file sees the class names."""
    assert "Müller 漢字" in SMALL.model_copy(update={"made_by": MadeBy(version="Müller 漢字")}).to_json()


def test_records_cannot_be_changed() -> None:
    """A fact is a fact."""
    with pytest.raises(ValidationError, match="frozen"):
        SMALL.outcome = "pass"  # type: ignore[misc]


def test_every_record_can_be_found_by_its_kind() -> None:
    """A new record cannot be forgotten in the register, nor take another's name."""
    everything = [*vars(records).values(), *vars(side_records).values()]
    own = {cls for cls in everything if isinstance(cls, type) and issubclass(cls, Record) and cls is not Record}
    assert own == set(RECORDS.values())
    assert all(RECORDS[kind].kind == kind for kind in RECORDS)


def test_shares_are_right_answers_over_images() -> None:
    """Counts are stored, shares are worked out; top-5 is unknown where there are not enough classes."""
    predictions = FileRef(path="p", size_bytes=0, sha256="")
    accuracy = Accuracy(images=8, top1_correct=6, top5_correct=7, predictions=predictions)
    assert (accuracy.top1, accuracy.top5) == (0.75, 0.875)
    assert accuracy.model_copy(update={"top5_correct": None}).top5 is None
    parity = Parity(
        images=4,
        max_abs=0,
        mean_abs=0,
        logit_cosine_mean=1,
        logit_cosine_min=1,
        top1_agreements=3,
        flips=(),
    )
    assert parity.top1_agreement == 0.75


def test_an_artifact_is_called_after_its_backend_and_precision() -> None:
    """The name is the artifact's folder."""
    artifact = Artifact.model_construct(backend=PartRef(use="onnxruntime"), precision="fp16")
    assert artifact.name == "onnxruntime-fp16"
