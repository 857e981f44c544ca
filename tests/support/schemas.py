"""Documents against the schemas of others; their libraries take seconds to import, so late."""

import json
from typing import Any

from tests.conftest import ROOT


def is_bill_of_materials(text: str) -> bool:
    """Say whether a text is CycloneDX 1.6, strictly."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def check_schema(value: Any, schema: Any) -> None:
    """Hold a value against a JSON schema."""
    import jsonschema  # type: ignore[import-untyped]

    jsonschema.validate(value, schema)


def check_health_report(report: Any) -> None:
    """Hold what `health --json` prints against the schema in the docs."""
    check_schema(report, json.loads((ROOT / "docs/reference/health.schema.json").read_text()))
