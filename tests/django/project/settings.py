"""A small Django project; where its database and its Redis are stands in the environment."""

from __future__ import annotations

import json
import os

SECRET_KEY = "of a test"
USE_TZ = os.environ.get("TEST_USE_TZ", "1") == "1"
TIME_ZONE = "Europe/Berlin"
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": json.loads(os.environ["TEST_DATABASE"])}
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "tests.django.project.shop",
    "tracked_queue.django",
]
try:
    import django.tasks  # noqa: F401
except ImportError:
    INSTALLED_APPS.append("django_tasks")
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "tests.django.project.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TASKS = {
    "default": {
        "BACKEND": "tracked_queue.django.TrackedQueueBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": {
            "redis_url": os.environ["TEST_REDIS"],
            "namespace": os.environ["TEST_NAMESPACE"],
            "heartbeat_interval": 0.2,
            "heartbeat_ttl": 2.0,
            "block": 0.5,
            "concurrency": 100,
            "threads": 8,
        },
    },
    "outbox": {
        "BACKEND": "tracked_queue.django.TrackedQueueBackend",
        "OPTIONS": {
            "redis_url": os.environ["TEST_REDIS"],
            "namespace": os.environ["TEST_NAMESPACE"] + "outbox",
            "ENQUEUE": "outbox",
            "heartbeat_interval": 0.2,
        },
    },
    "celery": {
        "BACKEND": "tracked_queue.django.TrackedQueueBackend",
        "OPTIONS": {
            "redis_url": os.environ["TEST_REDIS"],
            "namespace": os.environ["TEST_NAMESPACE"] + "celery",
            "heartbeat_interval": 0.2,
            "TASK_MODULES": ["celery_tasks"],
            "CELERY": True,
        },
    },
    "plain": {
        "BACKEND": "tracked_queue.django.TrackedQueueBackend",
        "QUEUES": [],
        "OPTIONS": {
            "redis_url": os.environ["TEST_REDIS"],
            "namespace": os.environ["TEST_NAMESPACE"] + "plain",
            "ENQUEUE": "now",
            "TASK_OPTIONS": {"max_attempts": 2, "retry": [0.01]},
        },
    },
}
CELERY_BEAT_SCHEDULE = {"pulse": {"task": "pulse", "schedule": 1.0}}
CELERY_TIMEZONE = "Europe/Berlin"
