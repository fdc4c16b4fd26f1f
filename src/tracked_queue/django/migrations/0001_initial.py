"""The permissions on jobs; no table."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    """The model without a table that the admin's permissions hang on."""

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
                "default_permissions": ("view", "change"),
            },
        ),
    )
