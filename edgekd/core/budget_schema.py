"""The JSON Schema of budgets files, for editors and for other programs; `edgekd gate --schema` prints it."""

import json
from typing import Any, cast

from edgekd.core import parts
from edgekd.core.budgets import BudgetsFile, Header
from edgekd.core.contracts import Budget

IDENTIFIER = "https://edgekd.dev/budgets.schema.json"


def schema(families: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return the schema of a budgets file with these families of metrics, by default all that are installed."""
    whole = BudgetsFile.model_json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = whole.setdefault("$defs", {})
    kinds = []
    for family in families or parts.names("budget"):
        cls = cast(type[Budget], parts.load("budget", family))
        kinds.append({"$ref": f"#/$defs/budget.{family}"})
        definitions[f"budget.{family}"] = _budget(family, cls, definitions)
    whole["properties"]["budgets"]["items"] = {"oneOf": kinds}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": IDENTIFIER, **whole}


def text(families: tuple[str, ...] | None = None) -> str:
    """Return the schema as the file `budgets.schema.json` has it."""
    return json.dumps(schema(families), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _budget(family: str, cls: type[Budget], definitions: dict[str, Any]) -> dict[str, Any]:
    own = cls.model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(own.pop("$defs", {}))
    header = Header.model_json_schema(ref_template="#/$defs/{model}")
    header["properties"]["metric"] = {"enum": list(cls.metrics or (family,)), "type": "string"}
    return {
        "additionalProperties": False,
        "description": (cls.__doc__ or "").partition("\n")[0],
        "properties": {**own.get("properties", {}), **header["properties"]},
        "required": ["metric", *(name for name in own.get("required", []) if name != "metric")],
        "title": cls.__name__,
        "type": "object",
    }
