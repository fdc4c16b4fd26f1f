"""The permissions on jobs, and the outbox's table."""

from __future__ import annotations

from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    """A model without a table that the admin's permissions hang on, and the rows of ENQUEUE="outbox"."""

    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Job",
            fields=[("id", models.CharField(max_length=256, primary_key=True, serialize=False))],
            options={
                "verbose_name": "job",
                "verbose_name_plural": "jobs",
                "permissions": (("view_arguments", "Can see what jobs are given and return"),),
                "managed": False,
                "base_manager_name": "objects",
                "default_permissions": ("view", "change"),
            },
        ),
        migrations.CreateModel(
            name="OutboxRow",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("job_id", models.CharField(max_length=256)),
                ("namespace", models.CharField(max_length=256)),
                ("payload", models.BinaryField()),
                ("format", models.SmallIntegerField()),
                ("created_at", models.DateTimeField(db_default=Now())),
                ("problem", models.TextField(null=True)),
            ],
            options={"db_table": "tracked_queue_outbox", "default_permissions": ()},
        ),
    )
