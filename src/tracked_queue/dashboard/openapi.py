"""What `/api` answers, as an OpenAPI document: made from the pages' parameters and the types of their contents."""

from __future__ import annotations

from typing import Any

import msgspec

from ..operator.many import MANY_ACTIONS
from .access import ACTIONS, LEAST, READING
from .desk import Done
from .pages import PAGES
from .pages.bulk import BULK_PARAMS
from .pages.page import Param

_ERRORS = {
    "400": "What was asked for is not what it should be.",
    "401": "It is not known who asks.",
    "403": "They may not do this, or another site sent the request.",
    "404": "There is no such thing, or it is not for them to see.",
    "405": "Only GET and POST are answered.",
    "409": "It can't be done as things are.",
    "429": "Too many attempts to log in.",
    "503": "Redis does not answer.",
}


def document(base: str = "", read_only: bool = False) -> dict[str, Any]:
    """The document, for what is below `base`; without what changes something where nothing may be changed."""
    types = [page.answer for page in PAGES.values()] + [Done]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {}
    for page, schema in zip(PAGES.values(), schemas, strict=False):
        paths[f"/api{page.path}"] = {
            "get": {
                "summary": page.doc,
                "operationId": page.path.strip("/").replace("/", "_") or "home",
                "parameters": [_parameter(one) for one in page.params],
                "responses": _responses(schema),
            }
        }
    if not read_only:
        for action in ACTIONS:
            if action not in READING:
                paths[f"/api/act/{action}"] = {"post": _act(action, schemas[-1])}
        paths["/api/bulk/start"] = {
            "post": {
                "summary": "Begin a bulk action; above 100 of them, `typed` and `counted` must both be their number.",
                "operationId": "bulk_start",
                "parameters": [
                    *(_parameter(one) for one in BULK_PARAMS),
                    _parameter(Param(name="counted", doc="How many the plan found.")),
                    _parameter(Param(name="typed", doc="The same, typed by a person.")),
                ],
                "responses": _responses(schemas[-1]),
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tracked_queue dashboard",
            "version": "1",
            "description": (
                "Each page as JSON, and what can be done on them. Times are ISO 8601, durations seconds. Whole numbers beyond "
                '2^53 in arguments and results, NaN and the infinities are text; bytes are {"base64": ...}.'
            ),
        },
        "servers": [{"url": base or "/"}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _error()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _error() -> dict[str, Any]:
    return {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def _parameter(one: Param) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "maxLength": one.length}
    if one.words:
        schema = {"type": "string", "enum": list(one.words)}
    elif one.most is not None:
        schema = {"type": "integer", "minimum": one.least or 0, "maximum": one.most}
    if one.default is not None:
        schema["default"] = one.default
    return {"name": one.name, "in": "query", "required": one.needed, "description": one.doc, "schema": schema}


def _responses(schema: Any) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": {"description": "Done.", "content": {"application/json": {"schema": schema}}},
        **{code: {"description": said, "content": error} for code, said in _ERRORS.items()},
    }


def _act(action: Any, done: Any) -> dict[str, Any]:
    about_jobs = action in MANY_ACTIONS
    fields: dict[str, Any] = {"name": {"type": "string"}, "id": {"type": "string"}}
    if about_jobs:
        fields = {"ids": {"type": "array", "items": {"type": "string"}, "maxItems": 250}}
    return {
        "summary": f"{action.replace('_', ' ').capitalize()}: for role {LEAST[action].value} and above.",
        "operationId": f"act_{action}",
        "requestBody": {"content": {"application/json": {"schema": {"type": "object", "properties": fields}}}},
        "responses": {
            **_responses(done),
            "409": {
                "description": "Not all of it was done.",
                "content": {"application/json": {"schema": {"oneOf": [done, {"$ref": "#/components/schemas/Error"}]}}},
            },
        },
    }
