"""What is read and told: one event loop is enough; the suites of the worker and the client run on both."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> Any:
    return "asyncio", {"use_uvloop": True}
