"""The jobs as far as Django's admin is concerned: a name and permissions, and no table."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models.functions import Now


class _Nothing(models.Manager):
    """No rows, for all that goes through the models of a project, such as dumpdata."""

    def get_queryset(self) -> Any:
        """None of them."""
        return super().get_queryset().none()


class Job(models.Model):
    """
    A job in Redis. The admin's pages read Redis; the rights on them are `view_job`, `change_job` (requeue and cancel), and
    `view_arguments`, without which arguments, results and checkpoints are not shown.
    """

    id = models.CharField(primary_key=True, max_length=256)
    objects = _Nothing()

    class Meta:
        """There is nothing of it in the database."""

        managed = False
        base_manager_name = "objects"
        default_permissions = ("view", "change")
        permissions = (("view_arguments", "Can see what jobs are given and return"),)
        verbose_name = "job"
        verbose_name_plural = "jobs"

    def __str__(self) -> str:
        return str(self.id)


class OutboxRow(models.Model):
    """A job that waits in the database for the relay, with ENQUEUE="outbox"; written and read by tracked_queue.outbox."""

    job_id = models.CharField(max_length=256)
    namespace = models.CharField(max_length=256)
    payload = models.BinaryField()
    format = models.SmallIntegerField()
    created_at = models.DateTimeField(db_default=Now())
    problem = models.TextField(null=True)

    class Meta:
        """The table that tracked_queue.outbox knows."""

        db_table = "tracked_queue_outbox"
        default_permissions = ()
