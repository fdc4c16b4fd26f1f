"""docs/how-to/django.md: what it prints is a project, whose own test passes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.django.conftest import redis_server
from tests.django.versions import task

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "django.md"
MODELS = """
from django.db import models

class Order(models.Model):
    item = models.CharField(max_length=50)

class Receipt(models.Model):
    order_id = models.IntegerField()
"""
SERVICES = """
from django.db import transaction
from .models import Order
from .tasks import write_receipt

def place_order(item):
    with transaction.atomic():
        write_receipt.enqueue(order_id=Order.objects.create(item=item).pk)
"""


def test_the_page_is_a_project(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    settings, first, options, schedule, tests = blocks
    assert settings.startswith("# settings.py") and "QueueTestMixin" in tests and "@app.cron" in schedule
    if not task.__module__.startswith("django."):
        first, options = (
            text.replace("from django.tasks import", "from django_tasks import") for text in (first, options)
        )
    first = first.replace(
        "def write_receipt(order_id): ...",
        "def write_receipt(order_id):\n    Receipt.objects.create(order_id=order_id)",
    )
    app = tmp_path / "orders"
    app.mkdir()
    (app / "__init__.py").write_text("")
    (app / "models.py").write_text(MODELS)
    (app / "tasks.py").write_text("\n".join(["from .models import Order, Receipt", first, options, schedule]))
    (app / "services.py").write_text(SERVICES)
    (app / "tests.py").write_text(
        "from .models import Receipt\nfrom .services import place_order\nfrom .tasks import write_receipt\n" + tests
    )
    settings = settings.replace("# ...", '"django.contrib.contenttypes", "orders",').replace(
        "redis://localhost:6379/0", redis_server.url
    )
    (tmp_path / "page_settings.py").write_text(
        f"SECRET_KEY = 'x'\nDEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'\nDATABASES = {{'default': {{'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'db'}}}}\n{settings}"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TEST_", "DJANGO_", "PYTEST_"))}
    for command in (
        ["check", "--fail-level", "WARNING"],
        ["test", "orders"],
        ["tracked_queue", "queues"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "django", *command],
            cwd=tmp_path, env=env | {"DJANGO_SETTINGS_MODULE": "page_settings", "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        assert command[0] != "test" or "Ran 1 test" in done.stderr
