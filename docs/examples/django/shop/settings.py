import os
from pathlib import Path

import django

SECRET_KEY = os.environ.get("SECRET_KEY", "only for this example")
DEBUG = False
USE_TZ = True
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent.parent / "shop.sqlite3"},
}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "orders", "tracked_queue.django"]
if django.VERSION < (6, 0):
    INSTALLED_APPS.append("django_tasks")  # part of Django from 6.0 on
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TASKS = {
    "default": {
        "BACKEND": "tracked_queue.django.TrackedQueueBackend",
        "QUEUES": ["default", "mail"],
        # Where Redis is comes from REDIS_URL, unless "redis_url" stands here.
        "OPTIONS": {"namespace": "shop"},
    }
}
